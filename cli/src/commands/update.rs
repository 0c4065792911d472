//! `update`.

use std::io::Write;
use std::process::ExitCode;

use hyper::Method;
use serde_json::{json, Value};

use super::line;
use crate::client::{encode, json_body, read_json, Client};
use crate::error::{CliError, Result};
use crate::units::{parse_bytes, parse_cpus};

/// `update`
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Memory limit, such as 256m
    #[arg(short, long, value_parser = parse_bytes)]
    memory: Option<i64>,
    /// Memory and swap together; -1: no limit
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory that the container keeps when others want it
    #[arg(long, value_parser = parse_bytes)]
    memory_reservation: Option<i64>,
    /// CPUs, such as 1.5
    #[arg(long, value_parser = parse_cpus)]
    cpus: Option<i64>,
    /// Share of the CPUs between the container's processes
    #[arg(short, long)]
    cpu_shares: Option<i64>,
    /// CPUs to use, such as 0-1
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use: a VM has node 0
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Period of the CPU quota in microseconds
    #[arg(long)]
    cpu_period: Option<i64>,
    /// CPU time in each period in microseconds
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Refused: real-time periods are of cgroup v1
    #[arg(long)]
    cpu_rt_period: Option<i64>,
    /// Refused: real-time periods are of cgroup v1
    #[arg(long)]
    cpu_rt_runtime: Option<i64>,
    /// Weight of its disk accesses, 10 to 1000
    #[arg(long)]
    blkio_weight: Option<i64>,
    /// Most processes; -1: no limit
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// What happens when it ends: no, always, unless-stopped, on-failure[:COUNT]
    #[arg(long)]
    restart: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

/// The body of the request: only what was said.
fn body(args: &UpdateArgs) -> Result<Value> {
    let swap = match args.memory_swap.as_deref() {
        None => None,
        Some("-1") => Some(-1),
        Some(text) => Some(parse_bytes(text).map_err(CliError::usage)?),
    };
    let mut body = json!({});
    let numbers = [
        ("Memory", args.memory),
        ("MemorySwap", swap),
        ("MemoryReservation", args.memory_reservation),
        ("NanoCpus", args.cpus),
        ("CpuShares", args.cpu_shares),
        ("PidsLimit", args.pids_limit),
        ("CpuPeriod", args.cpu_period),
        ("CpuQuota", args.cpu_quota),
        ("CpuRealtimePeriod", args.cpu_rt_period),
        ("CpuRealtimeRuntime", args.cpu_rt_runtime),
        ("BlkioWeight", args.blkio_weight),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            body[key] = json!(value);
        }
    }
    for (key, value) in [
        ("CpusetCpus", &args.cpuset_cpus),
        ("CpusetMems", &args.cpuset_mems),
    ] {
        if let Some(value) = value {
            body[key] = json!(value);
        }
    }
    if let Some(policy) = &args.restart {
        let (name, count) = policy.split_once(':').unwrap_or((policy, "0"));
        let count: u32 = count
            .parse()
            .map_err(|_| CliError::usage(format!("invalid restart policy {policy:?}")))?;
        body["RestartPolicy"] = json!({ "Name": name, "MaximumRetryCount": count });
    }
    match body.as_object().is_some_and(serde_json::Map::is_empty) {
        true => Err(CliError::usage("update: say what is to change, see --help")),
        false => Ok(body),
    }
}

pub(crate) async fn run(
    args: UpdateArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let body = body(&args)?;
    let mut status = ExitCode::SUCCESS;
    for name in &args.containers {
        let path = format!("/containers/{}/update", encode(name));
        let sent = client.send(Method::POST, &path, json_body(&body)).await;
        match sent {
            Ok(answer) => {
                let answer = read_json(answer).await?;
                for warning in answer["Warnings"].as_array().into_iter().flatten() {
                    eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
                }
                line(out, name)?;
            }
            Err(error) => {
                eprintln!("hull: {error}");
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: UpdateArgs,
    }

    fn body_of(words: &[&str]) -> Result<Value> {
        body(&Line::try_parse_from(words).unwrap().args)
    }

    #[test]
    fn only_what_is_said_is_sent() {
        assert_eq!(
            body_of(&["update", "-m", "64m", "--memory-swap", "-1", "c"]).unwrap(),
            json!({ "Memory": 64 << 20, "MemorySwap": -1 })
        );
        assert_eq!(
            body_of(&["update", "--restart", "on-failure:3", "--cpus", "1.5", "c"]).unwrap(),
            json!({
                "NanoCpus": 1_500_000_000_i64,
                "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 },
            })
        );
        assert!(body_of(&["update", "c"]).is_err());
        assert!(body_of(&["update", "--restart", "on-failure:x", "c"]).is_err());
    }
}
