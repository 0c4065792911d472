//! `create` and `run`.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};

use super::cgroup::{self, Home};
use super::cli::{CreateArgs, RunArgs};
use super::client::{address_of, ShimName, Task};
use super::error::{io_error, Result, RuntimeError};
use super::foreground::{self, Signals};
use super::store::{sandbox_id, Joined, Record, VmName};
use super::streams::{random_name, send_pidfd, write_pid_file, Offer, Place, Size, Wanted};
use super::Context;
use crate::cgroup::Cgroup;
use crate::holder::Network;
use crate::lower::check_contradictions;
use crate::shared_network;
use crate::spec::{capabilities, RootfsMount};

/// Largest config.json, in bytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Name of a bundle's configuration.
pub(super) const CONFIG_FILE: &str = "config.json";

/// A container that was made, and its shim.
struct Made {
    record: Record,
    task: Task,
    offer: Offer,
}

/// `create`.
pub(super) async fn create(context: &Context, args: &CreateArgs) -> Result<u8> {
    let id = super::only_id(&args.id.id)?;
    let made = make(context, id, args, true).await;
    let made = made.map_err(RuntimeError::in_command("create"))?;
    made.offer.leave();
    Ok(0)
}

/// `run`. The exit status is the process's.
pub(super) async fn run(context: &Context, args: &RunArgs) -> Result<u8> {
    let wrapped = RuntimeError::in_command;
    let id = super::only_id(&args.create.id.id)?;
    // Before anything is made that the end of this program would leave behind.
    let signals = (!args.detach).then(Signals::catch).transpose()?;
    let made = make(context, id, &args.create, args.detach).await;
    let made = made.map_err(wrapped("run"))?;
    let terminal = made.terminal(args.detach);
    if let Err(error) = made.task.start("").await {
        super::control::destroy(context, &made.record, Some(&made.task)).await?;
        return Err(wrapped("run")(error));
    }
    let Some(signals) = signals else {
        made.offer.leave();
        return Ok(0);
    };
    let status = foreground::attend(&made.task, "", terminal, signals).await?;
    if !args.keep {
        context.log.debug(&format!("deleting container {id}"));
        super::control::destroy(context, &made.record, Some(&made.task)).await?;
    }
    Ok(status)
}

impl Made {
    /// Whether this program's own terminal is the container's.
    fn terminal(&self, detached: bool) -> bool {
        !detached && self.record.terminal
    }
}

async fn make(context: &Context, id: &str, args: &CreateArgs, detached: bool) -> Result<Made> {
    let pid_file = absolute(args.pid_file.as_deref())?;
    let pidfd_socket = absolute(args.pidfd_socket.as_deref())?;
    let console_socket = absolute(args.console_socket.as_deref())?;
    let bundle = enter_bundle(args.bundle.as_deref())?;
    let (spec, unknown) = load_spec(&bundle)?;
    if !unknown.is_empty() {
        context.log.warn(&capabilities::warning(&unknown));
    }
    check_spec(&spec)?;
    let sets = spec.process().as_ref();
    let sets = sets.and_then(|process| process.capabilities().as_ref());
    for warning in capabilities::ambient_warnings(sets) {
        context.log.warn(&warning);
    }
    context.store.directory(id)?;
    let preserved = context.inherited.take().check()?;
    let wanted = wanted(&spec, console_socket, detached);
    wanted.check()?;
    let rootfs = rootfs_path(&bundle, &spec)?;
    super::control::sweep(context).await;
    let cgroup = cgroup::of(&spec, id, context.systemd_cgroup)?;
    let relative = cgroup.as_ref().map(Cgroup::relative);
    let namespace = context.store.namespace();
    let vm = vm_name(context, id, &namespace, &spec).await;
    let claim = context.store.claim(id, relative, &vm)?;
    if let Some(cgroup) = &cgroup {
        cgroup::check_free(cgroup, context.store.has_vm_alone_in(cgroup.relative()))?;
    }
    let process = spec.process().as_ref();
    let place = Place {
        arguments: process.and_then(|it| it.args().clone()).unwrap_or_default(),
        network: Network::of(&spec),
        root: Some(rootfs.clone()),
    };
    let home = cgroup
        .map(|cgroup| Home::make(cgroup, &spec, !vm.joined))
        .transpose()?;
    let door = home.as_ref().map(Home::door).transpose()?.flatten();
    let offer = wanted.open(&context.exec_root, place, preserved, door)?;

    let sandbox_id = vm.sandbox(id);
    let shim = ShimName {
        namespace: &namespace,
        sandbox_id: &sandbox_id,
        directory: claim.directory(),
        debug: context.debug,
    };
    let address = match vm.joined {
        true => shim.address(&context.exec_root),
        false => shim.start()?,
    };
    let Some(task) = Task::connect(id, &address).await else {
        if !vm.joined {
            let _ = shim.delete();
        }
        return Err(RuntimeError::Shim(format!("no shim answers at {address}")));
    };
    let created = async {
        if let (Some(home), Some(pid)) = (&home, offer.holder_pid()) {
            home.add(pid)?;
        }
        let mounts = rootfs_mounts(&rootfs);
        let pid = task.create(&bundle, &mounts, &offer.streams).await?;
        if let Some(home) = home.as_ref().filter(|_| !vm.joined) {
            home.add(task.shim_pid().await?)?;
        }
        let record = Record {
            oci_version: spec.version().clone(),
            id: id.to_owned(),
            bundle: bundle.clone(),
            rootfs: rootfs.clone(),
            created: jiff::Timestamp::now().to_string(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            terminal: terminal_of(&spec),
            cgroup: home.as_ref().map(|home| home.relative().to_owned()),
            sandbox: vm.sandbox.clone(),
            joined: vm.joined.then(|| Joined {
                cgroup: context.store.cgroup_of(&address),
            }),
            address: address.clone(),
            pid,
        };
        if let Some(socket) = &pidfd_socket {
            send_pidfd(socket, pid)?;
        }
        finish(pid_file.as_deref(), claim, record)
    };
    match created.await {
        Ok(record) => {
            home.into_iter().for_each(Home::keep);
            Ok(Made {
                record,
                task,
                offer,
            })
        }
        Err(error) => {
            // What others have is left to them.
            let _ = task.delete("").await;
            task.shutdown(!vm.joined).await;
            Err(error)
        }
    }
}

/// The VM of a new container: another one's, if it shares its network, or else a new one. That can't
/// have the usual name while others are in the VM of an earlier container with this id.
async fn vm_name(context: &Context, id: &str, namespace: &str, spec: &Spec) -> VmName {
    if let Some(sandbox) = shared_network::find(&context.exec_root, namespace, spec) {
        return VmName {
            sandbox: Some(sandbox),
            joined: true,
        };
    }
    let usual = sandbox_id(id);
    let address = address_of(&context.exec_root, namespace, &usual);
    let taken = match Task::connect(id, &address).await {
        Some(task) => task.vm_lives().await,
        None => false,
    };
    let other = taken.then(random_name).and_then(Result::ok);
    VmName {
        sandbox: other.map(|random| format!("again-{random}")),
        joined: false,
    }
}

fn finish(pid_file: Option<&Path>, claim: super::store::Claim, record: Record) -> Result<Record> {
    if let Some(path) = pid_file {
        write_pid_file(path, record.pid)?;
    }
    claim.keep(&record)?;
    Ok(record)
}

/// A path of the command line, before the working directory changes.
fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>> {
    path.map(|path| std::path::absolute(path).map_err(io_error("find", path)))
        .transpose()
}

/// The bundle's directory, which becomes the working directory: paths in it may be relative.
fn enter_bundle(bundle: Option<&Path>) -> Result<PathBuf> {
    let bundle = bundle.unwrap_or(Path::new("."));
    std::env::set_current_dir(bundle).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        RuntimeError::Usage(format!("chdir {}: {reason}", bundle.display()))
    })?;
    std::env::current_dir().map_err(io_error("find", bundle))
}

/// Reads a bundle's configuration, and the unknown capabilities that were left out of it.
pub(super) fn load_spec(bundle: &Path) -> Result<(Spec, Vec<String>)> {
    let path = bundle.join(CONFIG_FILE);
    let metadata = std::fs::metadata(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            RuntimeError::Usage(format!("JSON specification file {CONFIG_FILE} not found"))
        }
        _ => io_error("read", &path)(error),
    })?;
    if !metadata.is_file() || MAX_CONFIG_BYTES < metadata.len() {
        let text = format!("{path:?} is no file of at most {MAX_CONFIG_BYTES} bytes");
        return Err(RuntimeError::Usage(text));
    }
    let text = std::fs::read(&path).map_err(io_error("read", &path))?;
    capabilities::parse_spec(&text).map_err(|source| RuntimeError::Config {
        what: path.display().to_string(),
        source,
    })
}

/// What no runtime can run, in runc's words.
fn check_spec(spec: &Spec) -> Result<()> {
    let refused = |text: String| Err(RuntimeError::Usage(text));
    let version = spec.version();
    if !is_version_1(version) {
        return refused(format!(
            "unsupported ociVersion {version:?}: this program knows 1.0.0 to {}",
            super::spec::SPEC_MAX
        ));
    }
    let Some(process) = spec.process() else {
        return refused("process property must not be empty".into());
    };
    // Before the host's kernel refuses a part of it in words of its own.
    check_contradictions(spec).map_err(|error| RuntimeError::Usage(error.to_string()))?;
    super::notify::check(spec)?;
    check_process(process)
}

/// Whether it is `1.MINOR.PATCH`, with or without something behind it.
fn is_version_1(version: &str) -> bool {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = numbers.split('.').map(|it| it.parse().ok()).collect();
    matches!(numbers[..], [Some(1), Some(_), Some(_)])
}

/// The same for a process.
pub(super) fn check_process(process: &Process) -> Result<()> {
    let refused = |text: &str| Err(RuntimeError::Usage(text.to_owned()));
    if process.cwd().as_os_str().is_empty() {
        return refused("Cwd property must not be empty");
    }
    if !process.cwd().is_absolute() {
        return refused("Cwd must be an absolute path");
    }
    if process.args().as_deref().unwrap_or_default().is_empty() {
        return refused("args must not be empty");
    }
    let rlimits = process.rlimits().as_deref().unwrap_or_default();
    for (index, rlimit) in rlimits.iter().enumerate() {
        if rlimits[..index]
            .iter()
            .any(|before| before.typ() == rlimit.typ())
        {
            return Err(RuntimeError::Usage(format!(
                "rlimit {} is named twice",
                rlimit.typ()
            )));
        }
    }
    Ok(())
}

fn terminal_of(spec: &Spec) -> bool {
    let process = spec.process().as_ref();
    process
        .and_then(|process| process.terminal())
        .unwrap_or(false)
}

fn wanted(spec: &Spec, console_socket: Option<PathBuf>, detached: bool) -> Wanted {
    let size = spec
        .process()
        .as_ref()
        .and_then(|process| process.console_size());
    Wanted {
        terminal: terminal_of(spec),
        console_socket,
        detached,
        size: size.map(|size| Size {
            width: u32::try_from(size.width()).unwrap_or(u32::MAX),
            height: u32::try_from(size.height()).unwrap_or(u32::MAX),
        }),
        ..Wanted::default()
    }
}

fn rootfs_path(bundle: &Path, spec: &Spec) -> Result<PathBuf> {
    let root = spec.root().as_ref().map(|root| bundle.join(root.path()));
    let root = root.ok_or_else(|| RuntimeError::Usage("root must be specified".into()))?;
    match std::fs::metadata(&root) {
        Ok(_) => Ok(root),
        Err(error) => Err(RuntimeError::Usage(format!(
            "invalid rootfs: {}: {error}",
            root.display()
        ))),
    }
}

/// `root.path` may name a file instead of a directory: an EROFS image, with an ext4 image for
/// what is written beside it, as `<file>.ext4`. It is then attached as a block device.
fn rootfs_mounts(rootfs: &Path) -> Vec<RootfsMount> {
    if !rootfs.is_file() {
        return Vec::new();
    }
    let mount = |kind: &str, path: &Path| RootfsMount {
        kind: kind.into(),
        source: path.to_string_lossy().into_owned(),
        options: Vec::new(),
    };
    let mut mounts = vec![mount("erofs", rootfs)];
    let mut scratch = rootfs.as_os_str().to_owned();
    scratch.push(".ext4");
    let scratch = PathBuf::from(scratch);
    if scratch.is_file() {
        mounts.push(mount("ext4", &scratch));
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_configuration_is_told_in_runcs_words() {
        let bundle = tempfile::tempdir().unwrap();
        let error = load_spec(bundle.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "JSON specification file config.json not found"
        );
        std::fs::write(bundle.path().join(CONFIG_FILE), "{").unwrap();
        assert!(matches!(
            load_spec(bundle.path()),
            Err(RuntimeError::Config { .. })
        ));
    }

    #[test]
    fn what_no_runtime_can_run_is_refused_before_anything_is_made() {
        let check = |change: serde_json::Value| {
            let mut spec = serde_json::json!({
                "ociVersion": "1.2.1",
                "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
            });
            for (key, value) in change.as_object().unwrap() {
                spec[key] = value.clone();
            }
            let spec = serde_json::from_value(spec).unwrap();
            check_spec(&spec).err().map(|error| error.to_string())
        };
        assert_eq!(check(serde_json::json!({})), None);
        for version in ["9.0.0", "1.x.0", "1.2", "1", "", "1.0.0.0"] {
            let error = check(serde_json::json!({ "ociVersion": version })).unwrap();
            assert!(error.contains(&format!("{version:?}")), "{error}");
        }
        for version in ["1.0.0", "1.0.2-dev", "1.3.0-rc.1+dev"] {
            assert_eq!(check(serde_json::json!({ "ociVersion": version })), None);
        }
        let process = serde_json::json!({"user": {"uid": 0, "gid": 0}, "args": [], "cwd": "/"});
        let error = check(serde_json::json!({ "process": process })).unwrap();
        assert_eq!(error, "args must not be empty");
        let error = check(serde_json::json!({"hostname": "x", "linux": {}})).unwrap();
        assert_eq!(
            error,
            "unable to set hostname without a private UTS namespace"
        );
        let uts = serde_json::json!({"namespaces": [{"type": "uts"}]});
        assert_eq!(
            check(serde_json::json!({"hostname": "x", "linux": uts})),
            None
        );
        let error = check(serde_json::json!({"process": null})).unwrap();
        assert_eq!(error, "process property must not be empty");
    }

    #[test]
    fn a_root_that_is_a_file_is_an_image() {
        let bundle = tempfile::tempdir().unwrap();
        let image = bundle.path().join("image");
        assert!(rootfs_mounts(bundle.path()).is_empty());
        std::fs::write(&image, "").unwrap();
        assert_eq!(rootfs_mounts(&image).len(), 1);
        std::fs::write(bundle.path().join("image.ext4"), "").unwrap();
        assert_eq!(rootfs_mounts(&image)[1].kind, "ext4");
    }
}
