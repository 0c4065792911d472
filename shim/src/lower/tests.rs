use std::path::{Path, PathBuf};

use hull_protocol::agent::CreateContainerRequest;
use hull_vm_config::JailConfig;
use oci_spec::runtime::Spec;
use serde_json::json;

use super::*;
use crate::network::Attachments;
use crate::spec::{
    BlockFile, DiskMount, HostDisk, HostSocket, InlineMount, LayerFile, RootfsMount, RootfsSource,
    SharedMemory, INLINE_OPTION, USER_PREFIX,
};

fn options() -> TaskOptions {
    TaskOptions {
        sandbox_id: "box".into(),
        container_id: "web".into(),
        terminal: false,
        jail: JailConfig {
            uid: 0x5000_0001,
            gid: 0x5000_0001,
        },
        host: HostFacts {
            cpus: 4,
            memory_bytes: 8 << 30,
        },
        network: Attachments::default(),
        pod: None,
        slots: Vec::new(),
    }
}

fn file(path: &str, fs_type: &str, length: u64) -> BlockFile {
    BlockFile {
        path: PathBuf::from(path),
        fs_type: fs_type.into(),
        length,
    }
}

fn blocks() -> RootfsSource {
    RootfsSource::Blocks {
        image: file("/images/web.erofs", "erofs", 1_000_001),
        layers: Vec::new(),
        scratch: Some(file("/scratch/web.ext4", "ext4", 64 << 30)),
    }
}

fn bundle(config: serde_json::Value) -> Bundle {
    Bundle {
        directory: PathBuf::from("/bundle"),
        spec: serde_json::from_value(config).unwrap(),
        rootfs: blocks(),
        inline: Vec::new(),
        nodes: Vec::new(),
        sockets: Vec::new(),
        disks: Vec::new(),
        host_disks: Vec::new(),
        memory: None,
    }
}

fn config() -> serde_json::Value {
    json!({
        "ociVersion": "1.0.2",
        "hostname": "web-1",
        "root": {"path": "/var/lib/rootfs", "readonly": false},
        "process": {
            "user": {"uid": 0, "gid": 0, "username": format!("{USER_PREFIX}www:www"), "additionalGids": [7]},
            "args": ["/bin/server"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "apparmorProfile": "docker-default",
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/host/hosts",
             "options": ["rbind", "ro", INLINE_OPTION]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "uts"}],
            "resources": {
                "cpu": {"quota": 150_000, "period": 100_000, "cpus": "2-3"},
                "memory": {"limit": 134_217_728},
            },
        },
        "annotations": {"dev.hull.group-add": "audio,44", "other": "kept on the host"},
    })
}

/// The create request as readable JSON: its spec is JSON inside.
fn readable(request: &CreateContainerRequest) -> serde_json::Value {
    let spec: serde_json::Value = serde_json::from_slice(&request.spec).unwrap();
    json!({
        "container_id": request.container_id,
        "user": request.user,
        "additional_groups": request.additional_groups,
        "rootfs": request.rootfs.as_ref().map(ToString::to_string),
        "volumes": request.volumes.iter().map(|v| format!("{v}")).collect::<Vec<_>>(),
        "files": request.files.iter().map(|f| format!("{f}")).collect::<Vec<_>>(),
        "spec": spec,
    })
}

#[test]
fn a_name_that_is_not_asked_to_be_looked_up_means_nothing() {
    let mut config = config();
    config["process"]["user"]["username"] = json!("root");
    let plan = lower(&bundle(config), &options()).unwrap();
    assert_eq!(plan.create.user, "");
}

#[test]
fn files_of_a_container_have_names_whatever_the_length_of_its_id() {
    let mut bundle = bundle(config());
    bundle.rootfs = RootfsSource::Directory("/root".into());
    let subpath = |id: String| {
        let options = TaskOptions {
            container_id: id,
            ..options()
        };
        let plan = lower(&bundle, &options).unwrap();
        plan.shares.last().unwrap().subpath.clone()
    };
    assert_eq!(subpath("web".into()), "web-rootfs");
    let long = subpath("x".repeat(255));
    assert!(long.len() < 100, "{long}");
    assert_ne!(long, subpath("x".repeat(254)));
}

#[test]
fn numbers_of_the_hosts_devices_stay_on_the_host() {
    let throttle = json!([{"major": 254, "minor": 0, "rate": 1000}]);
    let mut config = config();
    config["linux"]["resources"]["blockIO"] =
        json!({"weight": 100, "throttleReadBpsDevice": throttle});
    config["linux"]["resources"]["unified"] =
        json!({"cpuset.cpus": "3", "io.max": "254:0 wiops=5", "memory.high": "1000"});
    let bundle = bundle(config);
    let plan = lower(&bundle, &options()).unwrap();
    for value in ["254:0 rbps=1000", "254:0 wiops=5"] {
        let wanted = ("io.max", value.to_owned());
        assert!(plan.host_share.contains(&wanted), "{:?}", plan.host_share);
    }
    let spec: serde_json::Value = serde_json::from_slice(&plan.create.spec).unwrap();
    let resources = &spec["linux"]["resources"];
    assert_eq!(resources["blockIO"], json!({"weight": 100}));
    assert_eq!(resources["unified"], json!({"memory.high": "1000"}));
    let error = lower_member(&bundle, &options()).unwrap_err().to_string();
    assert!(error.contains("throttle"), "{error}");
}

#[test]
fn a_member_has_no_bounds_of_the_hosts_devices() {
    let mut config = config();
    config["linux"]["resources"]["unified"] = json!({"io.max": "254:0 wiops=5"});
    let error = lower_member(&bundle(config), &options()).unwrap_err();
    assert!(error.to_string().contains("io.max"), "{error}");
}

#[test]
fn a_name_needs_a_namespace_of_its_own() {
    let mut config = config();
    config["linux"]["namespaces"] = json!([{"type": "network"}]);
    let error = |config| lower(&bundle(config), &options()).unwrap_err().to_string();
    let refused = |what| format!("unable to set {what} without a private UTS namespace");
    assert_eq!(error(config.clone()), refused("hostname"));
    config["hostname"] = json!("");
    config["domainname"] = json!("example");
    assert_eq!(error(config.clone()), refused("domainname"));
    config["linux"]["namespaces"] = json!([{"type": "uts"}]);
    lower(&bundle(config), &options()).unwrap();
}

#[test]
fn an_image_of_layers_is_one_device() {
    let image = BlockFile {
        path: "/images/web.erofs".into(),
        fs_type: "erofs".into(),
        length: 12288,
    };
    let layer = |length| LayerFile {
        path: "/images/layer".into(),
        length,
    };
    let layers = [layer(8192), layer(4096)];
    let name = |index| format!("layer-{index}");
    let (device, files) = image_device(&image, &layers, "image-0", name).unwrap();
    assert_eq!(files.len(), 3);
    let extents: Vec<_> = device
        .extents
        .iter()
        .map(|extent| (extent.fd.to_string(), extent.offset, extent.length))
        .collect();
    let extent = |fd: &str, offset, length| (fd.to_owned(), offset, length);
    assert_eq!(
        extents,
        [
            extent("image-0", 0, 4096),
            extent("layer-0", 0, 8192),
            extent("layer-1", 0, 4096),
            extent("image-0", 4096, 8192),
        ]
    );
}

#[test]
fn an_ordinary_bundle() {
    let mut bundle = bundle(config());
    bundle.inline = vec![InlineMount {
        mount: 1,
        mode: 0o644,
        content: b"127.0.0.1 localhost\n".to_vec(),
    }];
    let plan = lower(&bundle, &options()).unwrap();
    insta::assert_json_snapshot!("ordinary-vm", plan.config);
    insta::assert_json_snapshot!("ordinary-create", readable(&plan.create));
    insta::assert_debug_snapshot!("ordinary-resources", plan.resources);
    assert_eq!(plan.sandbox.hostname, "web-1");
    assert!(plan.shares.is_empty());
}

#[test]
fn a_bind_mount_is_shared_and_its_source_becomes_a_path_of_the_guest() {
    let mut config = config();
    config["mounts"] = json!([
        {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]},
    ]);
    let plan = lower(&bundle(config), &options()).unwrap();
    let want = Share {
        subpath: "web-0".into(),
        source: ShareSource::Path {
            path: "/srv/data".into(),
            recursive: true,
            follow: false,
            within: None,
            id_mapped: None,
        },
        read_only: true,
    };
    assert_eq!(plan.shares, [want]);
    assert_eq!(plan.create.volumes[0].guest_path, "/run/hull/volumes/web-0");
    let spec: Spec = serde_json::from_slice(&plan.create.spec).unwrap();
    let source = spec.mounts().as_ref().unwrap()[0].source().clone();
    assert_eq!(source, Some(PathBuf::from("/run/hull/volumes/web-0")));
}

#[test]
fn a_disk_has_one_slot_however_often_it_is_mounted() {
    let mut config = config();
    let names = ["a", "b", "a"];
    let mounts = names.map(|name| {
        json!({"destination": format!("/{name}"), "type": "ext4", "source": format!("/disks/{name}"),
               "options": ["ro", "hull.within=x"]})
    });
    config["mounts"] = json!(mounts);
    let mut bundle = bundle(config);
    let disk = |(mount, name): (usize, &str)| DiskMount {
        mount,
        file: file(&format!("/disks/{name}"), "ext4", 1 << 30),
        layers: Vec::new(),
        // The last mount of the first disk is the only one that writes.
        read_only: mount < 2,
        within: Some("x".into()),
    };
    bundle.disks = names.into_iter().enumerate().map(disk).collect();
    let plan = lower(&bundle, &options()).unwrap();
    let devices = plan.config.devices.volumes;
    assert_eq!(devices.len(), 2);
    assert!(!devices[0].read_only && devices[1].read_only);
    let locked = plan.resources.iter().filter(|resource| resource.locked);
    let locked: Vec<_> = locked.map(|it| (it.path.clone(), it.writable)).collect();
    assert_eq!(
        locked,
        [("/disks/a".into(), true), ("/disks/b".into(), false)]
    );
    let slots = plan.create.volumes.iter().map(|volume| volume.block().slot);
    assert_eq!(slots.collect::<Vec<_>>(), [2, 3, 2]);
    assert!(plan.create.volumes[0].read_only && !plan.create.volumes[2].read_only);
    let spec: Spec = serde_json::from_slice(&plan.create.spec).unwrap();
    let mount = &spec.mounts().as_ref().unwrap()[1];
    assert_eq!(mount.source(), &Some("/run/hull/volumes/web-disk-1".into()));
    assert_eq!(mount.typ().as_deref(), Some("bind"));
    assert_eq!(mount.options(), &Some(vec!["ro".to_owned()]));
    // One more than there are slots.
    let many = Slot::VOLUMES.len() + 1;
    bundle.disks = (0..many)
        .map(|index| disk((index, &"abcdefghi"[index..=index])))
        .collect();
    let error = lower(&bundle, &options()).unwrap_err();
    assert!(
        matches!(error, LowerError::TooManyDisks { count } if count == many),
        "{error}"
    );
}

#[test]
fn an_image_is_mounted_from_a_disk_that_nobody_has_for_himself() {
    let mut config = config();
    config["mounts"] = json!([{"destination": "/tools", "type": "erofs", "source": "/i/t",
        "options": ["rbind", "ro", "hull.layer=/i/l", "hull.within=usr"]}]);
    let mut bundle = bundle(config);
    bundle.disks = vec![DiskMount {
        mount: 0,
        file: file("/i/t", "erofs", 8192),
        layers: vec![LayerFile {
            path: "/i/l".into(),
            length: 4096,
        }],
        read_only: true,
        within: Some("usr".into()),
    }];
    let plan = lower(&bundle, &options()).unwrap();
    assert_eq!(plan.config.devices.volumes[0].extents.len(), 3);
    let files = plan.resources.iter();
    let files = files.filter(|it| it.name.to_string().starts_with("volume-0"));
    assert_eq!(files.filter(|it| !it.locked && !it.writable).count(), 2);
    let volume = plan.create.volumes[0].block();
    assert!(volume.whole && volume.subpath == "usr" && volume.options == ["ro"]);
    let spec: Spec = serde_json::from_slice(&plan.create.spec).unwrap();
    let options = spec.mounts().as_ref().unwrap()[0].options().clone();
    assert_eq!(options, Some(vec!["rbind".to_owned(), "ro".to_owned()]));
}

#[test]
fn a_bind_mount_follows_the_host_and_is_of_a_part_where_its_options_say_so() {
    let mut config = config();
    config["mounts"] = json!([
        {"destination": "/data", "type": "bind", "source": "/srv/data",
         "options": ["rbind", "rslave", "hull.within=a/b"]},
    ]);
    let plan = lower(&bundle(config), &options()).unwrap();
    let want = ShareSource::Path {
        path: "/srv/data".into(),
        recursive: true,
        follow: true,
        within: Some("a/b".into()),
        id_mapped: None,
    };
    assert_eq!(plan.shares[0].source, want);
    let spec: Spec = serde_json::from_slice(&plan.create.spec).unwrap();
    let options = spec.mounts().as_ref().unwrap()[0].options().clone();
    assert_eq!(options, Some(vec!["rbind".to_owned(), "rslave".to_owned()]));
}

#[test]
fn what_a_container_shares_with_another_of_its_vm_is_the_guests() {
    let mut config = config();
    config["linux"]["namespaces"] = json!([
        {"type": "ipc", "path": "/.hull/containers/db/ns/ipc"}, {"type": "mount"},
        {"type": "uts", "path": "/proc/6/ns/uts"}]);
    config["mounts"] = json!([{"destination": "/dev/shm", "type": "bind",
        "source": "/.hull/containers/db/root/dev/shm", "options": ["rbind"]}]);
    let mut options = TaskOptions {
        pod: Some(Pod {
            members: [("web", 5, 70), ("db", 6, 90)]
                .map(|(id, host_pid, guest_pid)| PodMember {
                    id: id.into(),
                    host_pid,
                    guest_pid,
                    memory: None,
                })
                .into(),
            turn: 1,
        }),
        slots: vec![Slot::VOLUMES[2], Slot::VOLUMES[3]],
        ..options()
    };
    let member = lower_member(&bundle(config.clone()), &options).unwrap();
    let spec: Spec = serde_json::from_slice(&member.create.spec).unwrap();
    let namespaces = spec.linux().clone().unwrap().namespaces().clone().unwrap();
    assert_eq!(namespaces[0].path(), &Some("/proc/90/ns/ipc".into()));
    assert_eq!(namespaces[2].path(), &Some("/proc/90/ns/uts".into()));
    let mount = &spec.mounts().as_ref().unwrap()[0];
    assert_eq!(mount.source(), &Some("/proc/90/root/dev/shm".into()));
    assert!(member.shares.is_empty());
    options.pod.as_mut().unwrap().members.pop();
    let error = lower_member(&bundle(config), &options).unwrap_err();
    assert!(error.to_string().contains("db"), "{error}");
}

#[test]
fn memory_that_containers_share_is_the_guests() {
    let mut config = config();
    config["mounts"] = json!([{"destination": "/dev/shm", "type": "bind",
        "source": "/run/pod/shm", "options": ["rbind", "ro"]}]);
    let mut bundle = bundle(config);
    bundle.memory = Some(SharedMemory {
        mount: 0,
        source: "/run/pod/shm".into(),
        bytes: 64 << 20,
    });
    let mount = |create: &CreateContainerRequest| {
        let spec: Spec = serde_json::from_slice(&create.spec).unwrap();
        spec.mounts().as_ref().unwrap()[0].clone()
    };
    let plan = lower(&bundle, &options()).unwrap();
    assert!(plan.shares.is_empty());
    let first = mount(&plan.create);
    assert_eq!(first.typ().as_deref(), Some("tmpfs"));
    let words = first.options().clone().unwrap().join(",");
    assert_eq!(words, "nosuid,noexec,nodev,mode=1777,size=67108864");

    let member = |memory: &str| PodMember {
        id: "web".into(),
        host_pid: 5,
        guest_pid: 70,
        memory: Some(memory.into()),
    };
    let joining = |members| TaskOptions {
        pod: Some(Pod { members, turn: 1 }),
        slots: vec![Slot::VOLUMES[2], Slot::VOLUMES[3]],
        ..options()
    };
    let members = vec![member("/run/other/shm"), member("/run/pod/shm")];
    let joined = lower_member(&bundle, &joining(members)).unwrap();
    let bound = mount(&joined.create);
    assert_eq!(bound.source(), &Some("/proc/70/root/dev/shm".into()));
    assert_eq!(bound.typ().as_deref(), Some("bind"));
    assert!(joined.shares.is_empty());
    let members = vec![member("/run/other/shm")];
    let alone = lower_member(&bundle, &joining(members)).unwrap();
    assert_eq!(mount(&alone.create).typ().as_deref(), Some("tmpfs"));
}

#[test]
fn an_overlay_is_mounted_on_the_host_and_shown_to_the_guest() {
    let mut config = config();
    config["mounts"] = json!([{"destination": "/d", "type": "overlay", "source": "overlay",
        "options": ["lowerdir=/a:/b", "upperdir=/u", "workdir=/w", "volatile", "private", "ro"]}]);
    let plan = lower(&bundle(config), &options()).unwrap();
    let want = [
        "lowerdir=/a:/b",
        "upperdir=/u",
        "workdir=/w",
        "volatile",
        "ro",
    ];
    let want = RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options: want.map(str::to_owned).into(),
    };
    assert_eq!(plan.shares[0].source, ShareSource::Mounts(vec![want]));
    let spec: Spec = serde_json::from_slice(&plan.create.spec).unwrap();
    let mount = &spec.mounts().as_ref().unwrap()[0];
    assert_eq!(mount.typ().as_deref(), Some("bind"));
    let want = ["private", "ro", "rbind"].map(str::to_owned);
    assert_eq!(mount.options(), &Some(want.into()));
    let shown = PathBuf::from(&plan.create.volumes[0].guest_path);
    assert_eq!(mount.source(), &Some(shown));
}

#[test]
fn a_root_directory_is_shared() {
    let mut bundle = bundle(config());
    bundle.rootfs = RootfsSource::Directory("/rootfs".into());
    bundle.spec.set_mounts(None);
    let plan = lower(&bundle, &options()).unwrap();
    let want = ShareSource::Path {
        path: "/rootfs".into(),
        recursive: true,
        follow: false,
        within: None,
        id_mapped: None,
    };
    assert_eq!(plan.shares[0].source, want);
    assert!(plan.config.devices.fs.is_some());
    assert!(plan.create.rootfs.has_share());
    assert_eq!(plan.config.devices.image, None);
}

#[test]
fn mounts_of_a_snapshotter_are_made_for_the_shared_root() {
    let mut bundle = bundle(config());
    let overlay = RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options: vec!["lowerdir=/l".into()],
    };
    bundle.rootfs = RootfsSource::Mounts(vec![overlay.clone()]);
    bundle.spec.set_mounts(None);
    let plan = lower(&bundle, &options()).unwrap();
    assert_eq!(plan.shares[0].source, ShareSource::Mounts(vec![overlay]));
    assert_eq!(plan.create.rootfs.share().subpath, "web-rootfs");
}

#[test]
fn a_block_device_of_the_host_is_a_disk() {
    let mut bundle = bundle(config());
    bundle.host_disks = vec![HostDisk {
        numbers: (7, 3),
        path: "/dev/loop3".into(),
        length: 1 << 20,
        read_only: true,
    }];
    let plan = lower(&bundle, &options()).unwrap();
    let volumes = &plan.config.devices.volumes;
    assert_eq!((volumes.len(), volumes[0].read_only), (1, true));
    let want = Resource {
        name: "device-0".into(),
        path: "/dev/loop3".into(),
        writable: false,
        locked: true,
    };
    assert_eq!(plan.resources.last(), Some(&want));
    let told = &plan.create.host_disks[0];
    assert_eq!((told.slot, told.major, told.minor), (2, 7, 3));
    let many = Slot::VOLUMES.len() + 1;
    bundle.host_disks = vec![bundle.host_disks[0].clone(); many];
    let error = lower(&bundle, &options()).unwrap_err();
    assert!(matches!(error, LowerError::TooManyDisks { count } if count == many));
}

#[test]
fn a_socket_of_the_host_is_made_in_the_guest() {
    let mut config = config();
    config["mounts"] = json!([
        {"destination": "/run/a.sock", "type": "bind", "source": "/run/a.sock", "options": ["rbind"]}
    ]);
    let mut bundle = bundle(config);
    bundle.sockets = vec![HostSocket {
        mount: 0,
        path: "/run/a.sock".into(),
        mode: 0o660,
        uid: 100_007,
        gid: 5,
    }];
    let plan = lower(&bundle, &options()).unwrap();
    let guest_path = "/run/hull/volumes/web-socket-0";
    let want = Socket {
        guest_path: guest_path.into(),
        path: "/run/a.sock".into(),
    };
    assert_eq!(plan.sockets, [want]);
    assert_eq!((plan.shares.len(), plan.create.volumes.len()), (0, 1));
    let volume = &plan.create.volumes[0];
    assert_eq!(volume.guest_path, guest_path);
    let made = volume.socket();
    assert_eq!((made.mode, made.uid, made.gid), (0o660, 100_007, 5));
    let spec: Spec = serde_json::from_slice(&plan.create.spec).unwrap();
    let mount = &spec.mounts().as_ref().unwrap()[0];
    assert_eq!(mount.source().as_deref(), Some(Path::new(guest_path)));
}

#[test]
fn without_a_writable_layer_there_is_no_scratch_slot() {
    let mut bundle = bundle(config());
    let RootfsSource::Blocks { scratch, .. } = &mut bundle.rootfs else {
        panic!("not block devices");
    };
    *scratch = None;
    let plan = lower(&bundle, &options()).unwrap();
    assert_eq!(plan.create.rootfs.block().scratch_slot, None);
    assert_eq!(plan.config.devices.scratch, None);
}

#[test]
fn a_namespace_of_another_vm_is_named() {
    for kind in ["ipc", "user"] {
        let path = format!("/proc/1/ns/{kind}");
        let mut config = config();
        config["hostname"] = json!("");
        config["linux"]["namespaces"] = json!([{"type": kind, "path": path}]);
        let error = lower(&bundle(config), &options()).unwrap_err().to_string();
        let want = format!("the {kind} namespace {path:?} can't be joined");
        assert!(error.starts_with(&want), "{error}");
    }
}

#[test]
fn what_the_host_does_itself_is_not_in_the_guests_configuration() {
    let mut config = config();
    config["hooks"] = json!({
        "prestart": [{"path": "/host/hook"}],
        "startContainer": [{"path": "/guest/hook"}],
    });
    config["linux"]["namespaces"] =
        json!([{"type": "network", "path": "/run/netns/x"}, {"type": "uts"}]);
    let plan = lower(&bundle(config), &options()).unwrap();
    let guest = String::from_utf8(plan.create.spec).unwrap();
    assert!(!guest.contains("/host/hook"), "{guest}");
    assert!(guest.contains("/guest/hook"), "{guest}");
    assert!(!guest.contains("netns"), "{guest}");
}

#[test]
fn a_scratch_file_that_is_no_block_device_is_refused() {
    let mut bundle = bundle(config());
    let RootfsSource::Blocks { scratch, .. } = &mut bundle.rootfs else {
        panic!("not block devices");
    };
    scratch.as_mut().unwrap().length = 100;
    let error = lower(&bundle, &options()).unwrap_err();
    assert!(matches!(error, LowerError::BlockLength { .. }), "{error}");
}

#[test]
fn a_user_namespace_is_virtiofsds() {
    let mut config = config();
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "user"}, {"type": "uts"}]);
    let lowered = |config: &serde_json::Value| {
        let mut bundle = bundle(config.clone());
        bundle.rootfs = RootfsSource::Directory("/b/rootfs".into());
        lower(&bundle, &options())
    };
    let error = lowered(&config).unwrap_err();
    assert!(
        error.to_string().contains("mappings are missing"),
        "{error}"
    );
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    let plan = lowered(&config).unwrap();
    assert_eq!(plan.id_maps.unwrap().users[0].host_id(), 100_000);
    let guest = String::from_utf8(plan.create.spec).unwrap();
    assert!(
        !guest.contains(r#""type":"user""#) && !guest.contains("Mappings"),
        "{guest}"
    );
    let error = lower(&bundle(config.clone()), &options()).unwrap_err();
    assert!(error.to_string().contains("block devices"), "{error}");
    config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "uts"}]);
    let error = lowered(&config).unwrap_err();
    assert!(error.to_string().contains("no user namespace"), "{error}");
}
