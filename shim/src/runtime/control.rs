//! `start`, `kill`, `delete`, `pause` and `resume`.

use std::path::Path;
use std::time::Duration;

use super::cli::{DeleteArgs, IdArgs, KillArgs};
use super::client::{ShimName, Status, Task};
use super::error::{Result, RuntimeError};
use super::store::{Draft, Record};
use super::{only_id, signals, Context};
use crate::cgroup::Cgroup;

/// How long a killed process has to be gone: longer than the shim leaves to the guest.
const KILL_LIMIT: Duration = Duration::from_secs(20);
const SIGKILL: u32 = libc::SIGKILL as u32;

/// A container as it is now.
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) status: Status,
    /// `None`: its shim is gone.
    pub(super) task: Option<Task>,
    /// The shim is there, and does not answer; the status is a guess.
    pub(super) stands_still: bool,
}

impl Found {
    /// Its shim, if it has one.
    pub(super) fn task(&self) -> Result<&Task> {
        self.task.as_ref().ok_or(RuntimeError::NotRunning)
    }
}

/// Looks up a container.
pub(super) async fn find(context: &Context, id: &str) -> Result<Found> {
    Ok(look(context.store.load(id)?).await)
}

/// What a known container does.
pub(super) async fn look(record: Record) -> Found {
    let task = Task::connect(&record.id, &record.address).await;
    let status = match &task {
        Some(task) => task.status().await,
        None => Some(Status::Stopped),
    };
    Found {
        status: status.unwrap_or_else(|| guessed_status(&record)),
        stands_still: status.is_none(),
        record,
        task,
    }
}

/// By the process that stands for the container's.
fn guessed_status(record: &Record) -> Status {
    match Path::new("/proc").join(record.pid.to_string()).exists() {
        true => Status::Running,
        false => Status::Stopped,
    }
}

/// `start`.
pub(super) async fn start(context: &Context, args: &IdArgs) -> Result<u8> {
    let found = find(context, only_id(&args.id)?).await?;
    let refused = |text: &str| Err(RuntimeError::State(text.to_owned()));
    match found.status {
        Status::Created => found.task()?.start("").await.map(|_| 0),
        Status::Stopped => refused("cannot start a container that has stopped"),
        Status::Running => refused("cannot start an already running container"),
        Status::Paused => refused("cannot start a container in the paused state"),
    }
}

/// `kill`.
pub(super) async fn kill(context: &Context, args: &KillArgs) -> Result<u8> {
    let (id, signal) = match args.target.as_slice() {
        [id] => (id, "SIGTERM"),
        [id, signal] => (id, signal.as_str()),
        [] => return Err(super::usage_error("requires a minimum of 1 argument(s)")),
        _ => return Err(super::usage_error("requires a maximum of 2 argument(s)")),
    };
    let found = find(context, id).await?;
    let number = signals::parse(signal)
        .ok_or_else(|| RuntimeError::Usage(format!("unknown signal {signal:?}")))?;
    if found.status == Status::Stopped {
        // There is no process left to be told, which is all that was asked for.
        return if args.all {
            Ok(0)
        } else {
            Err(RuntimeError::NotRunning)
        };
    }
    found.task()?.kill("", number, args.all).await?;
    Ok(0)
}

/// `delete`.
pub(super) async fn delete(context: &Context, args: &DeleteArgs) -> Result<u8> {
    let id = only_id(&args.id.id)?;
    let found = match find(context, id).await {
        Err(RuntimeError::NotFound) if args.force => {
            // What a create that was cut short may have left.
            if context.store.directory(id)?.exists() {
                let draft = context.store.draft(id);
                abandon(context, id, draft).await?;
            }
            return Ok(0);
        }
        found => found?,
    };
    if found.stands_still {
        return end_by_force(context, &found, args.force).await.map(|()| 0);
    }
    match found.status {
        Status::Stopped => {}
        Status::Created => end(&found).await?,
        _ if args.force => end(&found).await?,
        status => {
            return Err(RuntimeError::State(format!(
                "cannot delete container {id} that is not stopped: {}",
                status.name()
            )))
        }
    }
    destroy(context, &found.record, found.task.as_ref()).await?;
    Ok(0)
}

/// Removes a container whose shim does not answer: with it, its VM, and so whoever else is in that.
async fn end_by_force(context: &Context, found: &Found, asked_for: bool) -> Result<()> {
    let id = &found.record.id;
    if !asked_for {
        return Err(RuntimeError::State(format!(
            "the shim of container {id} does not answer: delete --force ends it, and its VM"
        )));
    }
    let text = format!("the shim of container {id} does not answer: ending it and its VM");
    context.log.warn(&text);
    destroy(context, &found.record, None).await
}

/// Kills a container and waits for its end.
async fn end(found: &Found) -> Result<()> {
    match &found.task {
        Some(task) => kill_and_wait(task).await,
        None => Ok(()),
    }
}

async fn kill_and_wait(task: &Task) -> Result<()> {
    match task.kill("", SIGKILL, false).await {
        // It ended meanwhile, of which the guest knows before its shim does.
        Err(RuntimeError::NotRunning) => {}
        killed => killed?,
    }
    match tokio::time::timeout(KILL_LIMIT, task.wait("")).await {
        Ok(_) => Ok(()),
        Err(_) => Err(RuntimeError::State(
            "container init still running".to_owned(),
        )),
    }
}

/// Removes all of a container that has ended.
pub(super) async fn destroy(context: &Context, record: &Record, task: Option<&Task>) -> Result<()> {
    let vm_lives = match task {
        Some(task) => leave_vm(context, record, task).await,
        None => {
            let namespace = context.store.namespace();
            let sandbox_id = record.sandbox();
            let directory = context.store.directory(&record.id)?;
            let shim = ShimName {
                namespace: &namespace,
                sandbox_id: &sandbox_id,
                directory: &directory,
                debug: context.debug,
            };
            shim.delete()?;
            false
        }
    };
    for cgroup in record.cgroups(vm_lives) {
        if context.store.has_another_in(cgroup, &record.id) {
            continue;
        }
        if let Err(error) = Cgroup::at(cgroup.clone()).remove() {
            context.log.warn(&crate::report::chain(&error));
        }
    }
    context.store.remove(&record.id)
}

/// Takes a container out of its VM, which ends with its last one. Whether it lives on.
async fn leave_vm(context: &Context, record: &Record, task: &Task) -> bool {
    let deleted = task.delete("").await;
    // One that can't be taken out of a VM of its own goes with it.
    let with_all = match &deleted {
        Ok(()) | Err(RuntimeError::NotFound) => false,
        Err(error) => {
            let text = format!("the shim of {}: {error}", record.id);
            context.log.warn(&text);
            record.joined.is_none()
        }
    };
    // A shim that does not know the container has another VM than it had.
    let was_there = !matches!(deleted, Err(RuntimeError::NotFound));
    let vm_lives = was_there && !with_all && task.vm_lives().await;
    task.shutdown(with_all).await;
    vm_lives
}

/// Removes what creates left whose process died before they were done.
pub(super) async fn sweep(context: &Context) {
    for (id, draft) in context.store.abandoned() {
        if let Err(error) = abandon(context, &id, Some(draft)).await {
            context.log.warn(&crate::report::chain(&error));
        }
    }
}

/// Removes a container that has no record.
async fn abandon(context: &Context, id: &str, draft: Option<Draft>) -> Result<()> {
    let (cgroup, vm) = draft.map_or_else(Default::default, |draft| (draft.cgroup, draft.vm));
    let namespace = context.store.namespace();
    let others = vm.joined;
    let sandbox_id = vm.sandbox(id);
    let directory = context.store.directory(id)?;
    let shim = ShimName {
        namespace: &namespace,
        sandbox_id: &sandbox_id,
        directory: &directory,
        debug: context.debug,
    };
    if let Some(task) = Task::connect(id, &shim.address(&context.exec_root)).await {
        if others {
            if task.status().await.is_none() {
                let text = format!("the shim of container {id}'s VM does not answer");
                return Err(RuntimeError::State(text));
            }
            // Not known to the shim, or not any more: nothing is left of it.
            let _ = kill_and_wait(&task).await;
            match task.delete("").await {
                Ok(()) | Err(RuntimeError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        task.shutdown(!others).await;
    }
    if !others {
        shim.delete()?;
    }
    if let Some(cgroup) = cgroup {
        // It may never have been made, or be another container's too.
        let _ = Cgroup::at(cgroup).remove();
    }
    context.store.remove(id)
}

/// `pause`.
pub(super) async fn pause(context: &Context, args: &IdArgs) -> Result<u8> {
    let found = find(context, only_id(&args.id)?).await?;
    match found.status {
        Status::Created | Status::Running => found.task()?.pause().await.map(|()| 0),
        Status::Paused | Status::Stopped => Err(RuntimeError::NotRunning),
    }
}

/// `resume`.
pub(super) async fn resume(context: &Context, args: &IdArgs) -> Result<u8> {
    let found = find(context, only_id(&args.id)?).await?;
    match found.status {
        Status::Paused => found.task()?.resume().await.map(|()| 0),
        _ => Err(RuntimeError::NotPaused),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;

    use async_trait::async_trait;
    use containerd_shim_protos::api;
    use containerd_shim_protos::shim_async::{create_task, Task as Service};
    use containerd_shim_protos::ttrpc::asynchronous::Server;
    use containerd_shim_protos::ttrpc::r#async::TtrpcContext;
    use containerd_shim_protos::ttrpc::{self, Code};

    use super::*;

    /// A shim whose guest has told of no end yet, though there is nothing left to kill.
    struct Ending {
        told: Arc<AtomicBool>,
    }

    #[async_trait]
    impl Service for Ending {
        async fn kill(&self, _: &TtrpcContext, _: api::KillRequest) -> ttrpc::Result<api::Empty> {
            let text = "process already finished".to_owned();
            let status = ttrpc::get_status(Code::NOT_FOUND, text);
            Err(ttrpc::Error::RpcStatus(status))
        }

        async fn wait(
            &self,
            _: &TtrpcContext,
            _: api::WaitRequest,
        ) -> ttrpc::Result<api::WaitResponse> {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.told.store(true, Ordering::SeqCst);
            Ok(api::WaitResponse::default())
        }
    }

    #[tokio::test]
    async fn an_end_that_the_shim_has_not_heard_of_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/s", directory.path().display());
        let told = Arc::new(AtomicBool::new(false));
        let service = Ending {
            told: Arc::clone(&told),
        };
        let mut server = Server::new().bind(&address).unwrap();
        server = server.register_service(create_task(Arc::new(service)));
        server.start().await.unwrap();
        let task = Task::connect("c", &address).await.unwrap();
        kill_and_wait(&task).await.unwrap();
        assert!(told.load(Ordering::SeqCst));
    }
}
