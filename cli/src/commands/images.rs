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

/// The names of an image as its rows have them: repository, tag, digest. Each tag has the digests of its
/// own repository; a repository without tags is named by its digests.
fn names(item: &Value, with_digests: bool) -> Vec<[&str; 3]> {
    const NONE: &str = "<none>";
    let of = |key: &str| item[key].as_array().into_iter().flatten();
    let digests: Vec<(&str, &str)> = of("RepoDigests")
        .filter_map(|text| text.as_str()?.split_once('@'))
        .collect();
    let of_repository = |repository: &str| {
        let all = digests.iter().filter(|(of, _)| *of == repository);
        let mut all: Vec<&str> = all.map(|(_, digest)| *digest).collect();
        if all.is_empty() {
            all.push(NONE);
        }
        all.truncate(if with_digests { all.len() } else { 1 });
        all
    };
    let tags = of("RepoTags").filter_map(Value::as_str);
    let mut named: Vec<(&str, &str)> = tags
        .map(|name| name.rsplit_once(':').unwrap_or((name, NONE)))
        .collect();
    for (repository, _) in &digests {
        if !named.iter().any(|(of, _)| of == repository) {
            named.push((repository, NONE));
        }
    }
    if named.is_empty() {
        named.push((NONE, NONE));
    }
    let rows = named.into_iter().flat_map(|(repository, tag)| {
        let digests = of_repository(repository).into_iter();
        digests.map(move |digest| [repository, tag, digest])
    });
    rows.collect()
}

/// One row for each name of an image.
fn rows(item: &Value, args: &ImagesArgs) -> Vec<Value> {
    let id = item["Id"].as_str().unwrap_or_default();
    let short = id.trim_start_matches("sha256:");
    let created = item["Created"].as_i64().unwrap_or(0);
    let format = args.format.as_deref().unwrap_or_default();
    names(item, args.digests || format.contains(".Digest"))
        .into_iter()
        .map(|[repository, tag, digest]| {
            json!({
                "Repository": repository,
                "Tag": tag,
                "Digest": digest,
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
                // Of what is not there, what was wanted is so.
                if !(args.force && error.is_not_found()) {
                    status = ExitCode::from(error.exit_status());
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repository_has_its_own_digests() {
        let item = json!({
            "RepoTags": ["a:1", "a:2", "r:5000/b:1"],
            "RepoDigests": ["r:5000/b@sha256:bb", "a@sha256:aa", "c@sha256:cc", "c@sha256:dd"],
        });
        assert_eq!(
            names(&item, false),
            [
                ["a", "1", "sha256:aa"],
                ["a", "2", "sha256:aa"],
                ["r:5000/b", "1", "sha256:bb"],
                ["c", "<none>", "sha256:cc"],
            ]
        );
        assert_eq!(
            names(&item, true)[3..],
            [["c", "<none>", "sha256:cc"], ["c", "<none>", "sha256:dd"],]
        );
        let pulled = json!({ "RepoTags": [], "RepoDigests": ["busybox@sha256:aa"] });
        assert_eq!(names(&pulled, false), [["busybox", "<none>", "sha256:aa"]]);
        assert_eq!(names(&json!({}), true), [["<none>", "<none>", "<none>"]]);
    }
}
