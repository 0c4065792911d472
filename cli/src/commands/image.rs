//! `image`, `import`, `history`.

use std::io::Write;
use std::process::ExitCode;

use hyper::Method;
use serde_json::{json, Value};

use super::load::body_of;
use super::{files, filters, images, inspect, line, load, platform, ps, pull, push};
use crate::client::{empty, encode, read_json, Client};
use crate::error::{CliError, Result};
use crate::progress::{self, To};
use crate::units::{ago, human_size};

/// Longest command that a history shows unless it is told otherwise, in characters.
const MAX_COMMAND: usize = 45;

/// `image`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    #[command(alias = "list")]
    Ls(images::ImagesArgs),
    /// Print everything known about images
    Inspect(ImageInspectArgs),
    /// Print how an image was made
    History(HistoryArgs),
    /// Make an image of a tar of files
    Import(ImportArgs),
    /// Load images from an archive
    Load(load::LoadArgs),
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// Send an image to its registry
    Push(push::PushArgs),
    /// Write images as an archive
    Save(push::SaveArgs),
    /// Give an image a further name
    Tag(images::TagArgs),
    /// Remove images
    #[command(alias = "remove")]
    Rm(images::RmiArgs),
    /// Remove the images without a name, or with --all those that no container has
    Prune(PruneArgs),
}

/// `image inspect`
#[derive(Debug, clap::Args)]
pub(crate) struct ImageInspectArgs {
    /// Only if the image is for this platform: OS/ARCH[/VARIANT]
    #[arg(long)]
    platform: Option<String>,
    /// `json` or a template such as '{{.Os}}'
    #[arg(short, long)]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// `import`
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// Apply a line of a Dockerfile to the image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What it is
    #[arg(short, long)]
    message: Option<String>,
    /// Platform: OS/ARCH[/VARIANT]
    #[arg(long)]
    platform: Option<String>,
    /// File, address of a web server, or - for standard input
    source: String,
    /// Name of the image: REPOSITORY[:TAG]
    image: Option<String>,
}

/// `history`
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// `table`, `json` or a template such as '{{.CreatedBy}}'
    #[arg(long)]
    format: Option<String>,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Sizes and times for people: --human=false prints numbers
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    human: bool,
    /// Only if the image is for this platform: OS/ARCH[/VARIANT]
    #[arg(long)]
    platform: Option<String>,
    /// Name or id
    image: String,
}

/// `image prune`
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// All images that no container has
    #[arg(short, long)]
    all: bool,
    /// Only those that pass: until=, label=, label!=
    #[arg(long)]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(
    command: ImageCommand,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    match command {
        ImageCommand::Ls(args) => images::list(args, client, out).await,
        ImageCommand::Inspect(args) => {
            let platform = args.platform.as_deref();
            inspect::images(args.format, platform, args.names, client, out).await
        }
        ImageCommand::History(args) => history(args, client, out).await,
        ImageCommand::Import(args) => import(args, client, out).await,
        ImageCommand::Load(args) => load::run(args, client, out).await,
        ImageCommand::Pull(args) => pull::run(args, client, out).await,
        ImageCommand::Push(args) => push::push(args, client, out).await,
        ImageCommand::Save(args) => push::save(args, client, out).await,
        ImageCommand::Tag(args) => images::tag(args, client).await,
        ImageCommand::Rm(args) => images::rmi(args, client, out).await,
        ImageCommand::Prune(args) => prune(args, client, out).await,
    }
}

/// Makes an image of a tar, and prints its id.
pub(crate) async fn import(
    args: ImportArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let is_remote = args.source.starts_with("http://") || args.source.starts_with("https://");
    let (source, body) = match args.source.as_str() {
        url if is_remote => (url, empty()),
        "-" => ("-", body_of(tokio::io::stdin())),
        path => {
            let failed = CliError::io(format!("cannot open {path}"));
            (
                "-",
                body_of(tokio::fs::File::open(path).await.map_err(failed)?),
            )
        }
    };
    let mut path = format!("/images/create?fromSrc={}", encode(source));
    if let Some(image) = &args.image {
        let (repository, tag) = files::split_tag(image);
        path.push_str(&format!("&repo={}&tag={}", encode(repository), encode(tag)));
    }
    for change in &args.change {
        path.push_str(&format!("&changes={}", encode(change)));
    }
    for (key, value) in [("message", &args.message), ("platform", &args.platform)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encode(value)));
        }
    }
    for id in progress::show(client.send(Method::POST, &path, body).await?, To::Quiet).await? {
        line(out, id)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints how an image was made, the newest step first.
pub(crate) async fn history(
    args: HistoryArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let platform = platform::query("platform", args.platform.as_deref())?;
    let path = format!("/images/{}/history?{platform}", encode(&args.image));
    let answer = client.get_json(&path).await?;
    let steps = answer.as_array().into_iter().flatten();
    let rows: Vec<Value> = steps.map(|step| history_row(step, &args)).collect();
    if args.quiet {
        for row in &rows {
            line(out, row["ID"].as_str().unwrap_or_default())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let created = if args.human {
        "CreatedSince"
    } else {
        "CreatedAt"
    };
    let columns = [
        ("IMAGE", "ID"),
        ("CREATED", created),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    ps::print(out, &rows, args.format.as_deref(), &columns)?;
    Ok(ExitCode::SUCCESS)
}

fn history_row(step: &Value, args: &HistoryArgs) -> Value {
    let text = |key: &str| step[key].as_str().unwrap_or_default();
    let id = match text("Id") {
        id if args.no_trunc => id.to_owned(),
        id => {
            let short = id.trim_start_matches("sha256:");
            short
                .get(..12)
                .filter(|_| short != "<missing>")
                .unwrap_or(short)
                .to_owned()
        }
    };
    let command = text("CreatedBy").replace('\t', " ");
    let command = match command.chars().count() {
        count if !args.no_trunc && MAX_COMMAND < count => {
            command.chars().take(MAX_COMMAND - 1).chain(['…']).collect()
        }
        _ => command,
    };
    let created = step["Created"].as_i64().unwrap_or(0);
    let size = step["Size"].as_i64().unwrap_or(0);
    let moment = jiff::Timestamp::from_second(created).map(|time| time.to_string());
    json!({
        "ID": id,
        "CreatedSince": ago(jiff::Timestamp::now().as_second() - created),
        "CreatedAt": moment.unwrap_or_default(),
        "CreatedBy": command,
        "Size": if args.human { human_size(size) } else { size.to_string() },
        "Comment": text("Comment"),
    })
}

async fn prune(args: PruneArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let which = match args.all {
        true => "all images that no container has",
        false => "all images without a name",
    };
    super::prune::confirm(args.force, which)?;
    let mut wanted = filters(&args.filter)?;
    wanted.insert("dangling".to_owned(), vec![(!args.all).to_string()]);
    let path = format!(
        "/images/prune?filters={}",
        encode(&json!(wanted).to_string())
    );
    let answer = read_json(client.send(Method::POST, &path, empty()).await?).await?;
    let removed = answer["ImagesDeleted"].as_array();
    if let Some(removed) = removed.filter(|removed| !removed.is_empty()) {
        line(out, "Deleted Images:")?;
        images::print_removed(removed, out)?;
        line(out, "")?;
    }
    let bytes = answer["SpaceReclaimed"].as_i64().unwrap_or(0);
    line(out, format!("Total reclaimed space: {}", human_size(bytes)))?;
    Ok(ExitCode::SUCCESS)
}
