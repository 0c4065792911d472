//! A running container's figures, as Docker tells them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use hull_shim::cpu_list::CpuList;
use serde_json::{json, Value};

use crate::container::{joins, live_task, Container};
use crate::engine::Engine;
use crate::error::Result;
use crate::record::Record;

/// Clock ticks per second of Docker's `system_cpu_usage`.
const TICKS: u64 = 100;
const NANOSECONDS: u64 = 1_000_000_000;

/// How long a VM may take to tell what it costs; the figures of its container do not wait for it.
const VM_LIMIT: Duration = Duration::from_secs(1);

/// One look at a container.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    read: jiff::Timestamp,
    metrics: Metrics,
    networks: HashMap<String, Value>,
    /// What the host pays for the VM: memory of its guest and of its VMM, in bytes. Unknown where the
    /// container is in another's VM, or the VM does not answer.
    host_memory: Option<u64>,
    host_cpu: u64,
    online_cpus: u64,
}

impl Sample {
    /// CPU time of all processes so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.metrics.cpu.usage_usec as f64 / 1e6
    }

    /// Memory of all processes, in bytes.
    pub(crate) fn memory_bytes(&self) -> f64 {
        self.metrics.memory.usage as f64
    }

    /// Memory that the host gives its VM.
    pub(crate) fn host_memory_bytes(&self) -> Option<f64> {
        self.host_memory.map(|bytes| bytes as f64)
    }

    /// Bytes that its interfaces have received or sent, by docker's name of the counter.
    pub(crate) fn network_bytes(&self, counter: &str) -> f64 {
        let of = |counters: &Value| counters[counter].as_u64();
        self.networks.values().filter_map(of).sum::<u64>() as f64
    }

    /// Bytes that it has read from its disks, and written to them.
    pub(crate) fn block_bytes(&self) -> (f64, f64) {
        let io = &self.metrics.io.usage;
        let read: u64 = io.iter().map(|device| device.rbytes).sum();
        let written: u64 = io.iter().map(|device| device.wbytes).sum();
        (read as f64, written as f64)
    }

    /// Processes and threads.
    pub(crate) fn pids(&self) -> f64 {
        self.metrics.pids.current as f64
    }
}

impl Engine {
    /// Looks at a running container once.
    pub(crate) async fn sample(&self, container: &Arc<Container>) -> Result<Sample> {
        let task = live_task(container)?;
        let joined = joins(&container.record().host);
        let vm = async {
            match joined {
                // It would be told once more for each that is in it.
                true => None,
                false => {
                    let asked = tokio::time::timeout(VM_LIMIT, task.vm());
                    asked.await.ok().and_then(Result::ok)
                }
            }
        };
        let (metrics, vm) = tokio::join!(task.stats(), vm);
        let metrics = metrics?;
        Ok(Sample {
            host_memory: vm.map(|vm| {
                vm.memory_resident_bytes
                    .saturating_add(vm.vmm_overhead_bytes)
            }),
            read: jiff::Timestamp::now(),
            networks: networks(&container.record()),
            metrics,
            host_cpu: host_cpu().unwrap_or_default(),
            online_cpus: CpuList::of_host().count(),
        })
    }
}

/// Docker's document; `before` is the look before, if there was one.
pub(crate) fn document(record: &Record, now: Option<&Sample>, before: Option<&Sample>) -> Value {
    let zero = "0001-01-01T00:00:00Z".to_owned();
    let time = |sample: Option<&Sample>| sample.map_or(zero.clone(), |s| s.read.to_string());
    let cpu = |sample: Option<&Sample>| sample.map_or_else(no_cpu, cpu);
    let mut document = json!({
        "id": record.id,
        "name": format!("/{}", record.name),
        "read": time(now),
        "preread": time(before),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": now.map_or(json!({}), pids),
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": now.map_or(json!({}), |sample| memory(record, sample)),
        "blkio_stats": blkio(now),
    });
    // As dockerd: no member without a network.
    if let Some(sample) = now.filter(|sample| !sample.networks.is_empty()) {
        document["networks"] = json!(sample.networks);
    }
    document
}

fn no_cpu() -> Value {
    json!({
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    })
}

fn cpu(sample: &Sample) -> Value {
    let cpu = &sample.metrics.cpu;
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    json!({
        "cpu_usage": {
            "total_usage": nanoseconds(cpu.usage_usec),
            "usage_in_kernelmode": nanoseconds(cpu.system_usec),
            "usage_in_usermode": nanoseconds(cpu.user_usec),
        },
        "system_cpu_usage": sample.host_cpu,
        "online_cpus": sample.online_cpus,
        "throttling_data": {
            "periods": cpu.nr_periods,
            "throttled_periods": cpu.nr_throttled,
            "throttled_time": nanoseconds(cpu.throttled_usec),
        },
    })
}

fn pids(sample: &Sample) -> Value {
    let pids = &sample.metrics.pids;
    match pids.limit {
        0 => json!({ "current": pids.current }),
        limit => json!({ "current": pids.current, "limit": limit }),
    }
}

fn memory(record: &Record, sample: &Sample) -> Value {
    let memory = &sample.metrics.memory;
    let wanted = record
        .host
        .memory
        .and_then(|bytes| u64::try_from(bytes).ok());
    let vm = hull_shim::lower::DEFAULT_MEMORY_BYTES;
    let limit = wanted.filter(|bytes| 0 < *bytes).unwrap_or(vm);
    let mut shown = json!({
        "usage": memory.usage,
        "limit": limit.min(memory.usage_limit),
        "stats": {
            "active_anon": memory.active_anon,
            "active_file": memory.active_file,
            "anon": memory.anon,
            "file": memory.file,
            "file_dirty": memory.file_dirty,
            "file_mapped": memory.file_mapped,
            "inactive_anon": memory.inactive_anon,
            "inactive_file": memory.inactive_file,
            "kernel_stack": memory.kernel_stack,
            "pgfault": memory.pgfault,
            "pgmajfault": memory.pgmajfault,
            "shmem": memory.shmem,
            "slab": memory.slab,
            "sock": memory.sock,
        },
    });
    if let Some(bytes) = sample.host_memory {
        shown["hull_host_usage"] = json!(bytes);
    }
    shown
}

fn blkio(sample: Option<&Sample>) -> Value {
    let entry = |major: u64, minor: u64, op: &str, value: u64| json!({ "major": major, "minor": minor, "op": op, "value": value });
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for io in sample.iter().flat_map(|sample| &sample.metrics.io.usage) {
        bytes.push(entry(io.major, io.minor, "read", io.rbytes));
        bytes.push(entry(io.major, io.minor, "write", io.wbytes));
        operations.push(entry(io.major, io.minor, "read", io.rios));
        operations.push(entry(io.major, io.minor, "write", io.wios));
    }
    json!({
        "io_service_bytes_recursive": sample.map(|_| bytes),
        "io_serviced_recursive": sample.map(|_| operations),
        "io_queue_recursive": null,
        "io_service_time_recursive": null,
        "io_wait_time_recursive": null,
        "io_merged_recursive": null,
        "io_time_recursive": null,
        "sectors_recursive": null,
    })
}

/// By the counters of the taps, whose two directions are the container's turned round.
fn networks(record: &Record) -> HashMap<String, Value> {
    let mut all = HashMap::new();
    for (index, endpoint) in record.endpoints.iter().enumerate() {
        let directory = Path::new("/sys/class/net")
            .join(&endpoint.tap)
            .join("statistics");
        let read = |name: &str| -> u64 {
            let text = std::fs::read_to_string(directory.join(name));
            text.ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or_default()
        };
        all.insert(
            format!("eth{index}"),
            json!({
                "rx_bytes": read("tx_bytes"),
                "rx_packets": read("tx_packets"),
                "rx_errors": read("tx_errors"),
                "rx_dropped": read("tx_dropped"),
                "tx_bytes": read("rx_bytes"),
                "tx_packets": read("rx_packets"),
                "tx_errors": read("rx_errors"),
                "tx_dropped": read("rx_dropped"),
            }),
        );
    }
    all
}

/// Nanoseconds that the host's CPUs have run, as Docker counts them.
fn host_cpu() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    // user to softirq and steal; guest time is part of user time.
    let ticks: u64 = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Some(ticks.saturating_mul(NANOSECONDS / TICKS))
}
