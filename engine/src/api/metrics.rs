//! `/hull/metrics`: figures in Prometheus' text form, looked up when they are asked for.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use futures_util::StreamExt as _;

use super::respond::Answer;
use super::Shared;
use crate::container::Container;
use crate::engine::Engine;
use crate::lifecycle::Status;
use crate::stats::Sample;

/// Containers that are looked at at once.
const AT_ONCE: usize = 16;
const STATES: [Status; 7] = [
    Status::Created,
    Status::Running,
    Status::Paused,
    Status::Restarting,
    Status::Removing,
    Status::Exited,
    Status::Dead,
];

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/hull/metrics", get(metrics))
}

/// One value of a container: name, kind, help, and how it is read.
type Series = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Sample) -> Option<f64>,
);

const SERIES: [Series; 8] = [
    (
        "hull_container_cpu_seconds_total",
        "counter",
        "CPU time of the container's processes.",
        |sample| Some(sample.cpu_seconds()),
    ),
    (
        "hull_container_memory_bytes",
        "gauge",
        "Memory of the container's processes, as the guest counts it.",
        |sample| Some(sample.memory_bytes()),
    ),
    (
        "hull_container_pids",
        "gauge",
        "Processes and threads in the container.",
        |sample| Some(sample.pids()),
    ),
    (
        "hull_container_host_memory_bytes",
        "gauge",
        "Memory that the host gives the container's VM, that of its VMM included.",
        Sample::host_memory_bytes,
    ),
    (
        "hull_container_network_receive_bytes_total",
        "counter",
        "Bytes that the container has received.",
        |sample| Some(sample.network_bytes("rx_bytes")),
    ),
    (
        "hull_container_network_transmit_bytes_total",
        "counter",
        "Bytes that the container has sent.",
        |sample| Some(sample.network_bytes("tx_bytes")),
    ),
    (
        "hull_container_block_read_bytes_total",
        "counter",
        "Bytes that the container has read from its disks.",
        |sample| Some(sample.block_bytes().0),
    ),
    (
        "hull_container_block_written_bytes_total",
        "counter",
        "Bytes that the container has written to its disks.",
        |sample| Some(sample.block_bytes().1),
    ),
];

async fn metrics(engine: Shared) -> Answer<Response> {
    let all: Vec<Arc<Container>> = engine.containers().values().cloned().collect();
    let mut text = String::new();
    head(&mut text, "hull_engine_info", "gauge", "The engine.");
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(text, "hull_engine_info{{version=\"{version}\"}} 1");
    head(
        &mut text,
        "hull_containers",
        "gauge",
        "Containers by state.",
    );
    for state in STATES {
        let count = all.iter().filter(|c| c.status() == state).count();
        let _ = writeln!(
            text,
            "hull_containers{{state=\"{}\"}} {count}",
            state.name()
        );
    }
    head(&mut text, "hull_images", "gauge", "Local images.");
    let _ = writeln!(text, "hull_images {}", engine.images.list().await?.len());
    let live = all.into_iter().filter(|c| c.status() == Status::Running);
    let looks = live.map(|container| {
        let engine = Arc::clone(&engine);
        async move {
            let sample = engine.sample(&container).await;
            // One that ends meanwhile has no figures.
            Some((container.name(), container.id().to_owned(), sample.ok()?))
        }
    });
    let mut samples: Vec<_> = futures_util::stream::iter(looks)
        .buffer_unordered(AT_ONCE)
        .filter_map(|found| async move { found })
        .collect()
        .await;
    samples.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, kind, help, read) in SERIES {
        head(&mut text, name, kind, help);
        for (container, id, sample) in &samples {
            let Some(value) = read(sample) else { continue };
            // Neither has a character that would have to be escaped.
            let _ = writeln!(text, "{name}{{name=\"{container}\",id=\"{id}\"}} {value}");
        }
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
