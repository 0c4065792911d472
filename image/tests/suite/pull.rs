//! Pulls from a registry on loopback, good and bad.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::registry::{FakeRegistry, Fault};
use crate::support::tarball::{gzip, Tarball};
use hull_image::{
    Credentials, Digest, ErrorKind, Image, ImageError, LayerPhase, NoProgress, Platform, Progress,
    ProgressEvent, Reference, RegistryConfig, Store,
};

struct Fixture {
    folder: tempfile::TempDir,
    registry: FakeRegistry,
    store: Store,
}

fn config() -> RegistryConfig {
    RegistryConfig {
        docker_config: None,
        backoff: Duration::from_millis(5),
        ..RegistryConfig::default()
    }
}

async fn fixture() -> Fixture {
    fixture_with(config()).await
}

async fn fixture_with(config: RegistryConfig) -> Fixture {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(folder.path(), config).expect("open");
    Fixture {
        folder,
        registry: FakeRegistry::start().await,
        store,
    }
}

impl Fixture {
    async fn pull(&self, rest: &str) -> Result<Image, ImageError> {
        self.store
            .pull(&self.registry.reference(rest), &amd64(), &NoProgress)
            .await
    }

    /// Files below the store that are neither locks nor folders.
    fn files(&self, below: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.folder.path().join(below)];
        while let Some(path) = pending.pop() {
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                match entry.file_type().expect("type").is_dir() {
                    true => pending.push(entry.path()),
                    false => found.push(entry.file_name().to_string_lossy().into_owned()),
                }
            }
        }
        found
    }
}

fn amd64() -> Platform {
    "linux/amd64".parse().expect("platform")
}

fn layer(name: &str) -> Vec<u8> {
    Tarball::new().file(name, name.as_bytes()).finish()
}

/// The whole chain of messages.
/// An error with its causes.
pub(crate) fn text(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[tokio::test]
async fn pulled_image_is_complete_and_named() {
    let f = fixture().await;
    f.registry
        .image("app", "1", "linux/amd64", &[layer("a"), layer("b")]);
    let image = f.pull("app:1").await.expect("pull");
    assert_eq!(image.repo_tags, [format!("{}/app:1", f.registry.address)]);
    assert_eq!(image.repo_digests.len(), 1);
    assert_eq!(
        image.layers[0].diff_id.as_bytes(),
        Digest::of(&layer("a")).as_bytes()
    );
    assert_eq!(
        image.config.config().as_ref().and_then(|c| c.env().clone()),
        Some(vec!["A=1".into()])
    );
    let by_id = f
        .store
        .get(&image.id.hex()[..12])
        .await
        .expect("by short ID");
    assert_eq!(by_id.id, image.id);
    assert_eq!(f.store.list().await.expect("list").len(), 1);
    assert_eq!(f.files("content/blobs").len(), 4);
    assert!(f.files("content/partial").is_empty() && f.files("content/tmp").is_empty());
}

#[tokio::test]
async fn second_pull_fetches_no_blob_and_says_up_to_date() {
    #[derive(Default)]
    struct Events(Mutex<Vec<ProgressEvent>>);
    impl Progress for Events {
        fn event(&self, event: ProgressEvent) {
            self.0.lock().expect("lock").push(event);
        }
    }
    let f = fixture().await;
    f.registry
        .image("app", "latest", "linux/amd64", &[layer("a")]);
    let reference = f.registry.reference("app");
    let (first, second) = (Events::default(), Events::default());
    f.store
        .pull(&reference, &amd64(), &first)
        .await
        .expect("pull");
    let blobs = f.registry.seen("/blobs/").len();
    f.store
        .pull(&reference, &amd64(), &second)
        .await
        .expect("pull again");
    assert_eq!(f.registry.seen("/blobs/").len(), blobs);
    let phases = |events: &Events| -> Vec<LayerPhase> {
        let events = events.0.lock().expect("lock");
        let phase = |event: &ProgressEvent| match event {
            ProgressEvent::Layer { phase, .. } => Some(*phase),
            _ => None,
        };
        events.iter().filter_map(phase).collect()
    };
    assert_eq!(phases(&first).first(), Some(&LayerPhase::PullingFsLayer));
    assert_eq!(phases(&first).last(), Some(&LayerPhase::DownloadComplete));
    assert!(matches!(
        phases(&first)[1],
        LayerPhase::Downloading { current: 0, .. }
    ));
    assert_eq!(
        phases(&second),
        [LayerPhase::PullingFsLayer, LayerPhase::AlreadyExists]
    );
    let last = |events: &Events| events.0.lock().expect("lock").last().cloned();
    assert_eq!(last(&first), Some(ProgressEvent::Complete { newer: true }));
    assert_eq!(
        last(&second),
        Some(ProgressEvent::Complete { newer: false })
    );
}

#[tokio::test]
async fn registry_that_is_down_is_named() {
    let f = fixture().await;
    let reference: Reference = "127.0.0.1:1/app:1".parse().expect("reference");
    let error = f
        .store
        .pull(&reference, &amd64(), &NoProgress)
        .await
        .expect_err("down");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        text(&error).contains("127.0.0.1:1/app:1") && text(&error).contains("refused"),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn unknown_image_is_not_found() {
    let f = fixture().await;
    let error = f.pull("nothing:here").await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        text(&error).contains("nothing:here") && text(&error).contains("manifest unknown"),
        "{}",
        text(&error)
    );
    assert!(f.files("content").iter().all(|name| name == "lease"));
}

#[tokio::test]
async fn a_token_for_the_registry_itself_is_sent_as_it_is() {
    let f = fixture().await;
    f.registry.image("app", "1", "linux/amd64", &[layer("a")]);
    f.registry.require_token("dTpw", true);
    let credentials = Credentials {
        username: hull_image::credentials::REGISTRY_TOKEN_USER.into(),
        password: "secret".into(),
    };
    let credentials = BTreeMap::from([(f.registry.address.to_string(), credentials)]);
    let folder = tempfile::tempdir().expect("tempdir");
    let config = RegistryConfig {
        credentials,
        ..config()
    };
    let store = Store::open(folder.path(), config).expect("open");
    let reference = f.registry.reference("app:1");
    store
        .pull(&reference, &amd64(), &NoProgress)
        .await
        .expect("with the token");
    assert!(f.registry.seen("/token").is_empty());
}

/// Runs in a process of its own, whose environment names a proxy that is not there.
#[tokio::test]
async fn no_proxy_is_asked_for_a_registry_of_this_host() {
    const INSIDE: &str = "HULL_TEST_BEHIND_PROXY";
    if std::env::var_os(INSIDE).is_some() {
        let f = fixture().await;
        f.registry.image("app", "1", "linux/amd64", &[layer("a")]);
        f.pull("app:1").await.expect("pull");
        return;
    }
    let own = std::env::current_exe().expect("own path");
    let mut inside = tokio::process::Command::new(own);
    inside.args([
        "--exact",
        "pull::no_proxy_is_asked_for_a_registry_of_this_host",
    ]);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        inside.env(name, "http://127.0.0.1:1");
    }
    let output = inside.env(INSIDE, "1").output().await.expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[tokio::test]
async fn token_flow_works_with_and_without_credentials() {
    let user = "dTpw"; // u:p
    let f = fixture().await;
    f.registry.image("app", "1", "linux/amd64", &[layer("a")]);
    f.registry.require_token(user, false);
    f.pull("app:1").await.expect("anonymous token");
    assert_eq!(f.registry.seen("/token").len(), 1, "the token is kept");

    let denied = fixture().await;
    denied
        .registry
        .image("app", "1", "linux/amd64", &[layer("a")]);
    denied.registry.require_token(user, true);
    let error = denied.pull("app:1").await.expect_err("no credentials");
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        text(&error).contains("bad credentials") && text(&error).contains("app:1"),
        "{}",
        text(&error)
    );

    let credentials = Credentials {
        username: "u".into(),
        password: "p".into(),
    };
    let credentials = BTreeMap::from([(denied.registry.address.to_string(), credentials)]);
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(
        folder.path(),
        RegistryConfig {
            credentials,
            ..config()
        },
    )
    .expect("open");
    store
        .pull(&denied.registry.reference("app:1"), &amd64(), &NoProgress)
        .await
        .expect("with credentials");
}

#[tokio::test]
async fn forbidden_is_not_tried_again() {
    let f = fixture().await;
    f.registry
        .fault("manifests/1", vec![Fault::Status(403, Vec::new()); 9]);
    assert_eq!(
        f.pull("app:1").await.expect_err("403").kind(),
        ErrorKind::Unauthorized
    );
    assert_eq!(f.registry.seen("manifests/1").len(), 1);
}

#[tokio::test]
async fn rate_limit_waits_as_long_as_it_is_told() {
    let f = fixture().await;
    f.registry.image("app", "1", "linux/amd64", &[layer("a")]);
    let limited = || Fault::Status(429, vec![("retry-after", "1".into())]);
    f.registry.fault("manifests/1", vec![limited(), limited()]);
    f.pull("app:1").await.expect("pull");
    let seen = f.registry.seen("manifests/1");
    assert_eq!(seen.len(), 3);
    for pair in seen.windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_secs(1));
    }
}

#[tokio::test]
async fn rate_limit_without_end_is_given_up() {
    let f = fixture().await;
    f.registry
        .fault("manifests/1", vec![Fault::Status(429, Vec::new()); 99]);
    let error = f.pull("app:1").await.expect_err("limited");
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert!(text(&error).contains("limits the rate"), "{}", text(&error));
    assert_eq!(f.registry.seen("manifests/1").len(), 5);
    // An hour is more than anybody waits for.
    f.registry.fault(
        "manifests/2",
        vec![Fault::Status(429, vec![("retry-after", "3600".into())])],
    );
    let error = f.pull("app:2").await.expect_err("limited");
    assert!(text(&error).contains("3600 s"), "{}", text(&error));
}

#[tokio::test]
async fn server_errors_are_tried_again_and_then_named() {
    let f = fixture().await;
    f.registry.image("app", "1", "linux/amd64", &[layer("a")]);
    f.registry
        .fault("manifests/1", vec![Fault::Status(503, Vec::new()); 4]);
    f.pull("app:1").await.expect("fifth try");
    f.registry
        .fault("manifests/1", vec![Fault::Status(500, Vec::new()); 99]);
    let error = f.pull("app:1").await.expect_err("500");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(text(&error).contains("500"), "{}", text(&error));
}

#[tokio::test]
async fn broken_download_is_resumed_where_it_broke() {
    let f = fixture().await;
    let noise: Vec<u8> = (0..200_000_u32)
        .flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes())
        .collect();
    let tar = Tarball::new().file("noise", &noise).finish();
    let blob = gzip(&tar);
    f.registry.image("app", "1", "linux/amd64", &[tar]);
    let digest = Digest::of(&blob);
    f.registry
        .fault(&digest.hex(), vec![Fault::Cut(blob.len() * 9 / 10)]);
    f.pull("app:1").await.expect("pull");
    let seen = f.registry.seen(&digest.hex());
    assert_eq!(seen.len(), 2);
    assert!(seen[1].range.is_some(), "{seen:?}");
    assert!(f.registry.bytes_sent() < blob.len() as u64 * 12 / 10 + 4096);
}

#[tokio::test]
async fn registry_without_ranges_sends_it_all_again() {
    let f = fixture().await;
    let tar = layer("a");
    let digest = Digest::of(&gzip(&tar));
    f.registry.image("app", "1", "linux/amd64", &[tar]);
    f.registry
        .fault(&digest.hex(), vec![Fault::Cut(20), Fault::NoRange]);
    f.pull("app:1").await.expect("pull");
}

#[tokio::test]
async fn blob_that_is_always_cut_ends_in_an_error_and_nothing_is_named() {
    let f = fixture().await;
    let tar = layer("a");
    let digest = Digest::of(&gzip(&tar));
    f.registry.image("app", "1", "linux/amd64", &[tar]);
    f.registry.fault(&digest.hex(), vec![Fault::Cut(0); 99]);
    let error = f.pull("app:1").await.expect_err("truncated");
    assert!(
        text(&error).contains(&digest.to_string()) && text(&error).contains("ended after 0 of"),
        "{}",
        text(&error)
    );
    assert!(f.store.list().await.expect("list").is_empty());
}

#[tokio::test]
async fn wrong_content_is_refused_and_forgotten() {
    for fault in [Fault::Garbage, Fault::Twice] {
        let f = fixture().await;
        let tar = layer("a");
        let digest = Digest::of(&gzip(&tar));
        f.registry.image("app", "1", "linux/amd64", &[tar]);
        f.registry.fault(&digest.hex(), vec![fault]);
        let error = f.pull("app:1").await.expect_err("wrong content");
        assert_eq!(error.kind(), ErrorKind::BadImage);
        assert!(
            text(&error).contains(&digest.to_string()),
            "{}",
            text(&error)
        );
        assert!(f.store.list().await.expect("list").is_empty());
        f.pull("app:1").await.expect("the registry is right again");
    }
}

#[tokio::test]
async fn manifest_that_is_not_its_digest_is_refused() {
    let f = fixture().await;
    let descriptor = f.registry.image("app", "1", "linux/amd64", &[layer("a")]);
    let digest = descriptor["digest"].as_str().expect("digest");
    f.registry.fault(digest, vec![Fault::Garbage]);
    let error = f
        .pull(&format!("app@{digest}"))
        .await
        .expect_err("wrong manifest");
    assert!(text(&error).contains(digest), "{}", text(&error));
    f.pull(&format!("app@{digest}"))
        .await
        .expect("right manifest");
}

#[tokio::test]
async fn index_gives_the_platform_that_was_asked_for() {
    let f = fixture().await;
    let with = |mut descriptor: serde_json::Value, platform: serde_json::Value| {
        descriptor["platform"] = platform;
        descriptor
    };
    let unknown = serde_json::json!({"os": "unknown", "architecture": "unknown"});
    let mut attestation = with(
        f.registry
            .image("app", "x", "linux/amd64", &[layer("attestation")]),
        unknown,
    );
    attestation["annotations"] =
        serde_json::json!({"vnd.docker.reference.type": "attestation-manifest"});
    let arm = f
        .registry
        .image("app", "x", "linux/arm/v7", &[layer("arm")]);
    let arm64 = f
        .registry
        .image("app", "x", "linux/arm64", &[layer("arm64")]);
    let amd = f
        .registry
        .image("app", "x", "linux/amd64", &[layer("amd64")]);
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [
            attestation,
            with(arm, serde_json::json!({"os": "linux", "architecture": "arm", "variant": "v7"})),
            with(arm64, serde_json::json!({"os": "linux", "architecture": "arm64"})),
            with(amd, serde_json::json!({"os": "linux", "architecture": "amd64"})),
        ],
    });
    f.registry.document("app", "multi", &index);
    let image = f.pull("app:multi").await.expect("amd64");
    assert_eq!(
        image.layers[0].diff_id.as_bytes(),
        Digest::of(&layer("amd64")).as_bytes()
    );
    let arm64: Platform = "linux/arm64/v8".parse().expect("platform");
    let image = f
        .store
        .pull(&f.registry.reference("app:multi"), &arm64, &NoProgress)
        .await
        .expect("arm64");
    assert_eq!(
        image.layers[0].diff_id.as_bytes(),
        Digest::of(&layer("arm64")).as_bytes()
    );

    let windows = f
        .registry
        .image("app", "x", "windows/amd64", &[layer("windows")]);
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [with(windows, serde_json::json!({"os": "windows", "architecture": "amd64"}))],
    });
    f.registry.document("app", "windows", &index);
    let error = f.pull("app:windows").await.expect_err("windows only");
    assert!(
        text(&error).contains("no matching manifest for linux/amd64"),
        "{}",
        text(&error)
    );
    assert!(text(&error).contains("windows/amd64"), "{}", text(&error));
}

#[tokio::test]
async fn image_for_another_architecture_is_refused() {
    let f = fixture().await;
    f.registry.image("app", "1", "linux/s390x", &[layer("a")]);
    let error = f.pull("app:1").await.expect_err("s390x");
    assert!(
        text(&error).contains("linux/s390x") && text(&error).contains("linux/amd64"),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn documents_that_are_no_image_are_refused_by_name() {
    let f = fixture().await;
    let layer = f.registry.blob(
        "app",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        &gzip(&layer("a")),
    );
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
    let config = f
        .registry
        .blob("app", "application/vnd.oci.image.config.v1+json", config);
    let manifest = |config: &serde_json::Value, layers: serde_json::Value| {
        serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers})
    };
    let artifact = f
        .registry
        .blob("app", "application/vnd.cncf.helm.config.v1+json", b"{}");
    let cases = [
        (
            "foreign",
            manifest(&config, serde_json::json!([layer])),
            "foreign layer",
        ),
        (
            "helm",
            manifest(&artifact, serde_json::json!([])),
            "artifact",
        ),
        (
            "fewer",
            manifest(&config, serde_json::json!([])),
            "1 diff IDs for 0 layers",
        ),
        (
            "schema1",
            serde_json::json!({"schemaVersion": 1, "name": "x"}),
            "schema 1",
        ),
        ("text", serde_json::json!("hello"), "not valid"),
    ];
    for (tag, document, want) in cases {
        f.registry.document("app", tag, &document);
        let error = f.pull(&format!("app:{tag}")).await.expect_err(tag);
        assert_eq!(error.kind(), ErrorKind::BadImage, "{tag}");
        assert!(text(&error).contains(want), "{tag}: {}", text(&error));
    }
}

#[tokio::test]
async fn large_manifests_are_taken_and_huge_ones_refused() {
    let f = fixture().await;
    let image = f.registry.image("app", "x", "linux/amd64", &[layer("a")]);
    let index = |padding: usize| {
        serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [image], "annotations": {"padding": "x".repeat(padding)}})
    };
    f.registry.document("app", "large", &index(3_900_000));
    f.pull("app:large").await.expect("3.9 MB");
    f.registry.document("app", "huge", &index(30_000_000));
    let error = f.pull("app:huge").await.expect_err("30 MB");
    assert!(
        text(&error).contains("limit of 8388608"),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn damaged_blobs_are_found_and_pulled_again() {
    let f = fixture().await;
    f.registry
        .image("app", "1", "linux/amd64", &[layer("a"), layer("b")]);
    let image = f.pull("app:1").await.expect("pull");
    let blob = |at: usize| {
        let hex = image.layers[at].digest.hex();
        let folder = f.folder.path().join("content/blobs/sha256");
        folder.join(&hex[..2]).join(hex)
    };
    assert_eq!(f.store.check().await.expect("check"), []);
    let whole = std::fs::read(blob(0)).expect("read");
    // Cut off: the next pull sees it by itself.
    std::fs::remove_file(blob(0)).expect("remove");
    std::fs::write(blob(0), &whole[..whole.len() / 2]).expect("write");
    f.pull("app:1").await.expect("pull");
    assert_eq!(std::fs::read(blob(0)).expect("read"), whole);
    // Changed, and gone.
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    std::fs::remove_file(blob(0)).expect("remove");
    std::fs::write(blob(0), flipped).expect("write");
    std::fs::remove_file(blob(1)).expect("remove");
    let found = f.store.check().await.expect("check");
    assert_eq!(found.len(), 2);
    for damage in &found {
        let names = &damage.images[&image.id];
        assert_eq!(damage.missing, damage.digest == image.layers[1].digest);
        f.store.discard(damage).await.expect("discard");
        let platform = amd64();
        let again = f.store.pull(&names[0], &platform, &NoProgress);
        again.await.expect("pull again");
    }
    assert_eq!(f.store.check().await.expect("check"), []);
}

#[tokio::test]
async fn ten_pulls_at_once_fetch_each_blob_once() {
    let f = fixture().await;
    let tar = layer("a");
    let digest = Digest::of(&gzip(&tar));
    f.registry
        .image("app", "1", "linux/amd64", &[tar, layer("b")]);
    f.registry
        .fault(&digest.hex(), vec![Fault::Slow(Duration::from_millis(200))]);
    // Stores of their own, as processes have.
    let stores: Vec<Store> = (0..10)
        .map(|_| Store::open(f.folder.path(), config()).expect("open"))
        .collect();
    let reference = f.registry.reference("app:1");
    let platform = amd64();
    let pulls = stores
        .iter()
        .map(|store| store.pull(&reference, &platform, &NoProgress));
    for result in futures_util::future::join_all(pulls).await {
        result.expect("pull");
    }
    assert_eq!(f.registry.seen("/blobs/").len(), 3);
    assert!(f.files("content/partial").is_empty());
}

#[tokio::test]
async fn dropped_pull_is_resumed_by_the_next() {
    let f = fixture().await;
    let tar = layer("a");
    let digest = Digest::of(&gzip(&tar));
    f.registry.image("app", "1", "linux/amd64", &[tar]);
    let hanging = Fault::Slow(Duration::from_secs(600));
    f.registry
        .fault(&digest.hex(), vec![Fault::Cut(30), hanging]);
    assert!(
        tokio::time::timeout(Duration::from_millis(500), f.pull("app:1"))
            .await
            .is_err()
    );
    assert_eq!(f.files("content/partial"), [digest.hex()]);
    f.pull("app:1").await.expect("resumed");
    let last = f
        .registry
        .seen(&digest.hex())
        .pop()
        .and_then(|seen| seen.range);
    assert_eq!(last.as_deref(), Some("bytes=30-"));
}

#[tokio::test]
async fn same_configuration_in_other_compression_is_one_image_and_keeps_both() {
    let f = fixture().await;
    let tar = layer("a");
    let first = f
        .registry
        .image("app", "gz", "linux/amd64", std::slice::from_ref(&tar));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["A=1"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar).to_string()]},
    });
    let config = f.registry.blob(
        "app",
        "application/vnd.oci.image.config.v1+json",
        &serde_json::to_vec(&config).expect("JSON"),
    );
    let plain = f
        .registry
        .blob("app", "application/vnd.oci.image.layer.v1.tar", &tar);
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [plain]});
    f.registry.document("app", "plain", &manifest);
    let one = f.pull("app:gz").await.expect("gzip");
    let other = f.pull("app:plain").await.expect("plain");
    assert_eq!(one.id, other.id);
    assert_ne!(one.manifest, other.manifest);
    assert_eq!(other.repo_tags.len(), 2);
    f.store.collect_leftovers().await.expect("collect");
    let kept = |digest: &str| blob_path(f.folder.path(), digest).exists();
    assert!(
        kept(first["digest"].as_str().expect("digest")),
        "the first manifest is kept"
    );
    assert!(kept(&one.layers[0].digest.to_string()) && kept(&other.layers[0].digest.to_string()));
}

fn blob_path(root: &Path, digest: &str) -> std::path::PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    root.join("content/blobs/sha256").join(&hex[..2]).join(hex)
}

#[tokio::test]
async fn what_a_registry_has_is_told_without_its_layers() {
    let f = fixture().await;
    let manifest = f
        .registry
        .image("app", "1", "linux/arm64/v8", &[layer("a")]);
    let found = f.store.look(&f.registry.reference("app:1")).await;
    let found = found.expect("look");
    assert_eq!(found.digest.to_string(), manifest["digest"]);
    assert_eq!(found.media_type, manifest["mediaType"]);
    assert_eq!(Some(found.size), manifest["size"].as_u64());
    assert_eq!(found.platforms, ["linux/arm64".parse().expect("platform")]);
    let mut entry = manifest.clone();
    entry["platform"] = serde_json::json!({ "os": "linux", "architecture": "s390x" });
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let index = f.registry.document("app", "many", &index);
    let found = f.store.look(&f.registry.reference("app:many")).await;
    let found = found.expect("look");
    assert_eq!(found.digest.to_string(), index["digest"]);
    assert_eq!(found.platforms, ["linux/s390x".parse().expect("platform")]);
    // No layer was asked for, and nothing is kept.
    assert_eq!(f.registry.seen("/blobs/").len(), 1);
    assert!(f.files("content").is_empty());
    let missing = f.store.look(&f.registry.reference("app:none")).await;
    assert_eq!(missing.expect_err("none").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_search_gives_what_the_registry_finds_or_says_that_it_offers_none() {
    let f = fixture().await;
    let registry = f.registry.address.to_string();
    let error = f.store.search(&registry, "redis", 5).await;
    let error = error.expect_err("no search");
    assert!(
        text(&error).contains("offers no search"),
        "{}",
        text(&error)
    );
    let answer =
        br#"{"num_results":1,"results":[{"name":"me/redis","star_count":7,"is_official":true}]}"#;
    f.registry.put("/v1/search", "application/json", answer);
    let found = f.store.search(&registry, "redis", 5).await.expect("found");
    assert_eq!(
        (found[0].name.as_str(), found[0].star_count),
        ("me/redis", 7)
    );
    f.registry.put("/v1/search", "application/json", b"[]");
    f.store
        .search(&registry, "redis", 5)
        .await
        .expect_err("no answer to a search");
}

/// A store that asks `mirror` before the registry.
async fn with_mirror(mirror: &str) -> Fixture {
    let mut f = fixture().await;
    let mirror = format!("{}={mirror}", f.registry.address);
    let config = RegistryConfig {
        mirrors: vec![mirror.parse().expect("mirror")],
        ..config()
    };
    f.store = Store::open(f.folder.path(), config).expect("open");
    f
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_for_what_it_has_not() {
    let mirror = FakeRegistry::start().await;
    let f = with_mirror(&format!("http://{}", mirror.address)).await;
    let layers = [layer("a"), layer("b")];
    for registry in [&f.registry, &mirror] {
        registry.image("app", "1", "linux/amd64", &layers);
    }
    let second = Digest::of(&gzip(&layers[1])).to_string();
    mirror.fault(&second, vec![Fault::Status(404, Vec::new())]);
    let image = f.pull("app:1").await.expect("pull");
    // The image is the registry's, by its name.
    assert_eq!(image.repo_tags, [format!("{}/app:1", f.registry.address)]);
    assert!(f.registry.seen("/manifests/").is_empty());
    let blobs: Vec<_> = f.registry.seen("/blobs/");
    assert_eq!(blobs.len(), 1, "{blobs:?}");
    assert!(blobs[0].path.ends_with(&second));
}

#[tokio::test]
async fn a_mirror_that_is_down_is_passed_over() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let address = gone.expect("bind").local_addr().expect("address");
    let f = with_mirror(&format!("http://{address}")).await;
    f.registry
        .image("app", "1", "linux/amd64", &[layer("a"), layer("b")]);
    f.pull("app:1").await.expect("pull");
}

#[tokio::test]
async fn a_mirror_that_sends_other_content_is_found_out() {
    let mirror = FakeRegistry::start().await;
    let f = with_mirror(&format!("http://{}", mirror.address)).await;
    for registry in [&f.registry, &mirror] {
        registry.image("app", "1", "linux/amd64", &[layer("a")]);
    }
    let digest = Digest::of(&gzip(&layer("a"))).to_string();
    mirror.fault(&digest, vec![Fault::Garbage; 9]);
    let error = f.pull("app:1").await.expect_err("other content");
    assert!(text(&error).contains("has digest"), "{}", text(&error));
    assert!(f.files("content/blobs").len() < 3);
}
