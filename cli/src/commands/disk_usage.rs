//! `system df`: what takes how much disk.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{json, Value};

use super::{line, ps};
use crate::client::Client;
use crate::error::Result;
use crate::units::{ago, human_size};

/// `system df`
#[derive(Debug, clap::Args)]
pub(crate) struct DiskUsageArgs {
    /// Each image, container and volume
    #[arg(short, long, conflicts_with = "format")]
    verbose: bool,
    /// `table`, `json` or a template such as '{{.Type}} {{.Size}}'
    #[arg(long)]
    format: Option<String>,
}

/// Column heads and the fields that are below them.
type Columns<'a> = &'a [(&'a str, &'a str)];

pub(crate) async fn run(
    args: &DiskUsageArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let usage = client.get_json("/system/df").await?;
    if args.verbose {
        verbose(&usage, out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = [
        images_row(&usage),
        row(
            "Containers",
            &sizes(&usage, "Containers", "SizeRw", is_live),
        ),
        row(
            "Local Volumes",
            &sizes(&usage, "Volumes", "/UsageData/Size", is_referred_to),
        ),
        row("Build Cache", &[]),
    ];
    let columns = [
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ];
    ps::print(out, &rows, args.format.as_deref(), &columns)?;
    Ok(ExitCode::SUCCESS)
}

fn items<'a>(usage: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    usage[key].as_array().into_iter().flatten()
}

/// Bytes of each, and whether it is in use.
fn sizes(
    usage: &Value,
    key: &str,
    size: &str,
    in_use: impl Fn(&Value) -> bool,
) -> Vec<(i64, bool)> {
    let bytes = |item: &Value| {
        let found = match size.starts_with('/') {
            true => item.pointer(size),
            false => item.get(size),
        };
        found.and_then(Value::as_i64).unwrap_or_default()
    };
    items(usage, key)
        .map(|item| (bytes(item), in_use(item)))
        .collect()
}

fn has_containers(image: &Value) -> bool {
    image["Containers"].as_i64().is_some_and(|count| 0 < count)
}

fn is_live(container: &Value) -> bool {
    let state = container["State"].as_str().unwrap_or_default();
    ["running", "paused", "restarting"].contains(&state)
}

fn is_referred_to(volume: &Value) -> bool {
    let count = &volume["UsageData"]["RefCount"];
    count.as_i64().is_some_and(|count| 0 < count)
}

/// Number, those in use, bytes, and bytes that a prune would free.
fn row(kind: &str, items: &[(i64, bool)]) -> Value {
    let sum = |in_use: bool| -> i64 {
        let wanted = items.iter().filter(|(_, used)| in_use || !used);
        wanted.map(|(bytes, _)| bytes.max(&0)).sum()
    };
    let active = items.iter().filter(|(_, used)| *used).count();
    totals(kind, [items.len(), active], sum(true), sum(false))
}

/// Of images each layer counts once. A prune frees what no image in use has for itself, as docker counts.
fn images_row(usage: &Value) -> Value {
    let own = |image: &Value| {
        let bytes = |key: &str| image[key].as_i64().unwrap_or_default().max(0);
        bytes("Size") - bytes("SharedSize")
    };
    let images: Vec<_> = items(usage, "Images").collect();
    let used: Vec<_> = images
        .iter()
        .filter(|image| has_containers(image))
        .collect();
    let all = usage["LayersSize"].as_i64().unwrap_or_default();
    let free = all - used.iter().map(|image| own(image)).sum::<i64>();
    totals("Images", [images.len(), used.len()], all, free.max(0))
}

fn totals(kind: &str, [count, active]: [usize; 2], all: i64, free: i64) -> Value {
    let share = match all {
        0 => String::new(),
        all => format!(" ({}%)", free * 100 / all),
    };
    json!({
        "Type": kind,
        "TotalCount": count.to_string(),
        "Active": active.to_string(),
        "Size": human_size(all),
        "Reclaimable": format!("{}{share}", human_size(free)),
    })
}

fn verbose(usage: &Value, out: &mut dyn Write) -> Result<()> {
    let mut section = |head: &str, rows: Vec<Value>, columns: Columns<'_>| {
        line(out, format!("{head}:\n"))?;
        ps::print(out, &rows, None, columns)?;
        line(out, "")
    };
    section(
        "Images space usage",
        items(usage, "Images").flat_map(images).collect(),
        &[
            ("REPOSITORY", "Repository"),
            ("TAG", "Tag"),
            ("IMAGE ID", "ID"),
            ("CREATED", "Created"),
            ("SIZE", "Size"),
            ("SHARED SIZE", "Shared"),
            ("UNIQUE SIZE", "Unique"),
            ("CONTAINERS", "Containers"),
        ],
    )?;
    section(
        "Containers space usage",
        items(usage, "Containers").map(container).collect(),
        &[
            ("CONTAINER ID", "ID"),
            ("IMAGE", "Image"),
            ("COMMAND", "Command"),
            ("LOCAL VOLUMES", "LocalVolumes"),
            ("SIZE", "Written"),
            ("CREATED", "RunningFor"),
            ("STATUS", "Status"),
            ("NAMES", "Names"),
        ],
    )?;
    section(
        "Local Volumes space usage",
        items(usage, "Volumes").map(volume).collect(),
        &[
            ("VOLUME NAME", "Name"),
            ("LINKS", "Links"),
            ("SIZE", "Size"),
        ],
    )
}

/// One row for each name of an image.
fn images(image: &Value) -> Vec<Value> {
    let id = image["Id"].as_str().unwrap_or_default();
    let short: String = id.trim_start_matches("sha256:").chars().take(12).collect();
    let number = |key: &str| image[key].as_i64().unwrap_or_default();
    let shared = number("SharedSize").max(0);
    let now = jiff::Timestamp::now().as_second();
    let tags = image["RepoTags"].as_array().into_iter().flatten();
    let mut tags: Vec<&str> = tags.filter_map(Value::as_str).collect();
    if tags.is_empty() {
        tags.push("<none>:<none>");
    }
    let one = |tag: &&str| {
        let (repository, tag) = tag.rsplit_once(':').unwrap_or((tag, "<none>"));
        json!({
            "Repository": repository,
            "Tag": tag,
            "ID": short,
            "Created": ago(now - number("Created")),
            "Size": human_size(number("Size")),
            "Shared": human_size(shared),
            "Unique": human_size(number("Size") - shared),
            "Containers": number("Containers").max(0).to_string(),
        })
    };
    tags.iter().map(one).collect()
}

fn container(item: &Value) -> Value {
    let mut row = ps::row(item, false);
    row["Written"] = human_size(item["SizeRw"].as_i64().unwrap_or_default()).into();
    row
}

fn volume(item: &Value) -> Value {
    let number = |key: &str| item["UsageData"][key].as_i64().unwrap_or_default().max(0);
    json!({
        "Name": item["Name"],
        "Links": number("RefCount").to_string(),
        "Size": human_size(number("Size")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_what_a_prune_would_free() {
        let row = row("Images", &[(1000, true), (500, false), (-1, false)]);
        assert_eq!(
            (&row["TotalCount"], &row["Active"]),
            (&json!("3"), &json!("1"))
        );
        assert_eq!(row["Reclaimable"], "500B (33%)");
    }

    #[test]
    fn a_shared_layer_counts_once() {
        let usage = json!({
            "LayersSize": 1500,
            "Images": [{"Size": 1000, "SharedSize": 900, "Containers": 1},
                       {"Size": 1400, "SharedSize": 900, "Containers": 0}],
        });
        let row = images_row(&usage);
        assert_eq!(
            (&row["TotalCount"], &row["Active"]),
            (&json!("2"), &json!("1"))
        );
        assert_eq!(row["Size"], "1.5kB");
        assert_eq!(row["Reclaimable"], "1.4kB (93%)");
    }

    #[test]
    fn each_object_has_its_line() {
        let usage = json!({
            "Images": [{"Id": "sha256:0123456789abcdef", "RepoTags": ["a:1", "b:2"], "Size": 1500,
                        "SharedSize": 500, "Containers": 1, "Created": 0}],
            "Containers": [{"Id": "c1", "SizeRw": 7, "Names": ["/one"], "State": "running",
                            "Mounts": [{"Driver": "local", "Name": "v"}]}],
            "Volumes": [{"Name": "v", "UsageData": {"Size": 5, "RefCount": 1}}],
        });
        let mut out = Vec::new();
        verbose(&usage, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in [
            "a            1",
            "b            2",
            "one",
            "v             1         5B",
            "1kB",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
