//! The command line of a containerd shim: `start`, `delete`, and serving.
//!
//! containerd calls it in the bundle's directory as
//! `containerd-shim-hull-v2 -namespace N -id ID -address SOCKET [-debug] start|delete`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{anyhow, bail, Context as _};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message as _, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use super::address::{self, Listening};
use super::process::KILLED_STATUS;
use super::serve::{serve, Sandboxed};
use super::state::now;
use crate::confine::{self, Programs};
use crate::pod::Role;
use crate::runtime_dir::{exec_root, remove_sandbox, sweep, RuntimeDirError};
use crate::shared_network;

/// File in a bundle that holds the shim's address.
const ADDRESS_FILE: &str = "address";
/// FIFO in a bundle from which containerd takes a shim's log.
const LOG_FIFO: &str = "log";
/// File in a bundle that takes the log where there is no FIFO.
const LOG_FILE: &str = "shim.log";
/// By which containerd knows the features of a runtime.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// A parsed command line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// containerd's namespace.
    pub namespace: String,
    /// Id of the container that is meant.
    pub id: String,
    /// The bundle; containerd also makes it the working directory.
    pub bundle: Option<PathBuf>,
    /// Log more.
    pub debug: bool,
    /// Print the version.
    pub version: bool,
    /// Print what the runtime is, for `ctr`'s and containerd's introspection.
    pub info: bool,
    /// Whoever calls will have the shim run no hooks and no loggers, and puts it into no cgroup: it is
    /// confined the more, and has a cgroup of its own.
    pub sealed: bool,
    /// `start`, `delete`; empty: serve.
    pub action: String,
}

impl Invocation {
    /// Reads flags as Go's `flag` package does: one dash or two, the value after a space or `=`.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let mut parsed = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                parsed.action = argument;
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let switched = inline.as_deref() != Some("false");
            match name {
                "debug" => parsed.debug = switched,
                "sealed" => parsed.sealed = switched,
                "v" => parsed.version = switched,
                "info" => parsed.info = switched,
                "namespace" | "id" | "bundle" | "address" | "publish-binary" | "socket" => {
                    let value = inline.or_else(|| arguments.next());
                    let value = value.with_context(|| format!("flag -{name} needs a value"))?;
                    parsed.set(name, value);
                }
                _ => bail!("unknown flag -{name}"),
            }
        }
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: String) {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "bundle" => self.bundle = Some(value.into()),
            // Events go to TTRPC_ADDRESS; the socket is ours to name.
            _ => {}
        }
    }

    fn bundle(&self) -> anyhow::Result<PathBuf> {
        match &self.bundle {
            Some(bundle) => Ok(bundle.clone()),
            None => std::env::current_dir().context("failed to find the bundle's directory"),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.namespace.is_empty() || self.id.is_empty() {
            bail!("want -namespace and -id: this program is started by containerd or hulld");
        }
        Ok(())
    }
}

/// The whole program.
pub fn main(invocation: &Invocation) -> anyhow::Result<()> {
    if invocation.version {
        println!("containerd-shim-hull-v2 {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if invocation.info {
        return print_info();
    }
    invocation.check()?;
    match invocation.action.as_str() {
        "start" => start(invocation),
        "delete" => delete(invocation),
        "" => {
            log_to(&invocation.bundle()?, invocation.debug)?;
            let listener = inherited_listener()?;
            let socket = address::socket_path(&exec_root(), &invocation.namespace, &invocation.id);
            address::take_over(&listener, &socket)
                .with_context(|| format!("failed to serve {socket:?}"))?;
            let what = Sandboxed {
                namespace: invocation.namespace.clone(),
                sandbox_id: invocation.id.clone(),
                exec_root: exec_root(),
                sealed: invocation.sealed,
            };
            confine::enter(match invocation.sealed {
                true => Programs::Own,
                false => Programs::Any,
            })?;
            serve(&what, listener)
        }
        other => bail!("unknown action {other:?}: want start or delete"),
    }
}

/// Starts the serving process and prints its address.
fn start(invocation: &Invocation) -> anyhow::Result<()> {
    let exec_root = exec_root();
    address::sweep(&exec_root);
    let swept = sweep(&exec_root);
    if !swept.errors.is_empty() {
        tell_later(&invocation.bundle()?, &swept.errors);
    }
    let pod = pod_of(&invocation.bundle()?, &exec_root, &invocation.namespace);
    let sandbox = pod.as_deref().unwrap_or(&invocation.id);
    let socket = address::socket_path(&exec_root, &invocation.namespace, sandbox);
    let listen =
        || address::listen(&socket).with_context(|| format!("failed to listen on {socket:?}"));
    let mut listening = listen()?;
    if pod.is_none() && matches!(listening, Listening::Served) {
        // An id that is given anew: the shim that had it is still taking its sandbox down.
        address::await_end(&socket);
        listening = listen()?;
        if matches!(listening, Listening::Served) {
            bail!(
                "the VM of an earlier container {:?} still runs, as others share its network: remove \
                 them first, or take another id",
                invocation.id
            );
        }
    }
    let address = format!("unix://{}", socket.display());
    let keep =
        || keep_address(&invocation.bundle()?, &address).context("failed to keep the address");
    match listening {
        Listening::Served => keep()?,
        Listening::New(listener) => {
            let started = match &pod {
                Some(pod) => Err(anyhow!(
                    "the pod {pod} of container {} does not run",
                    invocation.id
                )),
                // The server last: it stays, and what fails behind it would leave it alone.
                None => keep().and_then(|()| spawn_server(invocation, listener)),
            };
            if let Err(error) = started {
                address::remove(&socket);
                return Err(error);
            }
        }
    }
    // Older containerd reads a bare address, and newer one takes it as such too.
    print!("{address}");
    let printed = io::stdout().flush().context("failed to print the address");
    if printed.is_err() && pod.is_none() {
        address::end_server(&socket);
    }
    printed
}

/// Writes down what others have left that can't be removed. It is no reason not to start, and is not told
/// on standard error: containerd takes all that is printed as the address.
fn tell_later(bundle: &Path, errors: &[RuntimeDirError]) {
    // Without a log it is told by the next start.
    let Ok(mut log) = open_log(bundle) else {
        return;
    };
    for error in errors {
        let _ = writeln!(
            log,
            "containerd-shim-hull-v2: {}",
            crate::report::chain(error)
        );
    }
}

/// The sandbox that a bundle's container joins: of its pod, or of the container whose network it
/// shares; `None` for a container with a sandbox of its own. A bundle that can't be read is told of
/// when the container is made.
fn pod_of(bundle: &Path, exec_root: &Path, namespace: &str) -> Option<String> {
    let config = std::fs::read(bundle.join("config.json")).ok()?;
    let (spec, _) = crate::spec::capabilities::parse_spec(&config).ok()?;
    match Role::of(spec.annotations().as_ref()) {
        Role::Member(sandbox) => Some(sandbox),
        Role::None => shared_network::find(exec_root, namespace, &spec),
        Role::Sandbox => None,
    }
}

/// containerd 1.x finds a shim again, after its own restart, by this file in the bundle.
fn keep_address(bundle: &Path, address: &str) -> io::Result<()> {
    let new = bundle.join(".address.new");
    std::fs::write(&new, address)?;
    std::fs::rename(&new, bundle.join(ADDRESS_FILE))
}

fn spawn_server(invocation: &Invocation, listener: UnixListener) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("failed to find this program")?;
    let mut command = Command::new(&program);
    command
        .args(["-namespace", &invocation.namespace, "-id", &invocation.id])
        .arg("-bundle")
        .arg(invocation.bundle()?)
        // The server finds its socket there: no number to agree on, nothing to mark.
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if invocation.debug {
        command.arg("-debug");
    }
    if invocation.sealed {
        command.arg("-sealed");
    }
    let spawned = command.spawn();
    spawned.with_context(|| format!("failed to start {program:?}"))?;
    Ok(())
}

/// The socket on standard input; `/dev/null` takes its place there.
fn inherited_listener() -> anyhow::Result<UnixListener> {
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .context("failed to take the socket from standard input")?;
    if !rustix::net::sockopt::socket_acceptconn(&listener).unwrap_or(false) {
        bail!("standard input is not a listening socket: use the action start");
    }
    let null = File::open("/dev/null").context("failed to open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("failed to replace standard input")?;
    // The starter's session ends with its terminal; this process does not.
    let _ = rustix::process::setsid();
    Ok(UnixListener::from(listener))
}

/// Removes what a dead shim left, and says how its container ended.
fn delete(invocation: &Invocation) -> anyhow::Result<()> {
    let exec_root = exec_root();
    let name = format!("{}-{}", invocation.namespace, invocation.id);
    // One that was given up on may live: its starter ended, or it hangs.
    address::end_server(&address::socket_path(
        &exec_root,
        &invocation.namespace,
        &invocation.id,
    ));
    remove_sandbox(&exec_root, &name).context("failed to remove the sandbox")?;
    address::sweep(&exec_root);
    let response = api::DeleteResponse {
        exit_status: KILLED_STATUS,
        exited_at: MessageField::some(now()),
        ..api::DeleteResponse::default()
    };
    let bytes = response
        .write_to_bytes()
        .context("failed to write the answer")?;
    io::stdout()
        .write_all(&bytes)
        .context("failed to print the answer")
}

/// `-info`: containerd's `RuntimeInfo`.
fn print_info() -> anyhow::Result<()> {
    let bytes = info()?
        .write_to_bytes()
        .context("failed to write the answer")?;
    io::stdout()
        .write_all(&bytes)
        .context("failed to print the answer")
}

/// With the features as runc's shim has them: an `Any` whose value is JSON (containerd's typeurl).
fn info() -> anyhow::Result<RuntimeInfo> {
    let features = serde_json::to_vec(&crate::runtime::features_document());
    Ok(RuntimeInfo {
        name: "io.containerd.hull.v2".to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        features: MessageField::some(Any {
            type_url: FEATURES_TYPE.to_owned(),
            value: features.context("failed to write the features")?,
            ..Any::default()
        }),
        ..RuntimeInfo::default()
    })
}

fn log_to(bundle: &Path, debug: bool) -> anyhow::Result<()> {
    let level = if debug { "debug" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HULL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("hull_shim={level},warn")));
    let file = open_log(bundle)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::sync::Mutex::new(file))
        .with_ansi(false)
        .init();
    Ok(())
}

/// The log FIFO (opened for reading too, so that a reader may be missing, and never waited for), or
/// a file.
fn open_log(bundle: &Path) -> anyhow::Result<File> {
    let fifo = bundle.join(LOG_FIFO);
    let is_fifo = std::fs::symlink_metadata(&fifo).is_ok_and(|m| m.file_type().is_fifo());
    let mut options = OpenOptions::new();
    options
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK);
    let path = if is_fifo {
        options.read(true);
        fifo
    } else {
        options.create(true).append(true);
        bundle.join(LOG_FILE)
    };
    options
        .open(&path)
        .with_context(|| format!("failed to open the log {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Invocation> {
        Invocation::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn containerds_command_line_is_read() {
        let parsed = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id abc --debug start",
        )
        .unwrap();
        let want = Invocation {
            namespace: "k8s.io".into(),
            id: "abc".into(),
            debug: true,
            action: "start".into(),
            ..Invocation::default()
        };
        assert_eq!(parsed, want);
        assert_eq!(
            parse("-bundle=/b delete").unwrap().bundle,
            Some("/b".into())
        );
    }

    #[test]
    fn the_features_are_those_that_the_runtime_prints() {
        let bytes = info().unwrap().write_to_bytes().unwrap();
        let read = RuntimeInfo::parse_from_bytes(&bytes).unwrap();
        assert_eq!(read.name, "io.containerd.hull.v2");
        let features = read.features.unwrap();
        assert!(features.type_url.ends_with("/features/Features"));
        let document: serde_json::Value = serde_json::from_slice(&features.value).unwrap();
        assert_eq!(document, crate::runtime::features_document());
        assert_eq!(document["linux"]["cgroup"]["v2"], true);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = parse("-frobnicate start").unwrap_err();
        assert!(error.to_string().contains("-frobnicate"));
        let error = parse("start -id").unwrap_err();
        assert!(error.to_string().contains("-id"));
        assert!(main(&parse("start").unwrap()).is_err());
    }
}
