//! The life of a hulld: one per state directory, from its lock to its socket's removal.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::api;
use crate::engine::{Engine, Programs};
use crate::error::{EngineError, Result};
use crate::paths::Paths;

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;

/// What a hulld is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its directories.
    pub paths: Paths,
    /// Socket of the API.
    pub socket: PathBuf,
    /// Helper programs.
    pub programs: Programs,
    /// Registries.
    pub registries: hull_image::RegistryConfig,
}

/// Serves until `stop` resolves. Containers go on without the daemon.
pub async fn run(config: Config, stop: impl std::future::Future<Output = ()>) -> Result<()> {
    for dir in [config.paths.root(), config.paths.exec_root()] {
        private_dir(dir)?;
    }
    let _lock = lock(&config.paths)?;
    let swept = hull_shim::sweep(config.paths.exec_root());
    tracing::debug!(?swept, "left-overs of sandboxes");
    let socket = Socket::bind(&config.socket)?;
    let events_socket = config.paths.events_socket();
    let engine = Engine::open(config.paths, config.programs, config.registries).await?;
    engine.images.collect_leftovers().await?;
    tracing::info!(socket = ?config.socket, "ready");
    let rules = Arc::clone(&engine);
    let keeper = tokio::spawn(async move {
        tokio::join!(rules.networks.keep_rules(), rules.networks.keep_lessons());
    });
    tokio::select! {
        () = accept(&socket.listener, &engine) => {}
        () = stop => tracing::info!("stopping; containers go on"),
    }
    keeper.abort();
    engine.networks.retire();
    let _ = std::fs::remove_file(events_socket);
    Ok(())
}

async fn accept(listener: &UnixListener, engine: &Arc<Engine>) {
    let router = api::router(Arc::clone(engine));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    api::serve(stream, router).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Such as too many open files: passes when connections end.
                tracing::error!(%error, "accepting a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Makes a directory that only its owner may enter, as it holds what containers wrote.
fn private_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(|source| EngineError::io("create", dir, source))
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

/// The API's socket; its file goes with it.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    fn bind(path: &Path) -> Result<Self> {
        let io = |what| move |source: std::io::Error| EngineError::io(what, path, source);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io("make the directory of"))?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io("listen on")(std::io::ErrorKind::AddrInUse.into()));
        }
        let _ = std::fs::remove_file(path);
        // Made under another name: nobody can connect before the mode is right.
        let staging = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&staging);
        let listener = UnixListener::bind(&staging).map_err(io("listen on"))?;
        std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(0o660))
            .and_then(|()| std::fs::rename(&staging, path))
            .map_err(io("set up"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_on_one_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path(), dir.path());
        let first = lock(&paths).unwrap();
        assert!(matches!(lock(&paths), Err(EngineError::StateInUse(_))));
        drop(first);
        lock(&paths).unwrap();
    }

    #[tokio::test]
    async fn the_socket_goes_with_its_daemon_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        std::fs::write(&path, "stale").unwrap();
        let socket = Socket::bind(&path).unwrap();
        assert!(Socket::bind(&path).is_err());
        drop(socket);
        assert!(!path.exists());
    }
}
