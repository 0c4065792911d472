use std::path::Path;

use axum::routing::post;
use axum::{Json, Router};
use serde_json::{json, Value};
use tokio::net::UnixListener;

use super::discover::Places;
use super::*;

/// A plugin whose methods give these answers.
fn serve(path: &Path, answers: Vec<(&'static str, Value)>) {
    let mut router = Router::new();
    for (method, answer) in answers {
        router = router.route(&format!("/{method}"), post(move || async { Json(answer) }));
    }
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
}

fn plugins(dir: &Path) -> Plugins {
    Plugins::in_places(Places::new(dir, &dir.join("specifications")))
}

fn volume_driver() -> (&'static str, Value) {
    ("Plugin.Activate", json!({"Implements": ["VolumeDriver"]}))
}

#[tokio::test]
async fn a_driver_says_what_its_volumes_are() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    serve(
        &dir.path().join("good.sock"),
        vec![
            volume_driver(),
            ("VolumeDriver.Create", json!({})),
            ("VolumeDriver.Mount", json!({"Mountpoint": data, "Err": ""})),
            ("VolumeDriver.Unmount", json!({"Err": "not mounted"})),
            (
                "VolumeDriver.Get",
                json!({"Volume": {"Name": "v", "Mountpoint": "/m", "Status": {"a": [1]}}}),
            ),
            (
                "VolumeDriver.List",
                json!({"Volumes": [{"Name": "v"}, {"Name": "a\nb"}, {"Name": ""}]}),
            ),
            (
                "VolumeDriver.Capabilities",
                json!({"Capabilities": {"Scope": "global"}}),
            ),
        ],
    );
    let plugins = plugins(dir.path());
    let driver = plugins.volume_driver("good", Patience::Work).await.unwrap();
    driver.create("v", &Default::default()).await.unwrap();
    assert_eq!(driver.mount("v", "id").await.unwrap(), data);
    let text = driver.unmount("v", "id").await.unwrap_err().to_string();
    assert_eq!(text, "VolumeDriver.Unmount: not mounted");
    let found = driver.get("v").await.unwrap();
    assert_eq!(found.mountpoint.as_deref(), Some("/m"));
    assert_eq!(json!(found.status), json!({"a": [1]}));
    assert!(driver.get("other").await.is_err());
    assert_eq!(driver.list().await.unwrap().len(), 1);
    assert_eq!(driver.scope().await, "global");
    let text = driver.remove("v").await.unwrap_err().to_string();
    assert_eq!(text, "plugin \"good\" does not support VolumeDriver.Remove");
    let names: Vec<_> = plugins.volume_drivers().await;
    assert_eq!(
        names.iter().map(VolumeDriver::name).collect::<Vec<_>>(),
        ["good"]
    );
}

#[tokio::test]
async fn what_a_plugin_answers_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let paths = [
        json!("relative"),
        json!("/"),
        json!("/etc/../etc"),
        json!(file),
        json!("/no/such/place"),
        json!(format!("/{}", "x/".repeat(4000))),
        json!(""),
        json!(null),
        json!(7),
    ];
    for (number, path) in paths.into_iter().enumerate() {
        let name = format!("p{number}");
        serve(
            &dir.path().join(format!("{name}.sock")),
            vec![
                volume_driver(),
                ("VolumeDriver.Mount", json!({"Mountpoint": path})),
            ],
        );
        let plugins = plugins(dir.path());
        let driver = plugins.volume_driver(&name, Patience::None).await.unwrap();
        let error = driver.mount("v", "id").await.unwrap_err();
        assert!(
            matches!(error, CallError::Garbled { .. }),
            "{path}: {error}"
        );
    }
    serve(
        &dir.path().join("large.sock"),
        vec![
            volume_driver(),
            ("VolumeDriver.List", json!({"x": "y".repeat(5 << 20)})),
        ],
    );
    let plugins = plugins(dir.path());
    let driver = plugins
        .volume_driver("large", Patience::None)
        .await
        .unwrap();
    assert!(driver.list().await.is_err());
    assert_eq!(driver.scope().await, "local");
}

#[tokio::test]
async fn other_plugins_and_absent_ones_are_no_drivers() {
    let dir = tempfile::tempdir().unwrap();
    let network = json!({"Implements": ["NetworkDriver"]});
    serve(
        &dir.path().join("net.sock"),
        vec![("Plugin.Activate", network)],
    );
    let plugins = plugins(dir.path());
    let error = plugins
        .volume_driver("net", Patience::None)
        .await
        .unwrap_err();
    assert!(matches!(error, PluginError::OtherKind(_)), "{error}");
    // A socket that nobody serves any more.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("dead.sock")).unwrap());
    let error = plugins
        .volume_driver("dead", Patience::None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, PluginError::Call(ref error) if error.is_silence()),
        "{error}"
    );
    assert!(plugins.volume_drivers().await.is_empty());
}
