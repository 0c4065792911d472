//! The OCI configuration as the agent gets it: host paths replaced or refused, host-only parts
//! removed.

use std::path::{Path, PathBuf};

use hull_protocol::agent::{volume, HostSocket, InlineFile, SharedDirectory, Volume};
use hull_vm_config::Slot;
use oci_spec::runtime::{Hooks, LinuxBlockIo, LinuxNamespaceType, LinuxResources, Mount, Spec};

use super::disks::Disk;
use super::{
    id_mapped, slot_number, LowerError, Pod, PodMember, Share, ShareSource, Socket, TaskOptions,
    SHARE_TAG, VOLUME_ROOT,
};
use crate::spec::{
    self, is_bind, Bundle, RootfsMount, INLINE_OPTION, LAYER_OPTION, MEMBER_ROOT, WITHIN_OPTION,
};
use crate::user_namespace::{inside, IdMaps};

/// Type of a mount whose layers are directories.
const OVERLAY: &str = "overlay";
/// Its own options that have no value.
const OVERLAY_FLAGS: [&str; 2] = ["volatile", "userxattr"];

/// A configuration for the guest and what travels beside it.
#[derive(Debug)]
pub(super) struct GuestSpec {
    pub(super) spec: Spec,
    pub(super) files: Vec<InlineFile>,
    pub(super) volumes: Vec<Volume>,
    pub(super) shares: Vec<Share>,
    pub(super) sockets: Vec<Socket>,
    /// In the order of the slots.
    pub(super) disks: Vec<Disk>,
    pub(super) id_maps: Option<IdMaps>,
}

/// `slots` are those for the disks that are mounted.
pub(super) fn lower(
    bundle: &Bundle,
    options: &TaskOptions,
    slots: &[Slot],
) -> Result<GuestSpec, LowerError> {
    let mut guest = GuestSpec {
        spec: bundle.spec.clone(),
        files: Vec::new(),
        volumes: Vec::new(),
        shares: Vec::new(),
        sockets: Vec::new(),
        disks: super::disks::lower(&bundle.disks, &bundle.host_disks, slots)?,
        id_maps: None,
    };
    guest.lower_user_namespace(options.pod.as_ref())?;
    guest.lower_namespaces(options.pod.as_ref())?;
    guest.lower_mounts(bundle, options)?;
    guest.drop_host_only_parts(options.terminal);
    Ok(guest)
}

impl GuestSpec {
    /// It is virtiofsd's, on the host. In a pod all containers have that of the first.
    fn lower_user_namespace(&mut self, pod: Option<&Pod>) -> Result<(), LowerError> {
        let Some(linux) = self.spec.linux_mut() else {
            return Ok(());
        };
        let users = linux.uid_mappings().clone().unwrap_or_default();
        let groups = linux.gid_mappings().clone().unwrap_or_default();
        linux.set_uid_mappings(None).set_gid_mappings(None);
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        let user = namespaces
            .iter()
            .position(|namespace| namespace.typ() == LinuxNamespaceType::User);
        let Some(user) = user.map(|index| namespaces.remove(index)) else {
            return match users.is_empty() && groups.is_empty() {
                true => Ok(()),
                false => Err(LowerError::IdMaps {
                    reason: "user namespace mappings are given, but no user namespace is asked for",
                }),
            };
        };
        linux.set_namespaces(Some(namespaces));
        match (user.path(), pod) {
            (Some(path), Some(pod)) if pod.namespace(path).is_some() => return Ok(()),
            (Some(path), _) => {
                return Err(LowerError::OtherVm {
                    kind: user.typ().to_string(),
                    path: path.clone(),
                })
            }
            (None, Some(_)) => {
                let what = "a user namespace of its own for a further container of a pod".into();
                return Err(LowerError::NotSupportedYet { what });
            }
            (None, None) => {}
        }
        if users.is_empty() || groups.is_empty() {
            return Err(LowerError::IdMaps {
                reason: "a user namespace is asked for, but its uid or gid mappings are missing",
            });
        }
        self.id_maps = Some(IdMaps { users, groups });
        Ok(())
    }

    /// The network's namespace is joined on the host. Those of the processes that stand for the
    /// pod's containers are those of their first processes in the guest; others are not there.
    fn lower_namespaces(&mut self, pod: Option<&Pod>) -> Result<(), LowerError> {
        let linux = self.spec.linux_mut().as_mut();
        for namespace in linux
            .into_iter()
            .flat_map(|l| l.namespaces_mut().iter_mut().flatten())
        {
            let kind = namespace.typ();
            let path = namespace.path().clone();
            let Some(path) = path.filter(|_| kind != LinuxNamespaceType::Network) else {
                namespace.set_path(None);
                continue;
            };
            let in_guest = pod.and_then(|pod| pod.namespace(&path));
            let joined = in_guest.ok_or_else(|| LowerError::OtherVm {
                kind: kind.to_string(),
                path,
            })?;
            namespace.set_path(Some(joined));
        }
        Ok(())
    }

    fn lower_mounts(&mut self, bundle: &Bundle, options: &TaskOptions) -> Result<(), LowerError> {
        let container = &match &options.pod {
            Some(pod) => format!("{}-{}", options.name(), pod.turn),
            None => options.name(),
        };
        let mut kept = Vec::new();
        let mounts = self.spec.mounts().clone().unwrap_or_default();
        for (index, mut mount) in mounts.into_iter().enumerate() {
            let inline = bundle.inline.iter().find(|file| file.mount == index);
            if let Some(file) = inline {
                self.files.push(InlineFile {
                    path: text(mount.destination())?,
                    mode: file.mode,
                    content: file.content.clone(),
                    read_only: mount
                        .options()
                        .iter()
                        .flatten()
                        .any(|option| option == "ro"),
                    ..Default::default()
                });
                continue;
            }
            let node = bundle.nodes.iter().find(|node| node.mount == index);
            let disk = bundle.disks.iter().find(|disk| disk.mount == index);
            if let Some(disk) = disk {
                let guest_path = format!("{VOLUME_ROOT}/{container}-disk-{index}");
                let volume = super::disks::volume(&self.disks, disk, &guest_path);
                self.volumes.push(volume);
                show(&mut mount, &guest_path);
            } else if let Some(node) = node {
                mount.set_source(Some(node.path.into()));
            } else if let Some(socket) = bundle.sockets.iter().find(|of| of.mount == index) {
                self.socket(&mut mount, socket, &options.name());
            } else if let Some(other) = mount.source().as_deref().and_then(of_member) {
                let pod = options.pod.as_ref();
                let path = pod.and_then(|pod| pod.path(other));
                mount.set_source(Some(path.ok_or_else(|| not_there(other))?));
            } else if let Some(memory) = bundle.memory.as_ref().filter(|of| of.mount == index) {
                show_memory(&mut mount, memory, options.pod.as_ref());
            } else if is_bind(&mount) {
                self.share(&mut mount, bundle, container)?;
            } else if mount.typ().as_deref() == Some(OVERLAY) {
                self.share_overlay(&mut mount, container);
            } else if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
                return Err(LowerError::NotSupportedYet {
                    what: format!(
                        "id mappings of the mount at {:?}, which is no bind mount",
                        mount.destination()
                    ),
                });
            }
            kept.push(mount);
        }
        self.spec.set_mounts(Some(kept));
        Ok(())
    }

    /// Replaces a socket of the host by one that the agent makes.
    fn socket(&mut self, mount: &mut Mount, socket: &spec::HostSocket, container: &str) {
        let guest_path = format!("{VOLUME_ROOT}/{container}-socket-{}", socket.mount);
        let (users, groups) = match &self.id_maps {
            Some(maps) => (Some(&maps.users), Some(&maps.groups)),
            None => (None, None),
        };
        let made = HostSocket {
            mode: socket.mode,
            uid: users.map_or(socket.uid, |maps| inside(maps, socket.uid)),
            gid: groups.map_or(socket.gid, |maps| inside(maps, socket.gid)),
            ..Default::default()
        };
        self.volumes.push(Volume {
            guest_path: guest_path.clone(),
            source: Some(volume::Source::Socket(made)),
            ..Default::default()
        });
        show(mount, &guest_path);
        self.sockets.push(Socket {
            guest_path,
            path: socket.path.clone(),
        });
    }

    /// Replaces a host path by the path in the guest at which the shared directory shows it.
    fn share(
        &mut self,
        mount: &mut Mount,
        bundle: &Bundle,
        container: &str,
    ) -> Result<(), LowerError> {
        let Some(path) = mount.source().clone() else {
            return Err(LowerError::BindWithoutSource {
                destination: mount.destination().clone(),
            });
        };
        let id_mapped = id_mapped::take(mount, self.id_maps.as_ref())?;
        let options = mount.options().clone().unwrap_or_default();
        // An empty volume is filled by the guest first.
        let fills = options.iter().any(|option| option == "tmpcopyup");
        let read_only = !fills && options.iter().any(|option| option == "ro");
        let recursive = options.iter().any(|option| option == "rbind");
        let follows = ["slave", "rslave", "shared", "rshared"];
        let follow = options
            .iter()
            .any(|option| follows.contains(&option.as_str()));
        let within = options
            .iter()
            .find_map(|option| option.strip_prefix(WITHIN_OPTION).map(PathBuf::from));
        // A relative one is the bundle's (config.md, "Mounts").
        let path = bundle.directory.join(path);
        let source = ShareSource::Path {
            path,
            recursive,
            follow,
            within,
            id_mapped,
        };
        let guest_path = self.add_share(container, source, read_only);
        show(mount, &guest_path);
        Ok(())
    }

    /// Layers of an overlay are directories of the host, which makes the mount.
    fn share_overlay(&mut self, mount: &mut Mount, container: &str) {
        let options = mount.options().clone().unwrap_or_default();
        let (own, mut left): (Vec<_>, Vec<_>) =
            options.into_iter().partition(|it| is_of_overlay(it));
        let read_only = left.iter().any(|option| option == "ro");
        let of_host = own.into_iter().chain(read_only.then(|| "ro".to_owned()));
        let source = ShareSource::Mounts(vec![RootfsMount {
            kind: OVERLAY.into(),
            source: OVERLAY.into(),
            options: of_host.collect(),
        }]);
        let guest_path = self.add_share(container, source, read_only);
        left.push("rbind".into());
        mount.set_options(Some(left));
        show(mount, &guest_path);
    }

    /// Has the guest see something of the host; returns where.
    fn add_share(&mut self, container: &str, source: ShareSource, read_only: bool) -> String {
        let subpath = format!("{container}-{}", self.shares.len());
        let guest_path = format!("{VOLUME_ROOT}/{subpath}");
        self.volumes.push(Volume {
            guest_path: guest_path.clone(),
            source: Some(volume::Source::Share(SharedDirectory {
                tag: SHARE_TAG.into(),
                subpath: subpath.clone(),
                slot: slot_number(Slot::FS),
                ..Default::default()
            })),
            read_only,
            ..Default::default()
        });
        self.shares.push(Share {
            subpath,
            source,
            read_only,
        });
        guest_path
    }

    /// Removes what names things of the host that don't exist in the guest.
    fn drop_host_only_parts(&mut self, terminal: bool) {
        self.spec.set_annotations(None);
        self.drop_host_hooks();
        if let Some(root) = self.spec.root_mut() {
            root.set_path(PathBuf::from("rootfs"));
        }
        if let Some(process) = self.spec.process_mut() {
            process.set_terminal(Some(terminal));
            // Profiles and labels are loaded into the host's kernel, not into the guest's.
            process.set_apparmor_profile(None);
            process.set_selinux_label(None);
            process.user_mut().set_username(None);
        }
        if let Some(linux) = self.spec.linux_mut() {
            linux.set_mount_label(None);
            linux.set_intel_rdt(None);
            if let Some(resources) = linux.resources_mut() {
                drop_host_numbers(resources);
            }
        }
    }
}

impl GuestSpec {
    /// What is left, the startContainer hooks, runs inside the container.
    fn drop_host_hooks(&mut self) {
        let Some(mut hooks) = self.spec.hooks().clone() else {
            return;
        };
        #[allow(deprecated)] // Of the specification; Docker uses it.
        hooks.set_prestart(None);
        hooks.set_create_runtime(None);
        hooks.set_create_container(None);
        hooks.set_poststart(None);
        hooks.set_poststop(None);
        let left = hooks != Hooks::default();
        self.spec.set_hooks(left.then_some(hooks));
    }
}

/// Whether an option of an overlay's mount is the file system's own.
fn is_of_overlay(option: &str) -> bool {
    option.contains('=') || OVERLAY_FLAGS.contains(&option)
}

/// Makes a mount of the host's one of what the guest has at `path`; options of ours are left out.
fn show(mount: &mut Mount, path: &str) {
    let own = |option: &String| {
        let prefixes = [WITHIN_OPTION, LAYER_OPTION];
        option == INLINE_OPTION || prefixes.iter().any(|prefix| option.starts_with(prefix))
    };
    let options = mount.options().clone().unwrap_or_default();
    let options = options.into_iter().filter(|option| !own(option)).collect();
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(PathBuf::from(path)));
    mount.set_options(Some(options));
}

/// Numbers of CPUs, memory nodes and devices are the host's; the guest has its own.
pub(crate) fn drop_host_numbers(resources: &mut LinuxResources) {
    if let Some(mut cpu) = resources.cpu().clone() {
        cpu.set_cpus(None);
        cpu.set_mems(None);
        resources.set_cpu(Some(cpu));
    }
    let weight = resources.block_io().as_ref().map(LinuxBlockIo::weight);
    resources.set_block_io(weight.map(|weight| {
        let mut io = LinuxBlockIo::default();
        io.set_weight(weight);
        io
    }));
    if let Some(unified) = resources.unified_mut() {
        let is_of_host = |file: &str| file.starts_with("cpuset.") || file.starts_with("io.");
        unified.retain(|file, _| !is_of_host(file));
    }
}

/// Replaces memory of the host by memory of the guest: that of a container of the VM that shares it, or
/// else its own.
fn show_memory(mount: &mut Mount, memory: &spec::SharedMemory, pod: Option<&Pod>) {
    let source = &memory.source;
    if let Some(path) = pod.and_then(|pod| pod.memory(mount.destination(), source)) {
        mount.set_source(Some(path));
        return;
    }
    tracing::info!(
        ?source,
        "memory of the guest takes the place of an engine's"
    );
    // Without `ro`: it would be so for all, and containerd's first container of a pod, which writes
    // nothing, has it.
    let mut options: Vec<String> = ["nosuid", "noexec", "nodev", "mode=1777"]
        .map(str::to_owned)
        .into();
    if memory.bytes != 0 {
        options.push(format!("size={}", memory.bytes));
    }
    mount
        .set_typ(Some("tmpfs".to_owned()))
        .set_source(Some("shm".into()))
        .set_options(Some(options));
}

/// What a path names of another container of the VM.
fn of_member(path: &Path) -> Option<&Path> {
    path.strip_prefix(MEMBER_ROOT).ok()
}

fn not_there(other: &Path) -> LowerError {
    LowerError::NotSupportedYet {
        what: format!("{other:?} of a container that is not in the same VM"),
    }
}

impl Pod {
    /// Where in the guest what [`of_member`] gave is.
    fn path(&self, other: &Path) -> Option<PathBuf> {
        let mut parts = other.components();
        let id = parts.next()?.as_os_str();
        let member = self.members.iter().find(|member| *id == *member.id)?;
        Some(PathBuf::from(format!("/proc/{}", member.guest_pid)).join(parts.as_path()))
    }

    /// Where in the guest a container has what is at `destination` in place of a directory of the host.
    fn memory(&self, destination: &Path, directory: &Path) -> Option<PathBuf> {
        let shares = |member: &&PodMember| member.memory.as_deref() == Some(directory);
        let member = self.members.iter().find(shares)?;
        let root = PathBuf::from(format!("/proc/{}/root", member.guest_pid));
        Some(root.join(destination.strip_prefix("/").ok()?))
    }

    /// The path in the guest of a namespace of the pod.
    fn namespace(&self, path: &Path) -> Option<PathBuf> {
        if let Some(other) = of_member(path) {
            return self.path(other);
        }
        self.members.iter().find_map(|member| {
            let host = PathBuf::from(format!("/proc/{}/ns", member.host_pid));
            let kind = path.strip_prefix(host).ok()?;
            Some(PathBuf::from(format!("/proc/{}/ns", member.guest_pid)).join(kind))
        })
    }
}

fn text(path: &Path) -> Result<String, LowerError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| LowerError::PathNotUtf8 {
            path: path.to_owned(),
        })
}
