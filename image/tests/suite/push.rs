//! Pushes to a registry on loopback, good and bad.

use std::time::Duration;

use crate::pull::text;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::tarball::Tarball;
use hull_image::{Digest, ImageError, NoProgress, Platform, Pushed, RegistryConfig, Store};

const STALL: Duration = Duration::from_secs(1);

/// What a pull needs, pulled, and the registry that it came from.
struct Fixture {
    _folder: tempfile::TempDir,
    registry: FakeRegistry,
    store: Store,
    image: Digest,
}

impl Fixture {
    /// An image with a layer that does not get smaller, of `bytes` bytes.
    async fn with_layer_of(bytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let config = RegistryConfig {
            docker_config: None,
            backoff: Duration::from_millis(5),
            stall_timeout: STALL,
            ..RegistryConfig::default()
        };
        let store = Store::open(folder.path(), config).expect("open");
        let registry = FakeRegistry::start().await;
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let noise: Vec<u8> = noise.take(bytes).collect();
        let layers = [Tarball::new().file("noise", &noise).finish()];
        registry.image("from", "v1", "linux/amd64", &layers);
        let platform: Platform = "linux/amd64".parse().expect("platform");
        let reference = registry.reference("from:v1");
        let pulled = store.pull(&reference, &platform, &NoProgress).await;
        Self {
            image: pulled.expect("pull").id,
            _folder: folder,
            registry,
            store,
        }
    }

    async fn push(&self, rest: &str) -> Result<Pushed, ImageError> {
        let to = self.registry.reference(rest);
        self.store.tag(&self.image, &to).await.expect("tag");
        self.store.push(&to, &NoProgress).await
    }
}

#[tokio::test]
async fn a_push_takes_longer_than_a_stall_while_bytes_move() {
    let fixture = Fixture::with_layer_of(8 << 20).await;
    let slow = Fault::SlowToTake(Duration::from_millis(20));
    fixture.registry.fault("/blobs/uploads/1", vec![slow]);
    let begun = std::time::Instant::now();
    fixture.push("to:v1").await.expect("push");
    assert!(STALL < begun.elapsed(), "it was not slow");
    assert_eq!(fixture.registry.seen("/to/blobs/uploads/1").len(), 2);
}

#[tokio::test]
async fn a_registry_that_takes_nothing_is_given_up_and_named() {
    let fixture = Fixture::with_layer_of(8 << 20).await;
    let stuck = Fault::SlowToTake(Duration::from_secs(3600));
    fixture.registry.fault("/blobs/uploads/1", vec![stuck; 20]);
    let error = fixture.push("to:v1").await.unwrap_err();
    let text = text(&error);
    assert!(text.contains("stopped taking blob sha256:"), "{text}");
}

#[tokio::test]
async fn every_request_of_a_push_is_tried_again() {
    let fixture = Fixture::with_layer_of(1000).await;
    let busy = || {
        vec![
            Fault::Status(503, vec![]),
            Fault::Status(429, vec![("retry-after", "0".to_owned())]),
        ]
    };
    for suffix in [
        "/to/blobs/uploads/",
        "/to/blobs/uploads/1",
        "/to/manifests/v1",
    ] {
        fixture.registry.fault(suffix, busy());
    }
    fixture.push("to:v1").await.expect("push");
    assert_eq!(fixture.registry.seen("/to/manifests/v1").len(), 3);
}

#[tokio::test]
async fn where_a_blob_of_another_repository_is_refused_it_is_sent() {
    for refusal in [
        Fault::Status(403, vec![]),
        Fault::Status(404, vec![]),
        Fault::Status(405, vec![]),
        Fault::Status(401, vec![]),
        Fault::Status(500, vec![]),
    ] {
        let fixture = Fixture::with_layer_of(1000).await;
        fixture.registry.fault("/to/blobs/uploads/", vec![refusal]);
        fixture.push("to:v1").await.expect("push");
        // Configuration and layer, once each.
        assert_eq!(fixture.registry.seen("/to/blobs/uploads/1").len(), 2);
    }
    // Whoever gives tokens may refuse one for both.
    let fixture = Fixture::with_layer_of(1000).await;
    fixture
        .registry
        .fault("/token", vec![Fault::Status(403, vec![])]);
    let realm = format!("Bearer realm=\"http://{}/token\"", fixture.registry.address);
    let challenged = Fault::Status(401, vec![("www-authenticate", realm)]);
    fixture
        .registry
        .fault("/to/blobs/uploads/", vec![challenged]);
    fixture.push("to:v1").await.expect("push");
    assert_eq!(fixture.registry.seen("/token").len(), 1);
}

#[tokio::test]
async fn who_stores_for_a_registry_is_not_told_its_token() {
    let fixture = Fixture::with_layer_of(1000).await;
    let storage = FakeRegistry::start().await;
    fixture.registry.require_token("dTpw", false);
    let place = format!(
        "http://{}/v2/to/blobs/uploads/elsewhere?signed=1",
        storage.address
    );
    let told = Fault::Status(202, vec![("location", place)]);
    fixture
        .registry
        .fault("/to/blobs/uploads/", vec![told.clone(), told]);
    fixture.push("to:v1").await.expect("push");
    let asked = fixture.registry.seen("/to/blobs/uploads/");
    assert!(asked.iter().any(|seen| seen.authorization.is_some()));
    let stored = storage.seen("/elsewhere");
    assert_eq!(stored.len(), 2);
    assert!(
        stored.iter().all(|seen| seen.authorization.is_none()),
        "{stored:?}"
    );
    // One that wants a login gets none of the registry's.
    let asks = (
        "www-authenticate",
        format!("Bearer realm=\"http://{}/token\"", storage.address),
    );
    storage.fault("/elsewhere", vec![Fault::Status(401, vec![asks]); 9]);
    let place = format!(
        "http://{}/v2/again/blobs/uploads/elsewhere",
        storage.address
    );
    let told = Fault::Status(202, vec![("location", place)]);
    fixture
        .registry
        .fault("/again/blobs/uploads/", vec![told; 4]);
    fixture.push("again:v1").await.expect_err("unauthorized");
    assert!(storage.seen("/token").is_empty());
}
