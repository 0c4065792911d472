//! `version`, `info`, `events`.

use std::io::Write;
use std::process::ExitCode;

use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{json, Value};
use tokio::io::AsyncWriteExt as _;

use super::logs::point_in_time;
use super::{filters, line};
use crate::client::{broken, empty, encode, read_json, Client};
use crate::error::{CliError, Result};
use crate::template;

/// The newest version of the API that the commands speak.
const API_VERSION: &str = "1.51";

/// `version`, `info`
#[derive(Debug, clap::Args)]
pub(crate) struct FormatArgs {
    /// `json` or a template such as '{{.ServerVersion}}'
    #[arg(short, long)]
    format: Option<String>,
}

/// `events`
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    /// Also what happened since then: a time, or a duration until now such as 10m
    #[arg(long)]
    since: Option<String>,
    /// Stop then
    #[arg(long)]
    until: Option<String>,
    /// Only what passes: KEY=VALUE
    #[arg(short, long)]
    filter: Vec<String>,
    /// `json` or a template such as '{{.Action}}'
    #[arg(long)]
    format: Option<String>,
}

/// Stops all containers; those that come back with the engine do so after the machine's boot.
pub(crate) async fn shut_down(client: &Client) -> Result<ExitCode> {
    let answer = client.send(Method::POST, "/hull/shutdown", empty()).await?;
    let answer = read_json(answer).await?;
    let left = answer["NotStopped"].as_array().into_iter().flatten();
    let left: Vec<_> = left.filter_map(Value::as_str).collect();
    if left.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CliError::Failed {
        status: 1,
        message: format!("not stopped: {}; hulld's log says why", left.join(", ")),
    })
}

/// Joins this process's stdin and stdout to a connection of the engine's, until the engine ends it.
pub(crate) async fn dial_stdio(client: &Client) -> Result<ExitCode> {
    let (mut from_engine, mut to_engine) = tokio::io::split(client.open().await?);
    let asked = async {
        let copied = tokio::io::copy(&mut tokio::io::stdin(), &mut to_engine).await;
        // What comes after this side's end is still an answer.
        copied.and(to_engine.shutdown().await)
    };
    let mut stdout = tokio::io::stdout();
    let answered = async {
        tokio::io::copy(&mut from_engine, &mut stdout).await?;
        stdout.flush().await
    };
    tokio::pin!(answered);
    let ended = tokio::select! {
        ended = &mut answered => ended,
        Ok(()) = asked => answered.await,
    };
    ended.map_err(CliError::io("cannot pass on the engine's answers"))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn version(
    args: FormatArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let server = client.get_json("/version").await?;
    let document = json!({
        "Client": {
            "Version": env!("CARGO_PKG_VERSION"),
            "ApiVersion": API_VERSION,
            "DefaultAPIVersion": API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "BuildTime": "",
            "Os": std::env::consts::OS,
            "Arch": "amd64",
        },
        "Server": server,
    });
    if !formatted(out, args.format.as_deref(), &document)? {
        let text = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
        line(
            out,
            format!("Client:\n Version:      {}", env!("CARGO_PKG_VERSION")),
        )?;
        line(
            out,
            format!("\nServer:\n Version:      {}", text("Version")),
        )?;
        line(
            out,
            format!(
                " API version:  {} (minimum {})",
                text("ApiVersion"),
                text("MinAPIVersion")
            ),
        )?;
        line(
            out,
            format!(" OS/Arch:      {}/{}", text("Os"), text("Arch")),
        )?;
        line(out, format!(" Host kernel:  {}", text("KernelVersion")))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn info(
    args: FormatArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let info = client.get_json("/info").await?;
    if formatted(out, args.format.as_deref(), &info)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows = [
        ("Containers", "Containers"),
        (" Running", "ContainersRunning"),
        (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Version", "ServerVersion"),
        ("State directory", "DockerRootDir"),
        ("Image file system", "Driver"),
        ("Log driver", "LoggingDriver"),
        ("Host kernel", "KernelVersion"),
        ("Operating system", "OperatingSystem"),
        ("CPUs", "NCPU"),
        ("Name", "Name"),
    ];
    for (label, key) in rows {
        let value = match &info[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        line(out, format!("{label}: {value}"))?;
    }
    let memory = info["MemTotal"].as_f64().unwrap_or(0.0) / f64::from(1 << 30);
    line(out, format!("Memory: {memory:.2}GiB"))?;
    for warning in info["Warnings"].as_array().into_iter().flatten() {
        eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}

/// `true` if a format was asked for, and the document is printed in it.
fn formatted(out: &mut dyn Write, format: Option<&str>, document: &Value) -> Result<bool> {
    match format {
        None => return Ok(false),
        Some("json") => line(out, document)?,
        Some(format) => line(out, template::render(format, document)?)?,
    }
    Ok(true)
}

pub(crate) async fn events(
    args: EventsArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let mut path = format!(
        "/events?filters={}",
        encode(&json!(filters(&args.filter)?).to_string())
    );
    for (key, value) in [("since", &args.since), ("until", &args.until)] {
        if let Some(text) = value {
            path.push_str(&format!("&{key}={}", encode(&point_in_time(text)?)));
        }
    }
    let mut body = client.send(Method::GET, &path, empty()).await?.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = pending.drain(..=end).collect();
            if let Ok(event) = serde_json::from_slice(&text) {
                if !formatted(out, args.format.as_deref(), &event)? {
                    line(out, event_text(&event))?;
                }
                out.flush()
                    .map_err(CliError::io("cannot write the output"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn event_text(event: &Value) -> String {
    let nanos = event["timeNano"].as_i64().unwrap_or(0);
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos))
        .map(|time| format!("{time:.9}"))
        .unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut attributes: Vec<String> = event["Actor"]["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    attributes.sort();
    format!(
        "{time} {} {} {} ({})",
        text(&event["Type"]),
        text(&event["Action"]),
        text(&event["Actor"]["ID"]),
        attributes.join(", ")
    )
}
