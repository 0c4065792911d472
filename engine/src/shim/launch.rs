//! Starting the shim program, as containerd does: it prints the address that it serves.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;

use super::{connect, ShimConfig, Task};
use crate::error::{EngineError, Result};

/// containerd's namespace of all containers of the engine.
const NAMESPACE: &str = "hull";
/// Longest time for a shim to print its address.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Longest time for the end of a shim and its VM, each of which may take its own.
const DELETE_LIMIT: Duration = Duration::from_secs(60);

/// What newer shims print: `{"version":3,"address":"unix:///...","protocol":"ttrpc"}`.
#[derive(Deserialize)]
struct Bootstrap {
    address: String,
}

/// Starts the shim of a container and connects to it.
pub(crate) async fn launch(config: &ShimConfig, id: &str, bundle: &Path) -> Result<Task> {
    let failed = |reason: String| EngineError::Shim {
        id: id.to_owned(),
        reason,
    };
    let output = run_shim(config, id, bundle, "start", START_LIMIT).await?;
    if !output.status.success() {
        return Err(failed(shim_text(&output)));
    }
    let address = parse_address(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| failed("it printed no address".to_owned()))?;
    connect(id, &address).await
}

/// Lets the shim program clean up after a shim that no longer answers.
pub(crate) async fn delete(config: &ShimConfig, id: &str, bundle: &Path) -> Result<()> {
    let output = run_shim(config, id, bundle, "delete", DELETE_LIMIT).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(EngineError::Shim {
        id: id.to_owned(),
        reason: shim_text(&output),
    })
}

async fn run_shim(
    config: &ShimConfig,
    id: &str,
    bundle: &Path,
    action: &str,
    limit: Duration,
) -> Result<std::process::Output> {
    let failed = |reason: String| EngineError::Shim {
        id: id.to_owned(),
        reason,
    };
    let socket = config.events_socket.display();
    let child = tokio::process::Command::new(&config.program)
        .args(["-namespace", NAMESPACE, "-id", id, "-address"])
        .arg(&config.events_socket)
        // Events go to TTRPC_ADDRESS; a program to publish them is not needed.
        .args(["-publish-binary", "/bin/true", "-bundle"])
        .arg(bundle)
        // The engine's containers have no hooks, their logs no programs, and their shims no cgroup of its.
        .arg("-sealed")
        .arg(action)
        .current_dir(bundle)
        .env("TTRPC_ADDRESS", socket.to_string())
        .env(hull_shim::runtime_dir::EXEC_ROOT_ENV, &config.exec_root)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(limit, child).await {
        Ok(output) => output.map_err(|error| failed(format!("{:?}: {error}", config.program))),
        Err(_) => Err(failed(format!("{action} took longer than {limit:?}"))),
    }
}

fn shim_text(output: &std::process::Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    let text = if text.is_empty() {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    } else {
        text.to_owned()
    };
    if text.is_empty() {
        output.status.to_string()
    } else {
        text.replace('\n', "; ")
    }
}

fn parse_address(output: &str) -> Option<String> {
    let output = output.trim();
    if output.starts_with('{') {
        return serde_json::from_str::<Bootstrap>(output)
            .ok()
            .map(|reply| reply.address);
    }
    (!output.is_empty()).then(|| output.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_shims_answer_are_read() {
        assert_eq!(parse_address("unix:///a\n").as_deref(), Some("unix:///a"));
        let json = r#"{"version":3,"address":"unix:///b","protocol":"ttrpc"}"#;
        assert_eq!(parse_address(json).as_deref(), Some("unix:///b"));
        assert_eq!(parse_address(" \n"), None);
    }
}
