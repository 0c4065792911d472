//! `stats`.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{json, Value};

use super::ps;
use crate::client::{encode, Client};
use crate::error::{CliError, Result};
use crate::units::binary_size;

/// `stats`
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// All containers, not only those that run
    #[arg(short, long)]
    all: bool,
    /// `table`, `json` or a template such as '{{.Name}} {{.MemUsage}}'
    #[arg(long)]
    format: Option<String>,
    /// Print once
    #[arg(long)]
    no_stream: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Containers; none: all that run
    containers: Vec<String>,
}

const COLUMNS: [(&str, &str); 8] = [
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
];

pub(crate) async fn run(args: StatsArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    loop {
        let rows = look(&args, client).await?;
        if !args.no_stream && std::io::stdout().is_terminal() {
            // Clears the screen, as docker does.
            write!(out, "\x1b[2J\x1b[H").map_err(CliError::io("cannot write the output"))?;
        }
        ps::print(out, &rows, args.format.as_deref(), &COLUMNS)?;
        out.flush()
            .map_err(CliError::io("cannot write the output"))?;
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One that has ended or is gone since it was listed: it has no figures.
fn has_left(error: &CliError) -> bool {
    matches!(
        error,
        CliError::Engine {
            status: 404 | 409,
            ..
        }
    )
}

async fn look(args: &StatsArgs, client: &Client) -> Result<Vec<Value>> {
    let names = match args.containers.is_empty() {
        false => args.containers.clone(),
        true => {
            let list = client
                .get_json(&format!("/containers/json?all={}", args.all))
                .await?;
            let ids = list.as_array().into_iter().flatten();
            ids.filter_map(|container| container["Id"].as_str().map(str::to_owned))
                .collect()
        }
    };
    let looks = names.iter().map(|name| async move {
        let path = format!("/containers/{}/stats?stream=false", encode(name));
        client.get_json(&path).await
    });
    let documents = futures_util::future::join_all(looks).await;
    let listed = args.containers.is_empty();
    let documents = documents.into_iter().filter(|document| {
        let left = document.as_ref().is_err_and(has_left);
        !(listed && left)
    });
    documents
        .map(|document| document.map(|document| row(&document, args.no_trunc)))
        .collect()
}

fn row(document: &Value, full: bool) -> Value {
    let number = |path: &str| {
        document
            .pointer(path)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let size = |bytes: u64| crate::units::human_size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let memory = memory_used(document);
    let limit = number("/memory_stats/limit");
    let share = match limit {
        0 => 0.0,
        limit => memory as f64 / limit as f64 * 100.0,
    };
    let networks = document["networks"].as_object();
    let network = |key: &str| -> u64 {
        let each = networks.into_iter().flat_map(|all| all.values());
        each.filter_map(|one| one[key].as_u64()).sum()
    };
    let io = document["blkio_stats"]["io_service_bytes_recursive"].as_array();
    let block = |op: &str| -> u64 {
        let each = io.into_iter().flatten().filter(|one| one["op"] == op);
        each.filter_map(|one| one["value"].as_u64()).sum()
    };
    let id: String = document["id"]
        .as_str()
        .unwrap_or_default()
        .chars()
        .take(if full { usize::MAX } else { 12 })
        .collect();
    let name = document["name"].as_str().unwrap_or_default();
    json!({
        "ID": id,
        "Container": id,
        "Name": name.trim_start_matches('/'),
        "CPUPerc": format!("{:.2}%", cpu_share(document)),
        "MemUsage": format!("{} / {}", binary_size(memory), binary_size(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", size(network("rx_bytes")), size(network("tx_bytes"))),
        "BlockIO": format!("{} / {}", size(block("read")), size(block("write"))),
        "PIDs": number("/pids_stats/current").to_string(),
        // Of Hull alone: what the host gives the VM.
        "HostMem": binary_size(number("/memory_stats/hull_host_usage")),
    })
}

/// Without the cache that can be given back, as docker counts.
fn memory_used(document: &Value) -> u64 {
    let number = |path: &str| {
        document
            .pointer(path)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    number("/memory_stats/usage").saturating_sub(number("/memory_stats/stats/inactive_file"))
}

/// Percent of one CPU.
fn cpu_share(document: &Value) -> f64 {
    let number = |path: &str| {
        document
            .pointer(path)
            .and_then(Value::as_f64)
            .unwrap_or_default()
    };
    let of =
        |key: &str| number(&format!("/cpu_stats/{key}")) - number(&format!("/precpu_stats/{key}"));
    let (used, host) = (of("cpu_usage/total_usage"), of("system_cpu_usage"));
    match used > 0.0 && host > 0.0 {
        true => used / host * number("/cpu_stats/online_cpus").max(1.0) * 100.0,
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_ended_since_the_list_is_no_failure() {
        let refused = |status| CliError::Engine {
            status,
            message: String::new(),
        };
        assert!(has_left(&refused(404)) && has_left(&refused(409)));
        assert!(!has_left(&refused(500)));
    }

    #[test]
    fn a_document_becomes_a_row() {
        let document = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 1000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 600},
            "memory_stats": {"usage": 3_000_000, "limit": 10_000_000, "stats": {"inactive_file": 500_000}},
            "networks": {"eth0": {"rx_bytes": 5, "tx_bytes": 7}},
            "pids_stats": {"current": 3},
        });
        let row = row(&document, false);
        assert_eq!(row["ID"], "0123456789ab");
        assert_eq!(row["CPUPerc"], "50.00%");
        assert_eq!(row["MemPerc"], "25.00%");
        assert_eq!(row["PIDs"], "3");
    }
}
