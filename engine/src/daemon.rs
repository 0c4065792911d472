//! The life of a hulld: one per state directory, from its lock to its socket's removal.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hull_network::ports::raise_descriptors;
use rustix::fs::FlockOperation;

use crate::api;
use crate::connections::Connections;
use crate::engine::{Defaults, Engine, Programs};
use crate::error::{EngineError, Result};
use crate::listen::{self, Address, Listener, TlsFiles};
use crate::network::Denial;
use crate::paths::Paths;

/// Connections served at once; for more, silent ones make room.
const MAX_CONNECTIONS: usize = 4096;

/// Open files that a process may have where nobody has said.
const USUAL_FILES: usize = 1024;

/// How long a log's server may take at the end of the daemon.
const LOGS_LIMIT: Duration = Duration::from_secs(2);

/// How long a VM that is kept for work on files may take to end then.
const KEPT_LIMIT: Duration = Duration::from_secs(20);

/// What a hulld is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its directories.
    pub paths: Paths,
    /// Where the API is served.
    pub addresses: Vec<Address>,
    /// Whose members may use its UNIX sockets.
    pub group: Option<String>,
    /// Certificates for TCP.
    pub tls: Option<TlsFiles>,
    /// Helper programs.
    pub programs: Programs,
    /// Registries.
    pub registries: hull_image::RegistryConfig,
    /// What containers are like that don't say.
    pub defaults: Defaults,
}

/// Serves until `stop` resolves. Containers go on without the daemon.
pub async fn run(config: Config, stop: impl std::future::Future<Output = ()>) -> Result<()> {
    keep_out_others(&config.paths)?;
    let _lock = lock(&config.paths)?;
    let files = match raise_descriptors() {
        Ok(limit) => {
            tracing::debug!(limit, "open files");
            usize::try_from(limit).unwrap_or(usize::MAX)
        }
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            USUAL_FILES
        }
    };
    let swept = hull_shim::sweep(config.paths.exec_root());
    tracing::debug!(?swept, "left-overs of sandboxes");
    let listeners = listen::bind(
        &config.addresses,
        config.group.as_deref(),
        config.tls.as_ref(),
    )
    .await?;
    let events_socket = config.paths.events_socket();
    let engine = Engine::open(
        config.paths,
        config.programs,
        config.registries,
        config.defaults,
    )
    .await?;
    engine.images.collect_leftovers().await?;
    let rules = Arc::clone(&engine);
    let keeper = tokio::spawn(async move {
        let networks = &rules.networks;
        let tell = |denial: Denial| rules.tell_denied(&denial);
        tokio::join!(
            networks.keep_rules(),
            networks.keep_lessons(),
            networks.watch_denied(tell)
        );
    });
    tracing::info!(addresses = ?config.addresses, "ready");
    listen::tell_ready();
    let router = api::router(Arc::clone(&engine));
    // The others are the containers' and the store's.
    let connections = Connections::new(MAX_CONNECTIONS.min(files / 2));
    let serving = listeners
        .iter()
        .map(|listener| accept(listener, &router, &connections));
    tokio::select! {
        _ = futures_util::future::join_all(serving) => {}
        () = stop => tracing::info!("stopping; containers go on"),
    }
    tokio::join!(
        engine.deliver_logs(LOGS_LIMIT),
        engine.end_kept_vms(KEPT_LIMIT)
    );
    keeper.abort();
    engine.networks.retire();
    let _ = std::fs::remove_file(events_socket);
    Ok(())
}

async fn accept(listener: &Listener, router: &axum::Router, connections: &Arc<Connections>) {
    loop {
        let mut slot = connections.slot().await;
        match listener.accept().await {
            Ok(accepted) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let way = accepted.way();
                    if let Some(stream) = accepted.open().await {
                        let busy = slot.begin();
                        api::serve(stream, router, busy, way).await;
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Such as too many open files: passes when connections end.
                tracing::error!(%error, "accepting a connection");
                connections.make_room();
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Makes the daemon's directories. Its state is for its own user alone: volumes and images hold programs
/// that set the user id, which whoever is root in some container made, and records and logs what
/// containers were told and said. Through the runtime directory others pass, to the API's socket.
fn keep_out_others(paths: &Paths) -> Result<()> {
    directory(paths.exec_root(), 0o711)?;
    // Last: both may be the same.
    directory(paths.root(), 0o700)
}

/// Makes a directory with this mode, or takes what is more from the mode of one that is there.
fn directory(dir: &Path, mode: u32) -> Result<()> {
    let tried = |source| EngineError::io("create", dir, source);
    let made = DirBuilder::new().recursive(true).mode(mode).create(dir);
    made.map_err(tried)?;
    let there = dir.metadata().map_err(tried)?.permissions().mode() & 0o7777;
    if there & !mode == 0 {
        return Ok(());
    }
    std::fs::set_permissions(dir, Permissions::from_mode(there & mode))
        .map_err(|source| EngineError::io("keep others out of", dir, source))
}

/// Held for the life of the daemon, released by the kernel however it ends.
fn lock(paths: &Paths) -> Result<File> {
    let path = paths.lock();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| EngineError::io("open", &path, source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(EngineError::StateInUse(paths.root().to_owned())),
        Err(error) => Err(EngineError::io("lock", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_kept_out_of_state_that_is_there_already_too() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let paths = Paths::new(dir.path().join("new/state"), dir.path().join("run"));
        keep_out_others(&paths).unwrap();
        assert_eq!(
            (mode(paths.root()), mode(paths.exec_root())),
            (0o700, 0o711)
        );

        let old = Permissions::from_mode(0o755);
        std::fs::set_permissions(paths.root(), old.clone()).unwrap();
        std::fs::set_permissions(paths.exec_root(), old).unwrap();
        keep_out_others(&paths).unwrap();
        assert_eq!(
            (mode(paths.root()), mode(paths.exec_root())),
            (0o700, 0o711)
        );

        let one = Paths::new(dir.path().join("one"), dir.path().join("one"));
        keep_out_others(&one).unwrap();
        assert_eq!(mode(one.root()), 0o700);
    }

    #[test]
    fn a_second_daemon_on_one_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path(), dir.path());
        let first = lock(&paths).unwrap();
        assert!(matches!(lock(&paths), Err(EngineError::StateInUse(_))));
        drop(first);
        lock(&paths).unwrap();
    }
}
