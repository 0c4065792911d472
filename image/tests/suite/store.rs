//! Archives in, names on and off, unpacked images, leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::support::tarball::{gzip, Header, Tarball};
use async_trait::async_trait;
use hull_image::{
    Digest, ErrorKind, ImageError, LayerLengths, Leftovers, NoProgress, Reference, RegistryConfig,
    RemoveOptions, Removed, Store, UnpackJob, UnpackOutcome, UnpackProgress, Unpacker,
};
use serde_json::{json, Value};

fn open(root: &Path) -> Store {
    Store::open(
        root,
        RegistryConfig {
            docker_config: None,
            ..RegistryConfig::default()
        },
    )
    .expect("open")
}

fn layer(name: &str) -> Vec<u8> {
    Tarball::new().file(name, name.as_bytes()).finish()
}

fn config(layers: &[Vec<u8>], comment: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|tar| Digest::of(tar).to_string())
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "author": comment, "config": {"Cmd": ["sh"], "Env": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config).expect("JSON")
}

/// As `docker save` before version 25 writes it: `manifest.json` comes last.
fn docker_archive(tags: &[&str], layers: &[Vec<u8>], comment: &str) -> Vec<u8> {
    let config = config(layers, comment);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut tar = Tarball::new().file(&config_name, &config);
    let mut paths = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let path = format!("layer{number}/layer.tar");
        tar = tar
            .directory(&format!("layer{number}/"), 0o755)
            .file(&path, layer);
        paths.push(path);
    }
    let tags = if tags.is_empty() {
        serde_json::Value::Null
    } else {
        serde_json::json!(tags)
    };
    let manifest = serde_json::json!([{"Config": config_name, "RepoTags": tags, "Layers": paths}]);
    tar.file(
        "manifest.json",
        &serde_json::to_vec(&manifest).expect("JSON"),
    )
    .finish()
}

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An OCI layout archive that is being written.
struct Layout(Tarball);

impl Layout {
    fn new() -> Self {
        Self(Tarball::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#))
    }

    /// Its descriptor.
    fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        self.0 = self
            .0
            .clone()
            .file(&format!("blobs/sha256/{}", digest.hex()), content);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": content.len()})
    }

    fn json(&mut self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, &serde_json::to_vec(document).expect("JSON"))
    }

    /// A manifest without a media type of its own, as umoci writes them.
    fn image(&mut self, architecture: &str, layers: &[Vec<u8>]) -> Value {
        let mut config: Value = serde_json::from_slice(&config(layers, "layout")).expect("JSON");
        config["architecture"] = architecture.into();
        let config = self.json("application/vnd.oci.image.config.v1+json", &config);
        let layers: Vec<_> = layers
            .iter()
            .map(|tar| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(tar)))
            .collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.json(OCI_MANIFEST, &manifest)
    }

    fn index(&mut self, entries: &[Value]) -> Value {
        self.json(
            OCI_INDEX,
            &json!({"schemaVersion": 2, "manifests": entries}),
        )
    }

    fn finish(self, entries: &[Value]) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        let index = serde_json::to_vec(&index).expect("JSON");
        self.0.file("index.json", &index).finish()
    }
}

fn named(mut entry: Value, name: &str) -> Value {
    entry["annotations"] = json!({"io.containerd.image.name": name});
    entry
}

fn of_platform(mut entry: Value, architecture: &str) -> Value {
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    entry
}

fn layout_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let mut layout = Layout::new();
    let image = layout.image("amd64", layers);
    layout.finish(&[named(image, name)])
}

async fn load(store: &Store, archive: &[u8]) -> Result<Vec<(Digest, Vec<String>)>, ImageError> {
    let loaded = store.load(archive, None, &NoProgress).await?;
    Ok(loaded
        .into_iter()
        .map(|one| (one.image.id, one.names))
        .collect())
}

/// Files below `root`, locks left out.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.file_type().expect("type").is_dir() {
                true => pending.push(entry.path()),
                false if name != "lock" && name != "lease" => found.push(name),
                false => {}
            }
        }
    }
    found.sort();
    found
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn docker_archive_is_loaded_plain_and_compressed() {
    for compressed in [false, true] {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = open(folder.path());
        let archive = docker_archive(&["app:1", "app:2"], &[layer("a"), layer("b")], "x");
        let archive = if compressed { gzip(&archive) } else { archive };
        let loaded = load(&store, &archive).await.expect("load");
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].1, ["app:1", "app:2"]);
        let image = store.get("app:1").await.expect("by name");
        assert_eq!(image.id, loaded[0].0);
        assert_eq!(image.layers.len(), 2);
        // Configuration, manifest and two layers; nothing of the archive's own files is left.
        assert_eq!(files(&folder.path().join("content")).len(), 4);
    }
}

#[tokio::test]
async fn oci_layout_is_loaded() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let loaded = load(
        &store,
        &layout_archive("docker.io/library/app:9", &[layer("a")]),
    )
    .await
    .expect("load");
    assert_eq!(loaded[0].1, ["app:9"]);
    assert_eq!(store.get("app:9").await.expect("by name").layers.len(), 1);
}

#[tokio::test]
async fn an_index_in_an_index_is_followed() {
    for depth in 1..=3 {
        let mut layout = Layout::new();
        let mut entry = layout.image("amd64", &[layer("a")]);
        for _ in 0..depth {
            entry = layout.index(&[entry]);
        }
        let folder = tempfile::tempdir().expect("tempdir");
        let loaded = load(
            &open(folder.path()),
            &layout.finish(&[named(entry, "app:1")]),
        )
        .await;
        assert_eq!(loaded.expect("load")[0].1, ["app:1"], "{depth} indexes");
    }
}

#[tokio::test]
async fn what_is_for_others_is_passed_over() {
    let mut layout = Layout::new();
    // One that says what it is for, whose blobs are elsewhere, one that does not, and no image at all.
    let elsewhere = of_platform(Layout::new().image("arm64", &[layer("b")]), "arm64");
    let unsaid = layout.image("s390x", &[layer("c")]);
    let chart = json!({"mediaType": "application/vnd.cncf.helm.config.v1+json",
        "digest": Digest::of(b"{}").to_string(), "size": 2});
    let artifact = json!({"schemaVersion": 2, "config": chart, "layers": []});
    let artifact = layout.json(OCI_MANIFEST, &artifact);
    let ours = layout.image("amd64", &[layer("a")]);
    let others = [named(elsewhere, "app:1"), unsaid, artifact];
    let all = [&others[..], &[of_platform(named(ours, "app:1"), "amd64")]].concat();
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let archive = Layout(layout.0.clone()).finish(&all);
    let loaded = load(&store, &archive).await.expect("load");
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].1, ["app:1"]);
    // Nothing else is there: what is whole is taken.
    let archive = Layout(layout.0.clone()).finish(&others);
    assert_eq!(load(&store, &archive).await.expect("load").len(), 1);
    let other = store.list().await.expect("list").into_iter();
    let mut other = other.filter(|image| image.platform().architecture == "s390x");
    assert!(other.next().is_some());
    // Nothing at all: the first is named.
    let archive = layout.finish(&[others[0].clone(), others[2].clone()]);
    let error = load(&store, &archive).await.expect_err("others");
    assert!(error.to_string().contains("arm64"), "{error}");
}

#[tokio::test]
async fn an_archive_for_another_platform_is_taken_to_be_passed_on() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let theirs = config(&[layer("a")], "x");
    let theirs = String::from_utf8(theirs).expect("text");
    let theirs = theirs.replace("amd64", "arm64");
    let manifest = json!([{"Config": "c.json", "RepoTags": ["app:arm"], "Layers": ["l"]}]);
    let docker = Tarball::new()
        .file("c.json", theirs.as_bytes())
        .file("l", &layer("a"))
        .file("manifest.json", manifest.to_string().as_bytes())
        .finish();
    let mut layout = Layout::new();
    let arm = of_platform(layout.image("arm64", &[layer("b")]), "arm64");
    let ppc = of_platform(Layout::new().image("ppc64le", &[layer("c")]), "ppc64le");
    let index = layout.index(&[ppc, arm]);
    let layout = layout.finish(&[named(index, "app:arm")]);
    for archive in [&docker, &layout] {
        let loaded = load(&store, archive).await.expect("load");
        assert_eq!(loaded[0].1, ["app:arm"]);
        let image = store.get("app:arm").await.expect("by name");
        assert_eq!(image.platform().to_string(), "linux/arm64");
        // Who names one gets no other.
        let other: hull_image::Platform = "linux/s390x".parse().expect("platform");
        let error = store.load(&archive[..], Some(&other), &NoProgress).await;
        let error = error.expect_err("another").to_string();
        assert!(
            error.contains("arm64") && error.contains("s390x"),
            "{error}"
        );
        let arm: hull_image::Platform = "linux/arm64".parse().expect("platform");
        let loaded = store.load(&archive[..], Some(&arm), &NoProgress).await;
        assert_eq!(loaded.expect("load").len(), 1);
    }
}

#[tokio::test]
async fn layers_that_were_packed_as_sparse_files_are_whole() {
    // Zeros before, between and behind what is stored.
    let mut content = vec![0; 40_000];
    content[1024..1536].fill(b'a');
    content[30_720..31_000].fill(b'b');
    let layer = Tarball::new().file("hollow", &content).finish();
    let ranges = [(0, 512), (1536, 512), (31_232, 512)];
    let mut map = format!("{}\n", ranges.len());
    let mut stored = Vec::new();
    for (offset, length) in ranges {
        map.push_str(&format!("{offset}\n{length}\n"));
        stored.extend_from_slice(&layer[offset..offset + length]);
    }
    let mut packed = map.into_bytes();
    packed.resize(512, 0);
    packed.extend(stored);
    let record = |text: &str| format!("{} {text}\n", text.len() + 4);
    let records = [
        record("GNU.sparse.major=1"),
        record("GNU.sparse.minor=0"),
        record("GNU.sparse.name=layer"),
        record(&format!("GNU.sparse.realsize={}", layer.len())),
    ];
    let header = Header {
        kind: b'x',
        ..Header::default()
    };
    let config = config(std::slice::from_ref(&layer), "x");
    let manifest = json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["layer"]}]);
    let archive = Tarball::new()
        .entry(b"pax", &header, records.concat().as_bytes())
        .file("GNUSparseFile.1/layer", &packed)
        .file("c.json", &config)
        .file("manifest.json", manifest.to_string().as_bytes())
        .finish();
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    // That the layer has its digest is checked where it is loaded.
    let loaded = load(&store, &archive).await.expect("load");
    assert_eq!(loaded[0].1, ["app:1"]);
}

#[tokio::test]
async fn an_archive_of_docker_may_have_images_for_others() {
    let ours = config(&[layer("a")], "x");
    let theirs = String::from_utf8(ours.clone())
        .expect("text")
        .replace("amd64", "arm64");
    let manifest = json!([
        {"Config": "theirs.json", "RepoTags": ["app:arm"], "Layers": ["l"]},
        {"Config": "ours.json", "RepoTags": ["app:1"], "Layers": ["l"]},
    ]);
    let archive = Tarball::new()
        .file("ours.json", &ours)
        .file("theirs.json", theirs.as_bytes())
        .file("l", &layer("a"))
        .file(
            "manifest.json",
            &serde_json::to_vec(&manifest).expect("JSON"),
        )
        .finish();
    let folder = tempfile::tempdir().expect("tempdir");
    let loaded = load(&open(folder.path()), &archive).await.expect("load");
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].1, ["app:1"]);
}

#[tokio::test]
async fn an_archive_may_be_packed_by_xz_or_bzip2() {
    let plain = tempfile::tempdir().expect("tempdir");
    let file = plain.path().join("archive");
    std::fs::write(&file, docker_archive(&["app:1"], &[layer("a")], "x")).expect("write");
    for program in ["xz", "bzip2"] {
        let mut packed = std::process::Command::new(program);
        // Not every machine has both.
        let Ok(packed) = packed.arg("-c").arg(&file).output() else {
            continue;
        };
        let folder = tempfile::tempdir().expect("tempdir");
        let store = open(folder.path());
        let loaded = load(&store, &packed.stdout).await.expect(program);
        assert_eq!(loaded[0].1, ["app:1"], "{program}");
        let half = &packed.stdout[..packed.stdout.len() / 2];
        assert!(load(&open(plain.path()), half).await.is_err(), "{program}");
    }
}

#[tokio::test]
async fn archive_without_names_is_loaded_by_id() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let loaded = load(&store, &docker_archive(&[], &[layer("a")], "x"))
        .await
        .expect("load");
    assert!(loaded[0].1.is_empty());
    let image = store.get(&loaded[0].0.to_string()).await.expect("by ID");
    assert!(image.repo_tags.is_empty());
}

#[tokio::test]
async fn layers_shared_by_symbolic_link_are_found() {
    let layers = [layer("a"), layer("a")];
    let config = config(&layers, "x");
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    // Beside the link; some mean the root.
    for target in ["../one/layer.tar", "one/layer.tar"] {
        let archive = Tarball::new()
            .file(
                "manifest.json",
                &serde_json::to_vec(&manifest).expect("JSON"),
            )
            .file("c.json", &config)
            .file("./one/layer.tar", &layers[0])
            .symlink("two/layer.tar", target)
            .symlink("round", "round")
            .finish();
        let folder = tempfile::tempdir().expect("tempdir");
        let store = open(folder.path());
        load(&store, &archive).await.expect("load");
        let image = store.get("app:1").await.expect("get");
        assert_eq!(image.layers[0], image.layers[1]);
    }
}

#[tokio::test]
async fn what_is_no_image_is_named_and_leaves_nothing() {
    let wrong_layer = {
        let config = config(&[layer("a")], "x");
        let manifest =
            serde_json::json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["l"]}]);
        Tarball::new()
            .file(
                "manifest.json",
                &serde_json::to_vec(&manifest).expect("JSON"),
            )
            .file("c.json", &config)
            .file("l", &layer("b"))
            .finish()
    };
    let mut cut = docker_archive(&["app:1"], &[layer("a")], "x");
    cut.truncate(3000);
    let mut cut_gzip = gzip(&docker_archive(&["app:1"], &[layer("a")], "x"));
    cut_gzip.truncate(100);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "text",
            b"hello, I am no archive\n".repeat(100),
            "not a tar archive",
        ),
        ("empty", Vec::new(), "neither manifest.json"),
        ("other tar", layer("a"), "neither manifest.json"),
        (
            "no JSON",
            Tarball::new().file("manifest.json", b"{").finish(),
            "manifest.json",
        ),
        (
            "no images",
            Tarball::new().file("manifest.json", b"[]").finish(),
            "names no image",
        ),
        (
            "missing",
            Tarball::new()
                .file("manifest.json", br#"[{"Config":"c.json","Layers":["l"]}]"#)
                .finish(),
            "it has no c.json",
        ),
        ("wrong layer", wrong_layer, "has digest"),
        (
            "wrong blob",
            Tarball::new()
                .file(&format!("blobs/sha256/{}", Digest::of(b"x").hex()), b"y")
                .finish(),
            "has digest",
        ),
        ("cut", cut, "ends inside an entry"),
        ("cut gzip", cut_gzip, "read the archive"),
        (
            "bad name",
            docker_archive(&["APP:1"], &[layer("a")], "x"),
            "lowercase",
        ),
    ];
    for (name, archive, want) in cases {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = open(folder.path());
        let error = load(&store, &archive).await.expect_err(name);
        assert!(error.to_string().contains(want), "{name}: {error}");
        assert!(
            files(folder.path()).is_empty(),
            "{name}: {:?}",
            files(folder.path())
        );
    }
}

#[tokio::test]
async fn tags_move_and_names_are_found_in_all_forms() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let one = load(&store, &docker_archive(&["app:1"], &[layer("a")], "one"))
        .await
        .expect("load")[0]
        .0;
    let two = load(&store, &docker_archive(&["app:2"], &[layer("a")], "two"))
        .await
        .expect("load")[0]
        .0;
    let reference: Reference = "app:1".parse().expect("reference");
    store.tag(&two, &reference).await.expect("tag");
    assert_eq!(
        store.get("docker.io/library/app:1").await.expect("get").id,
        two
    );
    assert!(store
        .get(&one.to_string())
        .await
        .expect("get")
        .repo_tags
        .is_empty());
    assert_eq!(
        store.get(&two.hex()[..8]).await.expect("get").repo_tags,
        ["app:1", "app:2"]
    );
    let unknown = store.get("nothing").await.expect_err("unknown");
    assert_eq!(
        (unknown.kind(), unknown.to_string()),
        (ErrorKind::NotFound, "No such image: nothing:latest".into())
    );
    assert!(store.tag(&Digest::of(b"x"), &reference).await.is_err());
}

#[tokio::test]
async fn blobs_live_as_long_as_an_image_needs_them() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let shared = layer("shared");
    let one = load(
        &store,
        &docker_archive(&["app:1"], &[shared.clone(), layer("a")], "1"),
    )
    .await
    .expect("load")[0]
        .0;
    load(
        &store,
        &docker_archive(&["app:2"], std::slice::from_ref(&shared), "2"),
    )
    .await
    .expect("load");
    let removed = store
        .remove("app:1", &RemoveOptions::default())
        .await
        .expect("remove");
    assert_eq!(
        removed,
        [Removed::Untagged("app:1".into()), Removed::Deleted(one)]
    );
    let blobs = files(&folder.path().join("content/blobs"));
    assert_eq!(blobs.len(), 3);
    assert!(blobs.contains(&Digest::of(&shared).hex()));
    store
        .remove("app:2", &RemoveOptions::default())
        .await
        .expect("remove");
    assert!(files(&folder.path().join("content")).is_empty());
}

#[tokio::test]
async fn removal_respects_names_and_containers() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let id = load(
        &store,
        &docker_archive(&["app:1", "other:1"], &[layer("a")], "x"),
    )
    .await
    .expect("load")[0]
        .0;
    let free = RemoveOptions::default();
    let used = RemoveOptions {
        force: false,
        in_use: BTreeMap::from([(id, "c0ffee".to_owned())]),
    };

    let error = store
        .remove(&id.hex()[..12], &free)
        .await
        .expect_err("two repositories");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        store.remove("app:1", &used).await.expect("one name"),
        [Removed::Untagged("app:1".into())]
    );
    let error = store.remove("other:1", &used).await.expect_err("in use");
    assert!(error.to_string().contains("c0ffee"), "{error}");
    // By force the name goes, and the image stays for its container.
    let forced = RemoveOptions {
        force: true,
        ..used
    };
    assert_eq!(
        store.remove("other:1", &forced).await.expect("force"),
        [Removed::Untagged("other:1".into())]
    );
    assert!(store
        .get(&id.to_string())
        .await
        .expect("still there")
        .repo_tags
        .is_empty());
    assert!(store
        .prune(false, &BTreeSet::from([id]))
        .await
        .expect("prune")
        .removed
        .is_empty());
    let report = store.prune(false, &BTreeSet::new()).await.expect("prune");
    assert_eq!(report.removed, [Removed::Deleted(id)]);
    assert!(report.reclaimed > 1000);
    assert!(store.list().await.expect("list").is_empty());
}

#[tokio::test]
async fn prune_takes_tagged_images_only_when_told_to() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    load(&store, &docker_archive(&["app:1"], &[layer("a")], "x"))
        .await
        .expect("load");
    assert!(store
        .prune(false, &BTreeSet::new())
        .await
        .expect("prune")
        .removed
        .is_empty());
    assert_eq!(
        store
            .prune(true, &BTreeSet::new())
            .await
            .expect("prune")
            .removed
            .len(),
        2
    );
    assert!(files(&folder.path().join("content")).is_empty());
}

#[derive(Default)]
struct FakeUnpacker {
    runs: AtomicUsize,
    layers: AtomicUsize,
    known: AtomicUsize,
    fail: bool,
    hang: bool,
}

#[async_trait]
impl Unpacker for FakeUnpacker {
    async fn unpack(
        &self,
        job: UnpackJob,
        progress: Arc<dyn UnpackProgress>,
    ) -> Result<UnpackOutcome, Box<dyn std::error::Error + Send + Sync>> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        assert_eq!(std::fs::metadata(&job.output)?.len(), job.output_size);
        for layer in &job.layers {
            assert_eq!(std::fs::metadata(&layer.path)?.len(), layer.length);
        }
        progress.layer(0, 100);
        std::fs::OpenOptions::new()
            .write(true)
            .open(&job.output)?
            .write_all(&[7; 4096])?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if self.hang {
            std::future::pending::<()>().await;
        }
        if self.fail {
            return Err("layer sha256:x: no".into());
        }
        let mut lengths = Vec::new();
        for layer in &job.layers {
            std::fs::write(&layer.data, [1; 4096])?;
            lengths.push(LayerLengths {
                data: 4096,
                index: 4096,
            });
        }
        self.layers.fetch_add(job.layers.len(), Ordering::SeqCst);
        self.known.fetch_add(job.known.len(), Ordering::SeqCst);
        Ok(UnpackOutcome {
            image_length: 8192,
            files: 1,
            layers: lengths,
        })
    }
}

#[tokio::test]
async fn unpacking_runs_once_for_all_and_is_shared_by_equal_layers() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let one = load(&store, &docker_archive(&["app:1"], &[layer("a")], "1"))
        .await
        .expect("load")[0]
        .0;
    let two = load(&store, &docker_archive(&["app:2"], &[layer("a")], "2"))
        .await
        .expect("load")[0]
        .0;
    let unpacker = FakeUnpacker::default();
    let other_process = open(folder.path());
    let runs = [
        (&store, &one),
        (&store, &one),
        (&other_process, &one),
        (&other_process, &two),
    ];
    let runs = runs.map(|(store, image)| store.ensure_unpacked(image, &unpacker, &NoProgress));
    let paths: BTreeSet<_> = futures_util::future::join_all(runs)
        .await
        .into_iter()
        .map(|path| path.expect("unpack"))
        .collect();
    assert_eq!(unpacker.runs.load(Ordering::SeqCst), 1);
    assert_eq!(paths.len(), 1);
    let path = &paths.first().expect("path").metadata;
    assert_eq!(std::fs::metadata(path).expect("metadata").len(), 8192);
    assert_eq!(
        store.get("app:1").await.expect("get").unpacked_size,
        Some(8192 + 4096)
    );
    store
        .remove("app:1", &RemoveOptions::default())
        .await
        .expect("remove");
    assert!(path.exists(), "the other image needs it");
    store
        .remove("app:2", &RemoveOptions::default())
        .await
        .expect("remove");
    assert!(!path.exists());
    assert_eq!(files(&folder.path().join("erofs")), names(&[]));
}

#[tokio::test]
async fn a_layer_is_unpacked_once_and_lives_as_long_as_an_image_has_it() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let unpacker = FakeUnpacker::default();
    let mut made = Vec::new();
    for (name, layers) in [
        ("app:1", vec![layer("a"), layer("b"), layer("a")]),
        ("app:2", vec![layer("a"), layer("b"), layer("c")]),
    ] {
        let archive = docker_archive(&[name], &layers, name);
        let id = load(&store, &archive).await.expect("load")[0].0;
        let rootfs = store.ensure_unpacked(&id, &unpacker, &NoProgress).await;
        made.push(rootfs.expect("unpack"));
    }
    let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
    assert_eq!((count(&unpacker.layers), count(&unpacker.known)), (3, 2));
    assert_eq!(made[0].layers, made[1].layers[..2]);
    let gone = made[1].layers[2].clone();
    let options = RemoveOptions::default();
    store.remove("app:2", &options).await.expect("remove");
    assert!(!gone.exists() && made[0].layers[1].exists());
    store.remove("app:1", &options).await.expect("remove");
    assert!(files(&folder.path().join("erofs")).is_empty());
}

#[tokio::test]
async fn failed_and_dropped_unpacking_leave_nothing_and_heal() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let id = load(&store, &docker_archive(&["app:1"], &[layer("a")], "1"))
        .await
        .expect("load")[0]
        .0;
    let failing = FakeUnpacker {
        fail: true,
        ..FakeUnpacker::default()
    };
    let error = store
        .ensure_unpacked(&id, &failing, &NoProgress)
        .await
        .expect_err("fails");
    assert!(error.to_string().contains("app:1") && error.kind() == ErrorKind::BadImage);
    let hanging = FakeUnpacker {
        hang: true,
        ..FakeUnpacker::default()
    };
    let run = store.ensure_unpacked(&id, &hanging, &NoProgress);
    assert!(tokio::time::timeout(Duration::from_millis(200), run)
        .await
        .is_err());
    assert!(files(&folder.path().join("erofs")).is_empty());
    store
        .ensure_unpacked(&id, &FakeUnpacker::default(), &NoProgress)
        .await
        .expect("heals");
}

#[tokio::test]
async fn leftovers_of_a_crash_are_collected() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    load(&store, &docker_archive(&["app:1"], &[layer("a")], "1"))
        .await
        .expect("load");
    let before = files(folder.path());
    std::fs::write(folder.path().join("content/tmp/ingest-x"), b"half").expect("write");
    std::fs::write(folder.path().join("erofs/2/abc.tmp"), b"half").expect("write");
    std::fs::write(folder.path().join("erofs/2/abc.erofs"), b"of no image").expect("write");
    let orphan = Digest::of(b"orphan").hex();
    std::fs::create_dir_all(
        folder
            .path()
            .join("content/blobs/sha256")
            .join(&orphan[..2]),
    )
    .expect("create");
    std::fs::write(
        folder
            .path()
            .join("content/blobs/sha256")
            .join(&orphan[..2])
            .join(&orphan),
        b"orphan",
    )
    .expect("write");
    let collected = open(folder.path())
        .collect_leftovers()
        .await
        .expect("collect");
    assert_eq!(
        collected,
        Leftovers {
            temporary: 2,
            unreferenced: 2
        }
    );
    assert_eq!(files(folder.path()), before);
}

/// The file of a blob.
fn blob(root: &Path, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    root.join("content/blobs/sha256").join(&hex[..2]).join(hex)
}

#[tokio::test]
async fn damaged_configuration_is_named_and_hides_no_other_image() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let archive = |tag, comment| docker_archive(&[tag], &[layer("a")], comment);
    let loaded = load(&store, &archive("app:1", "1")).await.expect("load");
    load(&store, &archive("app:2", "2")).await.expect("load");
    let id = loaded[0].0;
    let path = blob(folder.path(), &id);
    std::fs::remove_file(&path).expect("remove");
    std::fs::write(&path, b"{}").expect("write");
    let error = store.get("app:1").await.expect_err("damaged");
    assert!(
        error.kind() == ErrorKind::Host && error.to_string().contains(&id.hex()),
        "{error}"
    );
    let listed = store.list().await.expect("list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].repo_tags, ["app:2"]);
    // It can still be removed.
    assert_eq!(store.resolve("app:1").await.expect("resolve"), (id, 1));
    let removed = store.remove("app:1", &RemoveOptions::default()).await;
    assert!(removed.expect("remove").contains(&Removed::Deleted(id)));
}

#[tokio::test]
async fn a_damaged_layer_is_found_before_the_image_is_saved() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let id = load(&store, &docker_archive(&["app:1"], &[layer("a")], "1"))
        .await
        .expect("load")[0]
        .0;
    let saved = [hull_image::Saved {
        image: id,
        names: Vec::new(),
        made: 0,
    }];
    store.verify(&saved).expect("whole");
    let digest = store.get("app:1").await.expect("image").layers[0].digest;
    let path = blob(folder.path(), &digest);
    let content = std::fs::read(&path).expect("read");
    for damaged in [Some(&content[..content.len() - 1]), Some(b"other"), None] {
        std::fs::remove_file(&path).expect("remove");
        if let Some(damaged) = damaged {
            std::fs::write(&path, damaged).expect("write");
        }
        let error = store.verify(&saved).expect_err("damaged").to_string();
        assert!(error.contains(&digest.hex()), "{error}");
    }
}
