//! `start`, `stop`, `restart`, `kill`, `pause`, `unpause`, `wait`, `rm`, `rename`: one call for
//! each name.

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use futures_util::StreamExt as _;
use hyper::Method;

use super::line;
use super::run::AttachArgs;
use crate::client::{empty, encode, read_json, Client};
use crate::error::{CliError, Result};

/// Containers by name or id.
#[derive(Debug, clap::Args)]
pub(crate) struct Names {
    /// Names, ids or id prefixes
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `start`
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// Attach to its output, and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach to its input
    #[arg(short, long)]
    interactive: bool,
    /// Keys that detach from the container
    #[arg(long)]
    detach_keys: Option<String>,
    #[command(flatten)]
    names: Names,
}

/// `stop`, `restart`
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Seconds to wait before killing; -1: for ever
    #[arg(short = 't', long, alias = "time", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// Signal to send instead of the container's stop signal
    #[arg(short, long)]
    signal: Option<String>,
    #[command(flatten)]
    names: Names,
}

/// `kill`
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// Signal to send
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    #[command(flatten)]
    names: Names,
}

/// `rm`
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Kill the container if it runs
    #[arg(short, long)]
    force: bool,
    /// Remove the link of this name (/CONTAINER/NAME), not the container
    #[arg(short, long)]
    link: bool,
    /// Remove its anonymous volumes
    #[arg(short, long)]
    volumes: bool,
    #[command(flatten)]
    names: Names,
}

/// `rename`
#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    container: String,
    new_name: String,
}

/// How many containers are asked something of at once: each may take its time to end.
const AT_ONCE: usize = 50;

/// Does it for each name, for so many at once, and tells of them in the names' order; the exit status
/// tells of any failure.
async fn each<F>(
    names: &Names,
    at_once: usize,
    out: &mut dyn Write,
    call: impl Fn(String) -> F,
) -> Result<ExitCode>
where
    F: Future<Output = Result<Option<String>>>,
{
    let mut status = ExitCode::SUCCESS;
    let calls = futures_util::stream::iter(names.containers.iter().cloned().map(call));
    let mut results = std::pin::pin!(calls.buffered(at_once));
    while let Some(result) = results.next().await {
        match result {
            Ok(text) => text.map_or(Ok(()), |text| line(out, text))?,
            Err(error) => {
                eprintln!("hull: {error}");
                status = ExitCode::from(error.exit_status());
            }
        }
    }
    Ok(status)
}

/// POSTs to each container, and prints its name.
async fn post_each(
    names: &Names,
    at_once: usize,
    client: &Client,
    out: &mut dyn Write,
    action: &str,
) -> Result<ExitCode> {
    each(names, at_once, out, |name| async move {
        let path = format!("/containers/{}/{action}", encode(&name));
        client.send(Method::POST, &path, empty()).await?;
        Ok(Some(name))
    })
    .await
}

pub(crate) async fn start(
    args: StartArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    if !args.attach && !args.interactive {
        return post_each(&args.names, 1, client, out, "start").await;
    }
    let [container] = &args.names.containers[..] else {
        return Err(CliError::usage(
            "you cannot start and attach multiple containers at once",
        ));
    };
    let args = AttachArgs {
        no_stdin: !args.interactive,
        detach_keys: args.detach_keys,
        sig_proxy: true,
        container: container.clone(),
    };
    super::run::start_attached(args, client).await
}

fn stop_action(action: &str, args: &StopArgs) -> String {
    let mut words = Vec::new();
    words.extend(args.timeout.map(|seconds| format!("t={seconds}")));
    words.extend(
        args.signal
            .as_deref()
            .map(|signal| format!("signal={}", encode(signal))),
    );
    format!("{action}?{}", words.join("&"))
}

pub(crate) async fn stop(args: StopArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let action = stop_action("stop", &args);
    post_each(&args.names, AT_ONCE, client, out, &action).await
}

pub(crate) async fn restart(
    args: StopArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let action = stop_action("restart", &args);
    post_each(&args.names, AT_ONCE, client, out, &action).await
}

pub(crate) async fn kill(args: KillArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let action = format!("kill?signal={}", encode(&args.signal));
    post_each(&args.names, AT_ONCE, client, out, &action).await
}

pub(crate) async fn pause(names: Names, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    post_each(&names, AT_ONCE, client, out, "pause").await
}

pub(crate) async fn unpause(
    names: Names,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    post_each(&names, AT_ONCE, client, out, "unpause").await
}

pub(crate) async fn wait(names: Names, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    each(&names, 1, out, |name| async move {
        let path = format!("/containers/{}/wait", encode(&name));
        let answer = read_json(client.send(Method::POST, &path, empty()).await?).await?;
        Ok(Some(answer["StatusCode"].to_string()))
    })
    .await
}

pub(crate) async fn rm(args: RmArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let query = format!("force={}&v={}&link={}", args.force, args.volumes, args.link);
    let query = &query;
    each(&args.names, AT_ONCE, out, |name| async move {
        let path = format!("/containers/{}?{query}", encode(&name));
        match client.send(Method::DELETE, &path, empty()).await {
            // What was wanted is so.
            Err(error) if args.force && error.is_not_found() => {
                eprintln!("hull: {error}");
                Ok(None)
            }
            removed => removed.map(|_| Some(name)),
        }
    })
    .await
}

pub(crate) async fn rename(args: RenameArgs, client: &Client) -> Result<ExitCode> {
    let path = format!(
        "/containers/{}/rename?name={}",
        encode(&args.container),
        encode(&args.new_name)
    );
    client.send(Method::POST, &path, empty()).await?;
    Ok(ExitCode::SUCCESS)
}
