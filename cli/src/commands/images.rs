//! `images`, `rmi`, `tag`.

use std::io::Write;
use std::process::ExitCode;

use hyper::Method;
use serde_json::{json, Value};

use super::{filters, line, platform, ps};
use crate::client::{empty, encode, read_json, Client};
use crate::error::Result;
use crate::units::{ago, human_size, local_time};

/// `images`
#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// All images (there are no intermediate ones: for compatibility)
    #[arg(short, long)]
    all: bool,
    /// Full ids
    #[arg(long)]
    no_trunc: bool,
    /// With digests
    #[arg(long)]
    digests: bool,
    /// Only what passes: KEY=VALUE
    #[arg(short, long)]
    filter: Vec<String>,
    /// `table`, `json` or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long)]
    format: Option<String>,
    /// Only images of this name
    name: Option<String>,
}

/// `rmi`
#[derive(Debug, clap::Args)]
pub(crate) struct RmiArgs {
    /// Also if several names or stopped containers hold it
    #[arg(short, long)]
    force: bool,
    /// Without effect: an image has no parents of its own
    #[arg(long)]
    no_prune: bool,
    /// Only if the image is for this platform: OS/ARCH[/VARIANT]
    #[arg(long)]
    platform: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

/// `tag`
#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    /// Name or id
    source: String,
    /// Further name
    target: String,
}

pub(crate) async fn list(
    args: ImagesArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let mut wanted = filters(&args.filter)?;
    if let Some(name) = &args.name {
        wanted
            .entry("reference".to_owned())
            .or_default()
            .push(name.clone());
    }
    let path = format!(
        "/images/json?filters={}",
        encode(&json!(wanted).to_string())
    );
    let answer = client.get_json(&path).await?;
    let rows: Vec<Value> = answer
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|item| rows(item, &args))
        .collect();
    if args.quiet {
        let mut last = None;
        for row in &rows {
            let id = row["ID"].as_str();
            if id != last {
                line(out, id.unwrap_or_default())?;
            }
            last = id;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut columns = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
    if args.digests {
        columns.push(("DIGEST", "Digest"));
    }
    columns.extend([
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ]);
    ps::print(out, &rows, args.format.as_deref(), &columns)?;
    Ok(ExitCode::SUCCESS)
}

/// One row for each name of an image.
fn rows(item: &Value, args: &ImagesArgs) -> Vec<Value> {
    let id = item["Id"].as_str().unwrap_or_default();
    let short = id.trim_start_matches("sha256:");
    let created = item["Created"].as_i64().unwrap_or(0);
    let names = |key: &str| -> Vec<&str> {
        item[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    };
    let digest = names("RepoDigests")
        .first()
        .and_then(|text| text.split_once('@'))
        .map(|d| d.1);
    let mut tags = names("RepoTags");
    if tags.is_empty() {
        tags.push("<none>:<none>");
    }
    tags.into_iter()
        .map(|name| {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
            json!({
                "Repository": repository,
                "Tag": tag,
                "Digest": digest.unwrap_or("<none>"),
                "ID": if args.no_trunc { id } else { short.get(..12).unwrap_or(short) },
                "CreatedSince": ago(jiff::Timestamp::now().as_second() - created),
                "CreatedAt": local_time(created),
                "Size": human_size(item["Size"].as_i64().unwrap_or(0)),
                "VirtualSize": human_size(item["Size"].as_i64().unwrap_or(0)),
                // As docker: what a list would have to work out is left to `system df -v`.
                "Containers": "N/A",
                "SharedSize": "N/A",
                "UniqueSize": "N/A",
            })
        })
        .collect()
}

pub(crate) async fn rmi(args: RmiArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    let query = format!(
        "force={}&noprune={}&{}",
        args.force,
        args.no_prune,
        platform::query("platforms", args.platform.as_deref())?
    );
    for name in &args.images {
        let path = format!("/images/{}?{query}", encode(name));
        let removed = async { read_json(client.send(Method::DELETE, &path, empty()).await?).await };
        match removed.await {
            Ok(answer) => {
                print_removed(answer.as_array().map_or(&[], Vec::as_slice), out)?;
            }
            Err(error) => {
                eprintln!("hull: {error}");
                status = ExitCode::from(error.exit_status());
            }
        }
    }
    Ok(status)
}

/// What a removal did, a line each.
pub(super) fn print_removed(removed: &[Value], out: &mut dyn Write) -> Result<()> {
    for item in removed {
        if let Some(name) = item["Untagged"].as_str() {
            line(out, format!("Untagged: {name}"))?;
        }
        if let Some(id) = item["Deleted"].as_str() {
            line(out, format!("Deleted: {id}"))?;
        }
    }
    Ok(())
}

pub(crate) async fn tag(args: TagArgs, client: &Client) -> Result<ExitCode> {
    let last = args.target.rsplit('/').next().unwrap_or_default();
    let (repository, tag) = match last.contains(':') {
        true => args.target.rsplit_once(':').unwrap_or((&args.target, "")),
        false => (args.target.as_str(), "latest"),
    };
    let path = format!(
        "/images/{}/tag?repo={}&tag={}",
        encode(&args.source),
        encode(repository),
        encode(tag)
    );
    client.send(Method::POST, &path, empty()).await?;
    Ok(ExitCode::SUCCESS)
}
