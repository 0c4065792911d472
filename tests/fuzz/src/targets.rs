//! The targets.

use hull_network::egress::Egress;
use hull_network::Prefix;
use hull_protocol::{agent, dial, resolver, sandbox, watch};
use hull_shim::annotations::Annotations;
use hull_shim::lower::{lower, HostFacts, TaskOptions};
use hull_shim::network::Attachments;
use hull_shim::spec::{Bundle, RootfsSource};
use hull_vm_config::control::{Event, Request};
use hull_vm_config::{JailConfig, VmConfig};
use oci_spec::runtime::Spec;
use protobuf::Message;

use super::Target;

const fn target(name: &'static str, what: &'static str, run: fn(&[u8])) -> Target {
    Target { name, what, run }
}

pub(super) const ALL: &[Target] = &[
    target(
        "devices",
        "a guest's registers, rings and memory",
        hull_vmm::devices::fuzz::guest,
    ),
    target(
        "shares",
        "both sides of a shared directory",
        hull_vmm::devices::fuzz::share,
    ),
    target("control", "packets of the VMM's control socket", control),
    target("vm_config", "the VMM's configuration", vm_config),
    target("agent", "an agent's answers", agent_messages),
    target("frames", "headers of the guest's connections", frames),
    target("oci_spec", "config.json of a bundle", oci_spec),
    target("annotations", "annotations of a container", annotations),
    target("tar", "a layer's tar", hull_image::unpack::fuzz::tar),
    target(
        "layer",
        "a layer on its way to EROFS",
        hull_image::unpack::fuzz::layer,
    ),
    target(
        "index",
        "the index of an unpacked layer",
        hull_image::unpack::fuzz::index,
    ),
    target(
        "manifest",
        "manifests, indexes and configurations",
        hull_image::fuzz::manifest,
    ),
    target(
        "archive",
        "archives that are loaded",
        hull_image::fuzz::archive,
    ),
    target("reference", "names of images", hull_image::fuzz::reference),
    target(
        "challenge",
        "a registry's WWW-Authenticate",
        hull_image::fuzz::challenge,
    ),
    target(
        "create",
        "bodies of the Docker API",
        hull_engine::fuzz::create,
    ),
    target(
        "bodies",
        "bodies of other calls of the Docker API",
        hull_engine::fuzz::bodies,
    ),
    target("dns", "questions about names", hull_engine::fuzz::dns),
    target(
        "dockerfile",
        "changes of an image's configuration",
        hull_engine::fuzz::dockerfile,
    ),
    target("egress", "egress policies and prefixes", egress),
];

fn control(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        survives(&request);
    }
    if let Ok(event) = serde_json::from_slice::<Event>(data) {
        survives(&event);
    }
}

fn vm_config(data: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<VmConfig>(data) {
        survives(&config);
    }
}

/// What was read can be written, and reads the same again.
fn survives<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    if let Ok(text) = serde_json::to_vec(value) {
        let again: Result<T, _> = serde_json::from_slice(&text);
        assert_eq!(again.ok().as_ref(), Some(value));
    }
}

fn agent_messages(data: &[u8]) {
    // Whether it is one does not matter: it must end.
    let _ = agent::HelloResponse::parse_from_bytes(data);
    let _ = agent::WaitProcessResponse::parse_from_bytes(data);
    hull_shim::fuzz::agent(data);
    let _ = agent::ClockResponse::parse_from_bytes(data);
    let _ = agent::DiagnoseResponse::parse_from_bytes(data);
    let _ = agent::Event::parse_from_bytes(data);
    let _ = agent::UnpackProgressResponse::parse_from_bytes(data);
    let _ = agent::UnpackResponse::parse_from_bytes(data);
    let _ = sandbox::VmResponse::parse_from_bytes(data);
}

fn frames(data: &[u8]) {
    if let Some(bytes) = data.first_chunk() {
        if let Some(header) = resolver::Header::from_bytes(*bytes) {
            assert_eq!(header.to_bytes(), *bytes);
        }
    }
    if let Some(bytes) = data.first_chunk() {
        if let Some(to) = dial::destination(*bytes) {
            assert_eq!(dial::destination(dial::preamble(to)), Some(to));
        }
    }
    if let Some(bytes) = data.first_chunk() {
        if let Some(event) = watch::Event::from_bytes(*bytes) {
            assert_eq!(event.to_bytes(), *bytes);
        }
    }
    let Some((header, path)) = data.split_first_chunk() else {
        return;
    };
    if let Some(change) = watch::Change::from_bytes(*header) {
        assert_eq!(change.to_bytes(), *header);
        let plain = |part| matches!(part, std::path::Component::Normal(_));
        let path = watch::relative(path);
        assert!(path.is_none_or(|path| path.components().all(plain) && path.parent().is_some()));
    }
}

fn oci_spec(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(data) else {
        return;
    };
    let bundle = Bundle {
        directory: "/bundle".into(),
        spec,
        rootfs: RootfsSource::Directory("/rootfs".into()),
        inline: Vec::new(),
        nodes: Vec::new(),
        sockets: Vec::new(),
        disks: Vec::new(),
        host_disks: Vec::new(),
        memory: None,
    };
    let options = TaskOptions {
        sandbox_id: "s".into(),
        container_id: "c".into(),
        terminal: false,
        jail: JailConfig { uid: 1, gid: 1 },
        host: HostFacts {
            cpus: 4,
            memory_bytes: 8 << 30,
        },
        network: Attachments::default(),
        pod: None,
        slots: Vec::new(),
    };
    let _ = lower(&bundle, &options);
}

fn annotations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (name, value) = text.split_once('\n').unwrap_or((&text, ""));
    let all = [(name.to_owned(), value.to_owned())].into();
    if let Ok(parsed) = Annotations::parse(Some(&all)) {
        let _ = parsed.network.map(|network| network.lower());
    }
    if let Ok(attachments) = Attachments::parse(value) {
        let _ = attachments.lower();
    }
}

fn egress(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(policy) = text.parse::<Egress>() {
        let again = policy.to_string().parse::<Egress>();
        assert_eq!(again.ok().as_ref(), Some(&policy));
    }
    let _ = text.parse::<Prefix>();
}
