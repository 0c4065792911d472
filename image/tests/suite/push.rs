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
