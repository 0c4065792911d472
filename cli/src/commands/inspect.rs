//! `inspect`.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{json, Value};

use super::{line, platform};
use crate::client::{broken, encode, Client};
use crate::error::{CliError, Result};
use crate::template;

/// `inspect`
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// `json` or a template such as '{{.State.Status}}'
    #[arg(short, long)]
    format: Option<String>,
    /// Only objects of this kind
    #[arg(long = "type", value_enum)]
    kind: Option<Kind>,
    /// Also how much containers have written, and how much it is with their images
    #[arg(short, long)]
    size: bool,
    /// The microVM of a running container: its size, its cost, its jail
    #[arg(long, conflicts_with = "kind")]
    vm: bool,
    /// Of `image inspect`.
    #[arg(skip)]
    platform: String,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    fn path(self, name: &str, args: &InspectArgs) -> String {
        let name = encode(name);
        match self {
            Self::Container => format!("/containers/{name}/json?size={}", args.size),
            Self::Image => format!("/images/{name}/json?{}", args.platform),
            Self::Network => format!("/networks/{name}"),
            Self::Volume => format!("/volumes/{name}"),
        }
    }
}

pub(crate) async fn run(
    args: InspectArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    let mut found = Vec::new();
    for name in &args.names {
        let document = match args.vm {
            true => {
                let path = format!("/hull/containers/{}/vm", encode(name));
                client.get_json(&path).await
            }
            false => find(client, name, &args).await,
        };
        match document {
            Ok(document) => found.push(document),
            Err(error) => {
                eprintln!("hull: {error}");
                status = ExitCode::from(error.exit_status());
            }
        }
    }
    match args.format.as_deref() {
        None => line(
            out,
            serde_json::to_string_pretty(&json!(found)).map_err(broken)?,
        )?,
        Some("json") => line(out, json!(found))?,
        Some(format) => {
            for document in &found {
                line(out, template::render(format, document)?)?;
            }
        }
    }
    Ok(status)
}

/// `image inspect`.
pub(super) async fn images(
    format: Option<String>,
    platform: Option<&str>,
    names: Vec<String>,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let args = InspectArgs {
        format,
        kind: Some(Kind::Image),
        vm: false,
        size: false,
        platform: platform::query("platform", platform)?,
        names,
    };
    run(args, client, out).await
}

async fn find(client: &Client, name: &str, args: &InspectArgs) -> Result<Value> {
    let all = [Kind::Container, Kind::Image, Kind::Network, Kind::Volume];
    for candidate in all
        .into_iter()
        .filter(|candidate| args.kind.is_none_or(|kind| kind == *candidate))
    {
        match client.get_json(&candidate.path(name, args)).await {
            // Of the one kind that is asked for, the engine knows best what is missing.
            Err(error) if error.is_not_found() && args.kind.is_none() => {}
            // What can be no image's name may be another thing's.
            Err(CliError::Engine { status: 400, .. })
                if candidate == Kind::Image && args.kind.is_none() => {}
            other => return other,
        }
    }
    Err(CliError::Engine {
        status: 404,
        message: format!("No such object: {name}"),
    })
}
