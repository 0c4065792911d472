//! The jail: what is left of the host for the process that runs a guest.
//!
//! [`enter`] is called once, after every descriptor is open and before a second thread or any
//! guest code runs. It gives up, in an order in which each step still has the privilege it needs:
//!
//! ```text
//! started as root:                              started without root:
//!   mount, net, ipc, uts, cgroup namespaces       user namespace (maps the own uid only)
//!   empty read-only root                          mount, net, ipc, uts, cgroup namespaces
//!   groups, gid, uid (capabilities kept)          empty read-only root
//!   user namespace (maps that uid only)
//!   both: capabilities, limits, no_new_privs, W^X, no merging of pages, death with the parent, Landlock
//! ```
//!
//! Started as root, the other namespaces belong to the host's user namespace: even full
//! capabilities in the own user namespace would give no power over them.
//!
//! **Invariant:** what does not hold is an error, never a weaker jail. The only exceptions are
//! features that the running kernel lacks; the report names each.
//!
//! The PID namespace is the starter's work (a process can't enter a new one itself). The parent
//! death signal follows the *thread* that started the process, so that thread must live on.

mod capabilities;
mod error;
mod host;
mod identity;
mod landlock;
mod layer;
mod limits;
mod namespaces;
mod report;
mod root;
mod sys;

use hull_vm_config::JailConfig;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{umask, Mode};

pub use error::JailError;
pub use layer::Layer;
pub use report::JailReport;

use error::Attempt;
use host::HostView;
use identity::Privilege;

/// Enters the jail and reports what holds, as the kernel tells it afterwards.
///
/// # Errors
/// The first thing that does not hold. The process is then partly jailed and must end.
pub fn enter(config: &JailConfig) -> Result<JailReport, JailError> {
    let host = HostView::open()?;
    host.refuse_unsafe_start()?;
    let privilege = Privilege::of_this_process(config)?;
    match privilege {
        Privilege::Root => {
            namespaces::unshare_all_but_user()?;
            root::pivot_to_empty()?;
            identity::change_to(config)?;
            namespaces::unshare_user(&host, config)?;
        }
        Privilege::None => {
            namespaces::unshare_user(&host, config)?;
            namespaces::unshare_all_but_user()?;
            root::pivot_to_empty()?;
        }
    }
    capabilities::drop_all()?;
    limits::apply()?;
    umask(Mode::from_bits_truncate(0o077));
    prctl::set_no_new_privs().attempt("set no_new_privs")?;
    prctl::set_dumpable(false).attempt("make the process undumpable")?;
    let write_xor_execute = sys::refuse_exec_gain().attempt("refuse executable memory")?;
    sys::refuse_merging().attempt("keep the memory from being merged with others'")?;
    // After the last change of credentials: each one clears it.
    prctl::set_pdeathsig(Signal::SIGKILL).attempt("set the parent death signal")?;
    host.refuse_orphan()?;

    let mut report = report::read_back(&host, config, privilege, write_xor_execute)?;
    drop(host);
    report.add_landlock(landlock::deny_all()?)?;
    Ok(report)
}
