//! `update`.

use std::io::Read as _;
use std::path::Path;

use serde_json::{json, Map, Value};

use super::cli::UpdateArgs;
use super::client::Status;
use super::control::find;
use super::error::{io_error, Result, RuntimeError};
use super::store::Record;
use super::{only_id, Context};
use crate::cgroup::{share, Cgroup};

/// Largest file of resources, in bytes.
const MAX_RESOURCES_BYTES: u64 = 1 << 20;

/// `update`.
pub(super) async fn update(context: &Context, args: &UpdateArgs) -> Result<u8> {
    let found = find(context, only_id(&args.id.id)?).await?;
    if found.status == Status::Stopped {
        return Err(RuntimeError::NotRunning);
    }
    let resources = resources(args)?;
    found
        .task()?
        .update(resources.to_string().into_bytes())
        .await?;
    set_share(&found.record, resources)?;
    Ok(0)
}

/// The cgroup that the container's VM is in shares the host as it is told now.
fn set_share(record: &Record, resources: Value) -> Result<()> {
    let Some(cgroup) = record.cgroup.clone().filter(|_| record.joined.is_none()) else {
        return Ok(());
    };
    let resources = serde_json::from_value(resources).map_err(|source| RuntimeError::Json {
        what: "the resources".into(),
        source,
    })?;
    Ok(Cgroup::at(cgroup).set_share(&share(Some(&resources)))?)
}

/// The resources (OCI `LinuxResources`), of a file or of the flags: as in runc, one or the other.
fn resources(args: &UpdateArgs) -> Result<Value> {
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        let text = "--l3-cache-schema, --mem-bw-schema: a microVM has no resource director";
        return Err(RuntimeError::Usage(text.into()));
    }
    match &args.resources {
        Some(path) => of_file(path),
        None => of_flags(args),
    }
}

fn of_file(path: &Path) -> Result<Value> {
    let mut text = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .take(MAX_RESOURCES_BYTES)
            .read_to_end(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_RESOURCES_BYTES).read_to_end(&mut text))
    };
    read.map_err(io_error("read", path))?;
    // What is no resource is an error here, not in the guest.
    let parsed: oci_spec::runtime::LinuxResources =
        crate::spec::json::parse(&text).map_err(|source| RuntimeError::Config {
            what: path.display().to_string(),
            source,
        })?;
    serde_json::to_value(parsed).map_err(|source| RuntimeError::Json {
        what: path.display().to_string(),
        source,
    })
}

fn of_flags(args: &UpdateArgs) -> Result<Value> {
    let mut all = Map::new();
    let mut memory = Map::new();
    for (key, value) in [
        ("limit", &args.memory),
        ("reservation", &args.memory_reservation),
        ("swap", &args.memory_swap),
    ] {
        if let Some(text) = value {
            let bytes = parse_bytes(text).ok_or_else(|| {
                RuntimeError::Usage(format!("invalid value for {key} of memory: {text:?}"))
            })?;
            memory.insert(key.into(), bytes.into());
        }
    }
    let mut cpu = Map::new();
    for (key, value) in [
        ("shares", args.cpu_share.map(Value::from)),
        ("quota", args.cpu_quota.map(Value::from)),
        ("period", args.cpu_period.map(Value::from)),
        ("burst", args.cpu_burst.map(Value::from)),
        ("realtimePeriod", args.cpu_rt_period.map(Value::from)),
        ("realtimeRuntime", args.cpu_rt_runtime.map(Value::from)),
        ("idle", args.cpu_idle.map(Value::from)),
        ("cpus", args.cpuset_cpus.clone().map(Value::from)),
        ("mems", args.cpuset_mems.clone().map(Value::from)),
    ] {
        if let Some(value) = value {
            cpu.insert(key.into(), value);
        }
    }
    for (key, part) in [("memory", memory), ("cpu", cpu)] {
        if !part.is_empty() {
            all.insert(key.into(), part.into());
        }
    }
    if let Some(weight) = args.blkio_weight {
        all.insert("blockIO".into(), json!({"weight": weight}));
    }
    if let Some(limit) = args.pids_limit {
        all.insert("pids".into(), json!({"limit": limit}));
    }
    Ok(all.into())
}

/// A size as runc's flags have it. `-1`: no limit.
fn parse_bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let bytes = hull_units::binary(text, 0..=i64::MAX.unsigned_abs())?;
    i64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_resources() {
        let args = UpdateArgs {
            memory: Some("64m".into()),
            memory_swap: Some("-1".into()),
            cpu_quota: Some(50_000),
            pids_limit: Some(10),
            ..UpdateArgs::default()
        };
        let want = json!({
            "memory": {"limit": 64 << 20, "swap": -1},
            "cpu": {"quota": 50_000},
            "pids": {"limit": 10},
        });
        assert_eq!(resources(&args).unwrap(), want);
    }

    #[test]
    fn a_file_of_resources_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.json");
        let args = UpdateArgs {
            resources: Some(path.clone()),
            ..UpdateArgs::default()
        };
        assert!(resources(&args).is_err());
        std::fs::write(&path, r#"{"memory":{"limit":"much"}}"#).unwrap();
        assert!(matches!(resources(&args), Err(RuntimeError::Config { .. })));
        std::fs::write(&path, r#"{"pids":{"limit":5}}"#).unwrap();
        assert_eq!(resources(&args).unwrap()["pids"]["limit"], 5);
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_bytes("1.5g"), Some(3 << 29));
        assert_eq!(parse_bytes("0"), Some(0));
        assert_eq!(parse_bytes("-1"), Some(-1));
        assert_eq!(parse_bytes("9223372036854775807"), Some(i64::MAX));
        for bad in ["", "x", "-2", "-1k", "9223372036854775808", "8192p"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
