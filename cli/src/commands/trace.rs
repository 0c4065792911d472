//! `trace`: the boot timeline of a container's microVM.

use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;

use super::line;
use crate::client::{encode, Client};
use crate::error::{CliError, Result};
use crate::table;

/// `trace`
#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// Print the marks as JSON
    #[arg(long)]
    json: bool,
    /// Name or id
    container: String,
}

pub(crate) async fn run(args: TraceArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let path = format!("/hull/containers/{}/trace", encode(&args.container));
    let trace = client.get_json(&path).await?;
    if args.json {
        line(out, &trace)?;
        return Ok(ExitCode::SUCCESS);
    }
    table::print(out, &["AT", "STEP", "MARK"], &rows(&trace))
        .map_err(CliError::io("cannot write the output"))?;
    Ok(ExitCode::SUCCESS)
}

/// Each mark with its time since the first and since the one before it, in milliseconds.
fn rows(trace: &Value) -> Vec<Vec<String>> {
    let marks = trace.get("marks").unwrap_or(trace);
    let mut before = 0;
    let mut rows = Vec::new();
    for mark in marks.as_array().into_iter().flatten() {
        let at = mark["at_ns"].as_u64().unwrap_or(0);
        rows.push(vec![
            millis(at),
            format!("+{}", millis(at.saturating_sub(before))),
            mark["name"].as_str().unwrap_or_default().to_owned(),
        ]);
        before = at;
    }
    rows
}

fn millis(nanos: u64) -> String {
    format!("{}.{:03} ms", nanos / 1_000_000, nanos / 1000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn marks_have_their_time_and_step() {
        let trace = json!([{"name": "a", "at_ns": 1_500_000}, {"name": "b", "at_ns": 4_000_000}]);
        assert_eq!(
            rows(&trace),
            [
                ["1.500 ms", "+1.500 ms", "a"],
                ["4.000 ms", "+2.500 ms", "b"]
            ]
        );
    }
}
