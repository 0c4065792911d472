//! hull-agent: PID 1 of the guest.
//!
//! It prepares the guest ([`boot`]), serves the host's RPCs ([`rpc`]) and stdio connections
//! ([`stdio`]) on vsock, runs containers ([`sandbox`], [`process`], [`container`]) and reaps what
//! nobody waits for. It never ends while the machine runs.
//!
//! ```text
//! /init                             as PID 1, from the initial root
//! hull-agent container-init         a container's process before its exec; started by the agent
//! /sbin/docker-init -- PROGRAM...   PID 1 of a container with `--init`: the same program again
//! hull-agent serve DIRECTORY        the same services on UNIX sockets, for tests
//! ```
//!
//! **Invariant:** the agent knows nothing of KVM, of the host's files or of any engine; it shares
//! the protocol with them, and nothing else.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod answers;
mod boot;
mod cgroup;
mod clock;
mod console;
mod container;
mod device;
mod device_rules;
mod diagnose;
mod dial;
mod error;
mod events;
mod files;
mod host;
mod host_disks;
mod host_ports;
mod host_sockets;
mod limits;
mod lines;
mod network;
mod open_ports;
mod pipes;
mod power;
mod process;
mod ps;
mod resolver;
mod rootfs;
mod rpc;
mod sandbox;
mod serve;
mod space;
mod sparse;
mod stdio;
mod sys;
#[cfg(feature = "unpack")]
mod unpack;
mod watches;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    if name == container::reaper::NAME {
        return container::reaper::main(args);
    }
    match args.next() {
        Some(word) if word == "container-init" => container::init::main(),
        Some(word) if word == "serve" => match args.next() {
            Some(directory) => serve::on_unix_sockets(directory.as_ref()),
            None => usage(),
        },
        // The kernel passes on words of its command line that it does not know.
        _ if boot::is_init(&name) => {
            boot::prepare();
            serve::as_init()
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "hull-agent is no program of a container: it runs as PID 1 of a Hull guest; for tests: \
         hull-agent serve DIRECTORY"
    );
    ExitCode::from(2)
}
