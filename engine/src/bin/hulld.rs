//! The daemon: serves the Docker Engine API for containers in microVMs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, Context as _};
use clap::Parser;
use hull_engine::daemon::{self, Config};
use hull_engine::engine::Programs;
use hull_engine::error::{chain, EngineError};
use hull_engine::paths::Paths;
use tokio::signal::unix::{signal, SignalKind};

/// Serves the Docker Engine API; each container runs in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "hulld", version)]
struct Args {
    /// Where to listen: unix:///path [default: EXEC_ROOT/hull.sock]
    #[arg(short = 'H', long)]
    host: Option<String>,
    /// Directory of what lasts: images, containers
    #[arg(long, default_value = "/var/lib/hull")]
    root: PathBuf,
    /// Directory of what lives: sockets, bundles
    #[arg(long, default_value = "/run/hull")]
    exec_root: PathBuf,
    /// Registry that may be spoken to without TLS (repeatable): HOST[:PORT]
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure_registries: Vec<String>,
    /// Program that runs a sandbox [default: beside hulld]
    #[arg(long, hide = true)]
    shim: Option<PathBuf>,
    /// Program that unpacks layers [default: beside hulld]
    #[arg(long, hide = true)]
    unpack: Option<PathBuf>,
    /// Leave the session of the command that started it
    #[arg(long, hide = true)]
    own_session: bool,
    /// Log more
    #[arg(short = 'D', long)]
    debug: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let level = if args.debug { "debug" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HULL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("hulld={level},hull={level},hull_engine={level},hull_image={level},hull_shim={level},warn")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hulld: {}", chain(error.as_ref()));
            match error.downcast_ref() {
                // Told apart by the command line, which then waits for the other one.
                Some(EngineError::StateInUse(_)) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let paths = Paths::new(absolute(&args.root)?, absolute(&args.exec_root)?);
    let socket = match &args.host {
        None => paths.api_socket(),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => PathBuf::from(path),
            _ => return Err(anyhow!("-H {host:?}: only unix:///path is built yet")),
        },
    };
    let config = Config {
        paths,
        socket,
        programs: Programs {
            shim: program(args.shim.clone(), "containerd-shim-hull-v2")?,
            unpack: program(args.unpack.clone(), "hull-unpack")?,
        },
        registries: hull_image::RegistryConfig {
            insecure: args.insecure_registries,
            ..hull_image::RegistryConfig::default()
        },
    };
    if args.own_session {
        rustix::process::setsid().context("failed to leave the session")?;
    }
    // No mount of the starter's directory is kept busy.
    std::env::set_current_dir("/").context("failed to change to /")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the event loop")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("failed to catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to catch SIGINT")?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        // In a task: children are then spawned by the runtime's own threads, which live as long
        // as the daemon. Some children ask to end with the thread that spawned them.
        let served = tokio::spawn(daemon::run(config, stop));
        served
            .await
            .context("the daemon panicked")?
            .map_err(anyhow::Error::from)
    })
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("bad path {path:?}"))
}

/// A program of Hull: beside this one, else found by PATH.
fn program(given: Option<PathBuf>, name: &str) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given);
    }
    let own = std::env::current_exe().context("failed to find hulld's own path")?;
    let beside = own.with_file_name(name);
    Ok(if beside.exists() {
        beside
    } else {
        PathBuf::from(name)
    })
}
