//! A container: its processes and what is known of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::ttrpc;
use tokio::sync::{watch, Semaphore};

use super::errors;
use super::host_side::Place;
use super::network::Source;
use super::process::Process;
use crate::hooks::Subject;
use crate::sandbox::Sandbox;

/// Most processes of a container that are being started at once.
const MAX_STARTS: usize = 16;

/// What booting a VM for a container gives.
#[derive(Debug)]
pub(super) struct Booted {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) init: Arc<Process>,
    /// Where to look for interfaces again at the start, if there are none yet.
    pub(super) network: Option<Source>,
    /// Names of what was shared for it after the boot.
    pub(super) shares: Vec<String>,
}

/// A container in a sandbox.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) init: Arc<Process>,
    /// Where to look for interfaces again at the start, if there are none yet.
    pub(super) network: Option<Source>,
    /// Names of what was shared for it after the boot.
    shares: Mutex<Vec<String>>,
    pub(super) hooks: Subject,
    /// Where the holders of its processes are.
    pub(super) place: Place,
    pub(super) paused: watch::Sender<bool>,
    oom_reported: AtomicBool,
    /// For starts under way: the agent keeps a bounded number of streams whose process it does not
    /// know yet.
    pub(super) starts: Semaphore,
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

impl Container {
    pub(super) fn new(
        id: &str,
        bundle: PathBuf,
        booted: Booted,
        hooks: Subject,
        place: Place,
    ) -> Self {
        Self {
            id: id.to_owned(),
            bundle,
            sandbox: booted.sandbox,
            shares: Mutex::new(booted.shares),
            init: booted.init,
            network: booted.network,
            hooks,
            place,
            paused: watch::Sender::new(false),
            oom_reported: AtomicBool::new(false),
            starts: Semaphore::new(MAX_STARTS),
            execs: Mutex::new(HashMap::new()),
        }
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The init process (empty `exec_id`) or an exec.
    pub(super) fn process(&self, exec_id: &str) -> ttrpc::Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        self.execs()
            .get(exec_id)
            .cloned()
            .ok_or_else(|| errors::not_found(format!("process {exec_id:?} of {:?}", self.id)))
    }

    /// Takes an exec id; it must be free.
    pub(super) fn add(&self, process: Arc<Process>) -> ttrpc::Result<()> {
        let mut execs = self.execs();
        if execs.contains_key(&process.exec_id) {
            return Err(errors::already_exists(format!("id {}", process.exec_id)));
        }
        execs.insert(process.exec_id.clone(), process);
        Ok(())
    }

    /// Takes back what was shared for it; the guest has let go of it.
    pub(super) async fn detach_shares(&self) {
        let names =
            std::mem::take(&mut *self.shares.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(shares) = self.sandbox.shares().filter(|_| !names.is_empty()) {
            shares.detach(names).await;
        }
    }

    pub(super) fn forget(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    /// Init and all execs.
    pub(super) fn processes(&self) -> Vec<Arc<Process>> {
        let mut all = vec![Arc::clone(&self.init)];
        all.extend(self.execs().values().cloned());
        all
    }

    /// `true` the first time only.
    pub(super) fn report_oom_once(&self) -> bool {
        !self.oom_reported.swap(true, Ordering::Relaxed)
    }
}
