//! `volume`.

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use hyper::Method;
use serde_json::{json, Value};

use super::{line, ps};
use crate::client::{encode, json_body, read_json, Client};
use crate::error::{CliError, Result};
use crate::template;

/// `volume`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume, and print its name
    Create(CreateArgs),
    /// List volumes
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Print everything known about volumes
    Inspect(InspectArgs),
    /// Remove volumes with all that is in them
    #[command(alias = "remove")]
    Rm(RemoveArgs),
    /// Remove the volumes that no container has: those without a name, or with --all all of them
    Prune(PruneArgs),
}

/// `volume create`
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Its driver
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Label: KEY[=VALUE]
    #[arg(long)]
    label: Vec<String>,
    /// Option of the driver: KEY=VALUE
    #[arg(short, long)]
    opt: Vec<String>,
    /// Its name; without one it gets a random one
    name: Option<String>,
}

/// `volume ls`
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those that pass: dangling=BOOL, driver=, label=, name=
    #[arg(short, long)]
    filter: Vec<String>,
    /// Go template for each line, or `json`
    #[arg(long)]
    format: Option<String>,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
}

/// `volume inspect`
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Go template instead of JSON
    #[arg(short, long)]
    format: Option<String>,
    /// Names
    #[arg(required = true)]
    names: Vec<String>,
}

/// `volume rm`
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true)]
    names: Vec<String>,
}

/// `volume prune`
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Also those with a name
    #[arg(short, long)]
    all: bool,
    /// Only those that pass: label=, label!=
    #[arg(long)]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(
    command: VolumeCommand,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    match command {
        VolumeCommand::Create(args) => create(args, client, out).await?,
        VolumeCommand::Ls(args) => list(&args, client, out).await?,
        VolumeCommand::Inspect(args) => return inspect(&args, client, out).await,
        VolumeCommand::Rm(args) => return remove(&args, client, out).await,
        VolumeCommand::Prune(args) => prune(&args, client, out).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pairs(words: &[String]) -> HashMap<String, String> {
    let pair = |word: &String| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.to_owned(), value.to_owned())
    };
    words.iter().map(pair).collect()
}

pub(super) fn filters(words: &[String]) -> Result<HashMap<String, Vec<String>>> {
    let mut all: HashMap<String, Vec<String>> = HashMap::new();
    for word in words {
        // `label!=x` splits at its first `=` too.
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| CliError::usage(format!("invalid argument {word:?}: want KEY=VALUE")))?;
        all.entry(key.to_owned())
            .or_default()
            .push(value.to_owned());
    }
    Ok(all)
}

pub(super) fn query(filters: &HashMap<String, Vec<String>>) -> Result<String> {
    let text = serde_json::to_string(filters).map_err(crate::client::broken)?;
    Ok(encode(&text))
}

async fn create(args: CreateArgs, client: &Client, out: &mut dyn Write) -> Result<()> {
    // Not by the typed call: what a plugin says of a volume may be of any shape.
    let request = json!({
        "Name": args.name,
        "Driver": args.driver,
        "DriverOpts": pairs(&args.opt),
        "Labels": pairs(&args.label),
    });
    let answer = client.send(Method::POST, "/volumes/create", json_body(&request));
    let made = read_json(answer.await?).await?;
    line(out, made["Name"].as_str().unwrap_or_default())
}

async fn list(args: &ListArgs, client: &Client, out: &mut dyn Write) -> Result<()> {
    let path = format!("/volumes?filters={}", query(&filters(&args.filter)?)?);
    let answer = client.get_json(&path).await?;
    for warning in answer["Warnings"].as_array().into_iter().flatten() {
        eprintln!("hull: {}", warning.as_str().unwrap_or_default());
    }
    let empty = Vec::new();
    let volumes = answer["Volumes"].as_array().unwrap_or(&empty);
    let text = |volume: &Value, key: &str| volume[key].as_str().unwrap_or_default().to_owned();
    if args.quiet {
        for volume in volumes {
            line(out, text(volume, "Name"))?;
        }
        return Ok(());
    }
    let rows: Vec<Value> = volumes.iter().map(row).collect();
    let columns = [("DRIVER", "Driver"), ("VOLUME NAME", "Name")];
    ps::print(out, &rows, args.format.as_deref(), &columns)
}

/// A volume as docker's templates see it.
fn row(volume: &Value) -> Value {
    let labels = volume["Labels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let row = json!({
        "Name": volume["Name"],
        "Driver": volume["Driver"],
        "Scope": volume["Scope"],
        "Mountpoint": volume["Mountpoint"],
        "Labels": labels.collect::<Vec<_>>().join(","),
        "Links": "N/A",
        "Size": "N/A",
        "Availability": "N/A",
        "Group": "N/A",
        "Status": "N/A",
    });
    template::with_labels(row, &volume["Labels"])
}

async fn inspect(args: &InspectArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.names {
        match client.get_json(&format!("/volumes/{}", encode(name))).await {
            Ok(volume) => found.push(volume),
            Err(error) => {
                eprintln!("hull: {error}");
                failed = true;
            }
        }
    }
    match args.format.as_deref() {
        Some("json") => line(out, Value::from(found))?,
        Some(format) => {
            for volume in &found {
                line(out, template::render(format, volume)?)?;
            }
        }
        None => {
            let text = serde_json::to_string_pretty(&found).map_err(crate::client::broken)?;
            line(out, text)?;
        }
    }
    Ok(exit(failed))
}

pub(super) fn exit(failed: bool) -> ExitCode {
    match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

async fn remove(args: &RemoveArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let mut failed = false;
    for name in &args.names {
        let options = bollard::query_parameters::RemoveVolumeOptions { force: args.force };
        match client.api.remove_volume(name, Some(options)).await {
            Ok(()) => line(out, name)?,
            Err(error) => {
                eprintln!("hull: {}", CliError::from(error));
                failed = true;
            }
        }
    }
    Ok(exit(failed))
}

async fn prune(args: &PruneArgs, client: &Client, out: &mut dyn Write) -> Result<()> {
    let which = match args.all {
        true => "all volumes that no container has",
        false => "the volumes without a name that no container has",
    };
    super::prune::confirm(args.force, &format!("{which}, with all that is in them"))?;
    let mut filters = filters(&args.filter)?;
    if args.all {
        filters.insert("all".to_owned(), vec!["true".to_owned()]);
    }
    let options = bollard::query_parameters::PruneVolumesOptions {
        filters: Some(filters),
    };
    let pruned = client.api.prune_volumes(Some(options)).await?;
    let deleted = pruned.volumes_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        line(out, "Deleted Volumes:")?;
    }
    for name in deleted {
        line(out, name)?;
    }
    let bytes = pruned.space_reclaimed.unwrap_or_default();
    let size = crate::units::human_size(bytes);
    line(out, format!("Total reclaimed space: {size}"))
}
