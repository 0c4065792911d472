//! `push` and `save`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use http_body_util::BodyExt as _;
use hyper::Method;

use super::line;
use super::login::registry_auth;
use super::pull::with_tag;
use crate::client::{broken, empty, encode, Client};
use crate::error::{CliError, Result};
use crate::progress::{self, To};

/// `push`
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// All tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Name, with its registry
    image: String,
}

/// `save`
#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// File to write instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

pub(crate) async fn push(args: PushArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let to = if args.quiet { To::Quiet } else { To::Stdout };
    let (name, tag) = match args.all_tags {
        true => (args.image.clone(), String::new()),
        false => {
            let full = with_tag(&args.image);
            let (name, tag) = full.rsplit_once(':').unwrap_or((&full, "latest"));
            (name.to_owned(), format!("?tag={}", encode(tag)))
        }
    };
    if !args.quiet {
        line(out, format!("The push refers to repository [{name}]"))?;
    }
    // The slashes of a name are the path's.
    let name: Vec<String> = name.split('/').map(encode).collect();
    let path = format!("/images/{}/push{tag}", name.join("/"));
    let auth = registry_auth(&args.image);
    progress::show(client.send_with_auth(Method::POST, &path, auth).await?, to).await?;
    if args.quiet {
        line(out, with_tag(&args.image))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn save(args: SaveArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    if args.output.is_none() && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return Err(CliError::usage(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let names: Vec<String> = args
        .images
        .iter()
        .map(|name| format!("names={}", encode(name)))
        .collect();
    let path = format!("/images/get?{}", names.join("&"));
    let mut body = client.send(Method::GET, &path, empty()).await?.into_body();
    let what = "cannot write the archive";
    let mut file = match &args.output {
        Some(path) => Some(std::fs::File::create(path).map_err(CliError::io(what))?),
        None => None,
    };
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
    Ok(ExitCode::SUCCESS)
}
