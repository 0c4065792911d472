//! `diff`, `export` and `commit`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response};

use super::line;
use crate::client::{broken, empty, encode, read_json, Client};
use crate::error::{CliError, Result};

/// `diff`
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// Container
    container: String,
}

/// `export`
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// File to write instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Container
    container: String,
}

/// `commit`
#[derive(Debug, clap::Args)]
pub(crate) struct CommitArgs {
    /// Who made it
    #[arg(short, long, default_value = "")]
    author: String,
    /// Apply a line of a Dockerfile to the image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What it is
    #[arg(short, long, default_value = "")]
    message: String,
    /// Pause the container meanwhile (on unless --no-pause or --pause=false is given)
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", hide_default_value = true, conflicts_with = "no_pause", action = clap::ArgAction::Set)]
    pause: bool,
    /// Let the container run on meanwhile
    #[arg(long)]
    no_pause: bool,
    /// Container
    container: String,
    /// Name of the image: REPOSITORY[:TAG]
    image: Option<String>,
}

/// A name's repository and tag; no tag is empty. A colon before a slash is a registry's port.
pub(super) fn split_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, ""),
    }
}

/// An archive is nothing for a terminal.
pub(super) fn refuse_terminal(output: Option<&Path>) -> Result<()> {
    match output.is_none() && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        false => Ok(()),
        true => Err(CliError::usage(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        )),
    }
}

/// Writes an answer's body to a file, or to standard output.
pub(super) async fn write_body(
    answer: Response<Incoming>,
    output: Option<&Path>,
    out: &mut dyn Write,
) -> Result<()> {
    let what = "cannot write the archive";
    let mut file = match output {
        Some(path) => Some(std::fs::File::create(path).map_err(CliError::io(what))?),
        None => None,
    };
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        let written = match &mut file {
            Some(file) => file.write_all(&data),
            None => out.write_all(&data),
        };
        written.map_err(CliError::io(what))?;
    }
    Ok(())
}

/// Prints what a container changed: A added, C changed, D deleted.
pub(crate) async fn diff(args: DiffArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let path = format!("/containers/{}/changes", encode(&args.container));
    let changes = client.get_json(&path).await?;
    for change in changes.as_array().into_iter().flatten() {
        let kind = match change["Kind"].as_u64() {
            Some(0) => 'C',
            Some(1) => 'A',
            Some(2) => 'D',
            _ => '?',
        };
        let path = change["Path"].as_str().unwrap_or_default();
        line(out, format!("{kind} {path}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a container's files as a tar.
pub(crate) async fn export(
    args: ExportArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    refuse_terminal(args.output.as_deref())?;
    let path = format!("/containers/{}/export", encode(&args.container));
    let answer = client.send(Method::GET, &path, empty()).await?;
    write_body(answer, args.output.as_deref(), out).await?;
    Ok(ExitCode::SUCCESS)
}

/// Makes an image of a container, and prints its id.
pub(crate) async fn commit(
    args: CommitArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let image = args.image.unwrap_or_default();
    let (repository, tag) = split_tag(&image);
    let path = format!(
        "/commit?container={}&repo={}&tag={}&comment={}&author={}&pause={}&changes={}",
        encode(&args.container),
        encode(repository),
        encode(tag),
        encode(&args.message),
        encode(&args.author),
        args.pause && !args.no_pause,
        encode(&args.change.join("\n")),
    );
    let answer = read_json(client.send(Method::POST, &path, empty()).await?).await?;
    line(out, answer["Id"].as_str().unwrap_or_default())?;
    Ok(ExitCode::SUCCESS)
}
