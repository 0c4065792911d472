//! The guest as a whole: its configuration, its containers, its events, its end.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_protocol::agent::{
    volume, ConfigureSandboxRequest, CreateContainerRequest, EditFileRequest, ExecProcessRequest,
    Stdio,
};
use hull_protocol::TraceMark;
use oci_spec::runtime::{LinuxPersonality, LinuxResources, LinuxSeccomp, Spec};

use crate::answers::Mounts;
use crate::cgroup::Cgroup;
use crate::container::channel::{InitRole, Role};
use crate::container::plan::{self, Inherited};
use crate::error::{AgentError, Context, Kind, Result};
use crate::events::{self, Events};
use crate::files::Job;
use crate::host_sockets::HostSockets;
use crate::limits::Limits;
use crate::process::{Exit, Placement, Process, Reaped};
use crate::rootfs::{self, ContainerFiles};
use crate::space::Spaces;
use crate::stdio::Registry;
use crate::{clock, host_disks, lines, sys, watches};

/// Sysctls that are set unless the host says otherwise: the kernel computes most of them from the
/// little memory of a guest, where programs expect a host's. Search engines and databases refuse to
/// start with the kernel's own number of memory maps; who watches a tree of sources needs more than
/// 8192 watches, and several such programs more instances. What all that takes is memory of the
/// container alone.
const DEFAULT_SYSCTLS: [(&str, &str); 6] = [
    ("fs.file-max", "9223372036854775807"),
    // As systemd has it: a container may ask for any number of open files that it could have there.
    ("fs.nr_open", "1073741816"),
    ("fs.inotify.max_user_instances", "1024"),
    ("fs.inotify.max_user_watches", "524288"),
    ("vm.max_map_count", "262144"),
    ("vm.overcommit_memory", "1"),
];

/// A container.
struct Container {
    init: Arc<Process>,
    execs: HashMap<String, Arc<Process>>,
    cgroup: Cgroup,
    /// Of jobs on files, which go on while the container is frozen; made for the first one.
    jobs: Option<Cgroup>,
    files: ContainerFiles,
    /// Held until nothing of the container is under way to the host.
    mounts: Option<Mounts>,
    volumes: Vec<String>,
    /// What an exec takes over from the container.
    seccomp: Option<LinuxSeccomp>,
    personality: Option<LinuxPersonality>,
    inherited: Inherited,
    /// As last given.
    limits: Limits,
}

impl Container {
    fn jobs_group(&mut self, id: &str) -> Result<Cgroup> {
        let group = match self.jobs.take() {
            Some(group) => group,
            // No container's id has a colon.
            None => Cgroup::create(&format!("files:{id}"), None)?,
        };
        Ok(self.jobs.insert(group).clone())
    }
}

#[derive(Default)]
struct State {
    containers: HashMap<String, Container>,
    /// Ids whose container is being made.
    reserved: std::collections::HashSet<String>,
    /// Mounted volumes.
    volumes: HashMap<String, UsedVolume>,
    /// Shared directories that they show, with the number of volumes.
    shared: HashMap<PathBuf, usize>,
}

struct UsedVolume {
    users: usize,
    shared: Option<PathBuf>,
}

impl State {
    /// A volume of it is gone.
    fn leave_shared(&mut self, place: &Path) {
        let Some(volumes) = self.shared.get_mut(place) else {
            return;
        };
        *volumes -= 1;
        if *volumes == 0 {
            self.shared.remove(place);
            rootfs::unmount_shared(place);
        }
    }
}

/// The sandbox. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Sandbox {
    state: Arc<Mutex<State>>,
    pub(crate) streams: Registry,
    pub(crate) reaped: Reaped,
    pub(crate) events: Events,
    sockets: HostSockets,
    pub(crate) spaces: Spaces,
}

impl Sandbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wall clock, entropy, host name, sysctls.
    pub(crate) fn configure(&self, request: &ConfigureSandboxRequest) -> Result<()> {
        if !request.entropy.is_empty() {
            let failed = || "failed to add entropy".to_string();
            let random = fs::OpenOptions::new()
                .write(true)
                .open("/dev/urandom")
                .context(failed)?;
            sys::add_entropy(random.as_fd(), &request.entropy).context(failed)?;
        }
        if request.realtime_ns != 0 {
            clock::set(request.realtime_ns)?;
        }
        if !request.hostname.is_empty() {
            rustix::system::sethostname(request.hostname.as_bytes())
                .context(|| format!("failed to set the host name {:?}", request.hostname))?;
        }
        for (key, value) in DEFAULT_SYSCTLS {
            if !request.sysctls.contains_key(key) {
                write_sysctl(key, value)?;
            }
        }
        for (key, value) in &request.sysctls {
            write_sysctl(key, value)?;
        }
        self.spaces.limit(&request.disks);
        Ok(())
    }

    /// Makes a container and launches its first process. Returns the PID.
    pub(crate) async fn create(&self, request: CreateContainerRequest) -> Result<u32> {
        let id = request.container_id.clone();
        if !rootfs::is_file_name(&id) || id.contains(':') {
            return Err(AgentError::invalid(format!("{id:?} is no container id")));
        }
        {
            let mut state = self.state();
            if state.containers.contains_key(&id) || !state.reserved.insert(id.clone()) {
                return Err(AgentError::new(
                    Kind::AlreadyExists,
                    format!("container {id} exists already"),
                ));
            }
        }
        let created = self.create_reserved(&id, request).await;
        let mut state = self.state();
        state.reserved.remove(&id);
        let container = created?;
        let pid = container.init.pid();
        state.containers.insert(id, container);
        Ok(pid)
    }

    async fn create_reserved(
        &self,
        id: &str,
        request: CreateContainerRequest,
    ) -> Result<Container> {
        let mut spec: Spec = parse("the configuration", &request.spec)?;
        host_disks::renumber(&mut spec, &request.host_disks)?;
        let mut container_plan = plan::container(&spec, &request.hook_state)?;
        let linux = spec.linux().as_ref();
        let seccomp = linux.and_then(|linux| linux.seccomp().clone());
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| AgentError::invalid("the configuration has no process"))?;
        let personality = linux.and_then(|linux| linux.personality().clone());
        let mut process_plan = plan::process(
            process,
            seccomp.as_ref(),
            personality.as_ref(),
            &request.user,
            &request.additional_groups,
        )?;
        // What the configuration does not give, a container has not.
        process_plan.capabilities.get_or_insert_default();

        let mut undo = Undo::new(self);
        for volume in &request.volumes {
            self.use_volume(volume)?;
            undo.volumes.push(volume.guest_path.clone());
        }
        let root = request.rootfs.as_ref();
        let root =
            root.ok_or_else(|| AgentError::invalid("the request has no root file system"))?;
        let files = undo
            .files
            .insert(ContainerFiles::create(id, root, &request.files)?);
        if let Some((slot, writable)) = files.scratch(root) {
            self.spaces.mounted(slot, &writable);
        }
        sys::mark(TraceMark::RootfsMounted);
        if rootfs::has_shares() {
            watches::begin(&self.events);
        }
        container_plan.root_readonly |= files.read_only;
        let cgroup_owner = container_plan.cgroup_owner;
        let role = Role::Init(Box::new(InitRole {
            plan: container_plan,
            rootfs: files.rootfs(),
            files: files.files.clone(),
            files_only: request.files_only,
            init: request.init,
        }));
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let cgroup = undo.cgroup.insert(Cgroup::create(id, resources)?).clone();

        if let Some(uid) = cgroup_owner {
            cgroup.give_to(uid)?;
        }
        let inherited = Inherited::of(&process_plan);
        let tokens = request.stdio.clone().unwrap_or_default();
        let init = Process::new(
            "",
            Placement {
                cgroup: cgroup.clone(),
                is_named: false,
            },
            process_plan,
            None,
            tokens,
            &self.streams,
        );
        let launched = init.launch(role, &self.reaped, None, None).await;
        let mounts = match launched.and_then(Mounts::of) {
            Ok(mounts) => mounts,
            Err(error) => {
                cgroup.kill();
                if init.pid() != 0 {
                    let _ = init.wait().await;
                }
                return Err(error);
            }
        };
        events::watch_oom(id, &cgroup, &self.events);
        let (files, volumes) = undo.done();
        Ok(Container {
            init,
            execs: HashMap::new(),
            cgroup,
            jobs: None,
            files: files.ok_or_else(|| AgentError::new(Kind::Internal, "no files"))?,
            mounts: Some(mounts),
            volumes,
            seccomp,
            personality,
            inherited,
            limits: Limits::of(resources),
        })
    }

    fn use_volume(&self, volume: &hull_protocol::agent::Volume) -> Result<()> {
        let mut state = self.state();
        if let Some(used) = state.volumes.get_mut(&volume.guest_path) {
            used.users += 1;
            return Ok(());
        }
        let shared = match &volume.source {
            Some(volume::Source::Socket(socket)) => {
                let path = rootfs::volume_path(&volume.guest_path)?;
                self.sockets.listen(&path, socket)?;
                None
            }
            Some(volume::Source::Block(block)) => {
                rootfs::mount_volume(volume)?;
                self.spaces
                    .mounted(block.slot, &rootfs::disk_directory(block.slot));
                None
            }
            _ => rootfs::mount_volume(volume)?,
        };
        if let Some(place) = &shared {
            *state.shared.entry(place.clone()).or_default() += 1;
        }
        let used = UsedVolume { users: 1, shared };
        state.volumes.insert(volume.guest_path.clone(), used);
        Ok(())
    }

    fn release_volume(&self, path: &str) {
        let mut state = self.state();
        let Some(used) = state.volumes.get_mut(path) else {
            return;
        };
        used.users -= 1;
        if 0 < used.users {
            return;
        }
        let shared = state.volumes.remove(path).and_then(|used| used.shared);
        self.sockets.close(path);
        rootfs::unmount_volume(path);
        if let Some(place) = shared {
            state.leave_shared(&place);
        }
    }

    /// Registers an exec.
    pub(crate) fn exec(&self, request: &ExecProcessRequest) -> Result<()> {
        let mut state = self.state();
        let container = container(&mut state, &request.container_id)?;
        if request.exec_id.is_empty() || container.execs.contains_key(&request.exec_id) {
            return Err(AgentError::new(
                Kind::AlreadyExists,
                format!("process {:?} exists already", request.exec_id),
            ));
        }
        if container.init.exit().is_some() {
            return Err(not_running(&request.container_id));
        }
        let process = parse("the process", &request.process)?;
        let seccomp = container.seccomp.as_ref();
        let mut plan = plan::process(
            &process,
            seccomp,
            container.personality.as_ref(),
            &request.user,
            &request.additional_groups,
        )?;
        let tokens: Stdio = request.stdio.clone().unwrap_or_default();
        let job = request.files.as_ref();
        if job.is_none() {
            container.inherited.complete(&mut plan);
        }
        let job = job
            .map(|job| Job::of(job, container.files.layers()))
            .transpose()?;
        let cgroup = match job {
            Some(_) => container.jobs_group(&request.container_id)?,
            None => container.cgroup.below(&request.sub_cgroup)?,
        };
        let exec = Process::new(
            &request.exec_id,
            Placement {
                cgroup,
                is_named: !request.sub_cgroup.is_empty(),
            },
            plan,
            job,
            tokens,
            &self.streams,
        );
        container.execs.insert(request.exec_id.clone(), exec);
        Ok(())
    }

    /// A process by its ids.
    pub(crate) fn process(&self, container_id: &str, exec_id: &str) -> Result<Arc<Process>> {
        let mut state = self.state();
        let container = container(&mut state, container_id)?;
        if exec_id.is_empty() {
            return Ok(container.init.clone());
        }
        let exec = container.execs.get(exec_id).cloned();
        exec.ok_or_else(|| {
            AgentError::not_found(format!(
                "container {container_id} has no process {exec_id:?}"
            ))
        })
    }

    /// The container's group and its processes by name.
    pub(crate) fn group(&self, container_id: &str) -> Result<(Cgroup, Vec<Arc<Process>>)> {
        let mut state = self.state();
        let container = container(&mut state, container_id)?;
        let mut processes = vec![container.init.clone()];
        processes.extend(container.execs.values().cloned());
        Ok((container.cgroup.clone(), processes))
    }

    /// Lets a process run. Returns its PID.
    pub(crate) async fn start(&self, container_id: &str, exec_id: &str) -> Result<u32> {
        let process = self.process(container_id, exec_id)?;
        if !exec_id.is_empty() && process.is_registered_only() {
            let init = self.process(container_id, "")?;
            let pid = i32::try_from(init.pid())
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            let (Some(pid), None) = (pid, init.exit()) else {
                return Err(not_running(container_id));
            };
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
                .context(|| format!("failed to open process {}", init.pid()))?;
            if !process.is_job() {
                self.group(container_id)?.0.check_pids()?;
            }
            let sibling = Some(init.pid()).filter(|_| process.follows(&init));
            process
                .launch(process.role(), &self.reaped, Some(pidfd.as_fd()), sibling)
                .await?;
        }
        if exec_id.is_empty() {
            let volumes = container(&mut self.state(), container_id)?.volumes.clone();
            rootfs::look_again(&volumes);
        }
        process.start(&self.streams).await
    }

    /// Signals one process, or all of the container.
    pub(crate) fn signal(
        &self,
        container_id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        if !all {
            return self.process(container_id, exec_id)?.signal(signal);
        }
        let (cgroup, _) = self.group(container_id)?;
        if signal == libc::SIGKILL as u32 {
            cgroup.kill();
            return Ok(());
        }
        for pid in cgroup.processes() {
            // One that has ended meanwhile needs no signal.
            let _ = sys::kill(pid as i32, signal);
        }
        Ok(())
    }

    /// Frees an ended process; the container with its first one.
    pub(crate) async fn delete(&self, container_id: &str, exec_id: &str) -> Result<Exit> {
        let process = self.process(container_id, exec_id)?;
        let never_ran =
            process.pid() == 0 && (process.is_registered_only() || process.has_failed());
        let exit = match process.exit() {
            Some(exit) => exit,
            None if never_ran => Exit {
                status: 255,
                at_ns: crate::process::now_ns(),
                oom_killed: false,
            },
            None if process.has_failed() => process.wait().await?,
            None => {
                return Err(AgentError::new(
                    Kind::FailedPrecondition,
                    format!("process {exec_id:?} of container {container_id} has not ended"),
                ))
            }
        };
        let removed = {
            let mut state = self.state();
            if exec_id.is_empty() {
                state.containers.remove(container_id)
            } else {
                container(&mut state, container_id)?.execs.remove(exec_id);
                None
            }
        };
        if let Some(container) = removed {
            self.dismantle(container).await;
        }
        Ok(exit)
    }

    async fn dismantle(&self, mut container: Container) {
        container.cgroup.end().await;
        if let Some(jobs) = container.jobs.take() {
            jobs.end().await;
        }
        if let Some(mounts) = container.mounts.take() {
            mounts.release().await;
        }
        container.files.remove();
        for path in &container.volumes {
            self.release_volume(path);
        }
    }

    /// Changes limits.
    pub(crate) fn update(&self, container_id: &str, resources: &[u8]) -> Result<()> {
        let mut resources: LinuxResources = parse("the resources", resources)?;
        let (cgroup, before) = {
            let mut state = self.state();
            let container = container(&mut state, container_id)?;
            (container.cgroup.clone(), container.limits)
        };
        let limits = before.updated(&mut resources)?;
        // Pages may have to be given back first: nobody else waits for that.
        cgroup.apply(&resources)?;
        container(&mut self.state(), container_id)?.limits = limits;
        Ok(())
    }

    /// Replaces lines of a file that a container was made with.
    pub(crate) fn edit_file(&self, request: &EditFileRequest) -> Result<()> {
        let source = {
            let mut state = self.state();
            let container = container(&mut state, &request.container_id)?;
            container.files.source(&request.path)?
        };
        lines::replace(&source, &request.remove, &request.add)
    }

    /// Ends all containers and frees what they had.
    pub(crate) async fn stop_all(&self) {
        let all: Vec<_> = {
            let mut state = self.state();
            state
                .containers
                .drain()
                .map(|(_, container)| container)
                .collect()
        };
        for container in all {
            container.cgroup.kill();
            self.dismantle(container).await;
        }
    }
}

fn container<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Container> {
    state
        .containers
        .get_mut(id)
        .ok_or_else(|| AgentError::not_found(format!("no container {id}")))
}

fn not_running(container_id: &str) -> AgentError {
    AgentError::new(
        Kind::FailedPrecondition,
        format!("container {container_id} is not running"),
    )
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json)
        .map_err(|error| AgentError::invalid(format!("{what} cannot be read: {error}")))
}

/// The path of a sysctl below /proc/sys. Its first separator says which of dot and slash separates;
/// the other one is a dot in a name (`net.ipv4.conf.eth0/100.forwarding`), as in sysctl(8).
fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']).map(|at| &key[at..=at]) {
        Some(".") => key
            .chars()
            .map(|letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_string(),
    }
}

/// Writes a sysctl.
pub(crate) fn write_sysctl(key: &str, value: &str) -> Result<()> {
    let path = sysctl_path(key);
    if path.starts_with('/') || path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(AgentError::invalid(format!("{key:?} is no sysctl")));
    }
    fs::write(Path::new("/proc/sys").join(path), value)
        .context(|| format!("failed to set sysctl {key} to {value:?}"))
}

/// What a creation has done so far, undone if it does not come to its end.
struct Undo<'a> {
    sandbox: &'a Sandbox,
    volumes: Vec<String>,
    files: Option<ContainerFiles>,
    cgroup: Option<Cgroup>,
}

impl<'a> Undo<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        Self {
            sandbox,
            volumes: Vec::new(),
            files: None,
            cgroup: None,
        }
    }

    /// Keeps everything.
    fn done(mut self) -> (Option<ContainerFiles>, Vec<String>) {
        self.cgroup = None;
        (self.files.take(), std::mem::take(&mut self.volumes))
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        if let Some(files) = &mut self.files {
            files.remove();
        }
        for path in &self.volumes {
            self.sandbox.release_volume(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_keys_stay_below_proc_sys() {
        for (key, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/100.forwarding",
                "net/ipv4/conf/eth0.100/forwarding",
            ),
            (
                "net/ipv4/conf/eth0.100/forwarding",
                "net/ipv4/conf/eth0.100/forwarding",
            ),
        ] {
            assert_eq!(sysctl_path(key), path);
        }
        for bad in ["../kernel/x", "/kernel", "kernel..x", ""] {
            assert_eq!(
                write_sysctl(bad, "1").unwrap_err().kind(),
                Kind::InvalidArgument,
                "{bad}"
            );
        }
    }
}
