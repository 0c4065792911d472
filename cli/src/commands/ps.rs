//! `ps`.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{json, Value};

use super::{filters, line};
use crate::client::{encode, Client};
use crate::error::{CliError, Result};
use crate::table;
use crate::template::{heads_of_labels, quoted, shown, with_labels, Template};
use crate::units::{ago, human_size, local_time};

/// Longest command that is shown, in characters.
const MAX_COMMAND: usize = 20;
/// Longest name of a mount that is shown, in characters.
const MAX_MOUNT: usize = 15;

/// `ps`
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only the newest (of all states)
    #[arg(short, long)]
    latest: bool,
    /// Only so many, the newest (of all states)
    #[arg(short = 'n', long, value_name = "COUNT")]
    last: Option<u32>,
    /// Full ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Also how much is written, and how much with the image
    #[arg(short, long)]
    size: bool,
    /// Only what passes: KEY=VALUE
    #[arg(short, long)]
    filter: Vec<String>,
    /// `table`, `json` or a template such as '{{.ID}} {{.Names}}'
    #[arg(long)]
    format: Option<String>,
}

pub(crate) async fn run(args: PsArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let mut query = format!("/containers/json?all={}", args.all);
    let limit = if args.latest { Some(1) } else { args.last };
    if let Some(limit) = limit {
        query.push_str(&format!("&limit={limit}"));
    }
    // As docker: what a template shows is asked for.
    let shows = |field: &str| {
        args.format
            .as_deref()
            .is_some_and(|text| text.contains(field))
    };
    if args.size || shows(".Size") {
        query.push_str("&size=1");
    }
    if !args.filter.is_empty() {
        let filters = json!(filters(&args.filter)?).to_string();
        query.push_str(&format!("&filters={}", encode(&filters)));
    }
    let answer = client.get_json(&query).await?;
    let rows: Vec<Value> = answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| row(item, args.no_trunc))
        .collect();
    if args.quiet {
        for row in &rows {
            line(out, row["ID"].as_str().unwrap_or_default())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut columns = vec![
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAMES", "Names"),
    ];
    if args.size {
        columns.push(("SIZE", "Size"));
    }
    print(out, &rows, args.format.as_deref(), &columns)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints rows as a table of `columns` (head and field), or as `format` says.
pub(super) fn print(
    out: &mut dyn Write,
    rows: &[Value],
    format: Option<&str>,
    columns: &[(&str, &str)],
) -> Result<()> {
    match format {
        Some("json") => rows.iter().try_for_each(|row| line(out, shown(row))),
        None | Some("" | "table") => {
            let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
            let text =
                |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let cells: Vec<Vec<String>> = rows
                .iter()
                .map(|row| columns.iter().map(|(_, field)| text(row, field)).collect())
                .collect();
            table::print(out, &heads, &cells).map_err(CliError::io("cannot write the output"))
        }
        Some(format) => match format.strip_prefix("table ") {
            Some(format) => print_columns(out, rows, format, columns),
            None => {
                let template = Template::parse(format)?;
                rows.iter()
                    .try_for_each(|row| line(out, template.render(row)?))
            }
        },
    }
}

/// Prints rows under heads, in the columns that a template separates by tabs.
fn print_columns(
    out: &mut dyn Write,
    rows: &[Value],
    format: &str,
    columns: &[(&str, &str)],
) -> Result<()> {
    let template = Template::parse(format)?;
    // The line of heads is the template, filled with each field's head.
    let fields = rows.iter().filter_map(Value::as_object).flatten();
    let named = fields.map(|(field, _)| (field.clone(), head_of(field)));
    let usual = columns
        .iter()
        .map(|(head, field)| ((*field).to_owned(), (*head).to_owned()));
    let heads: serde_json::Map<String, Value> = named
        .chain(usual)
        .map(|(field, head)| (field, head.into()))
        .chain([heads_of_labels()])
        .collect();
    let cells = |text: String| text.split('\t').map(str::to_owned).collect::<Vec<_>>();
    // A field is not known without rows, and a head may not be what a function takes.
    let heads = template
        .render(&heads.into())
        .map(cells)
        .unwrap_or_default();
    let rows = rows.iter().map(|row| template.render(row).map(cells));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    table::print(out, &heads, &rows).map_err(CliError::io("cannot write the output"))
}

/// `CreatedAt` as `CREATED AT`.
fn head_of(field: &str) -> String {
    let mut head = String::new();
    let mut before = None;
    for c in field.chars() {
        if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
            head.push(' ');
        }
        before = Some(c);
        head.extend(c.to_uppercase());
    }
    head
}

pub(super) fn row(item: &Value, full: bool) -> Value {
    let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let id = text("Id");
    let command = text("Command");
    let command = match (full, command.chars().count()) {
        (false, count) if MAX_COMMAND < count => {
            command.chars().take(MAX_COMMAND - 1).chain(['…']).collect()
        }
        _ => command,
    };
    let names: Vec<&str> = item["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.trim_start_matches('/')))
        .collect();
    let labels: Vec<String> = item["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let networks: Vec<&str> = item["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let created = item["Created"].as_i64().unwrap_or(0);
    let now = jiff::Timestamp::now().as_second();
    let row = json!({
        "ID": if full { id.as_str() } else { id.get(..12).unwrap_or(&id) },
        "Image": text("Image"),
        "Command": quoted(&command),
        "RunningFor": ago(now - created),
        "CreatedAt": local_time(created),
        "Status": text("Status"),
        "State": text("State"),
        "Ports": ports(item),
        "Names": names.join(","),
        "Labels": labels.join(","),
        "Networks": networks.join(","),
        "Mounts": mounts(item, full),
        "LocalVolumes": local_volumes(item).to_string(),
        "Size": size(item),
    });
    with_labels(row, &item["Labels"])
}

fn mounted(item: &Value) -> impl Iterator<Item = &Value> {
    item["Mounts"].as_array().into_iter().flatten()
}

/// What is mounted, by the volume's name or the path on the host; long ones are cut.
fn mounts(item: &Value, full: bool) -> String {
    let name = |mount: &Value| {
        let text = |key: &str| mount[key].as_str().filter(|text| !text.is_empty());
        let name = text("Name").or(text("Source")).unwrap_or_default();
        match !full && MAX_MOUNT < name.chars().count() {
            true => name.chars().take(MAX_MOUNT - 1).chain(['…']).collect(),
            false => name.to_owned(),
        }
    };
    mounted(item).map(name).collect::<Vec<String>>().join(",")
}

fn local_volumes(item: &Value) -> usize {
    mounted(item)
        .filter(|mount| mount["Driver"] == "local")
        .count()
}

/// What is written, and with it the image.
fn size(item: &Value) -> String {
    let bytes = |key: &str| item[key].as_i64().unwrap_or_default();
    let written = human_size(bytes("SizeRw"));
    match bytes("SizeRootFs") {
        0 => written,
        whole => format!("{written} (virtual {})", human_size(whole)),
    }
}

/// As docker writes them: `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp`.
fn ports(item: &Value) -> String {
    let one = |port: &Value| {
        let kind = port["Type"].as_str().unwrap_or("tcp");
        let inside = port["PrivatePort"].as_u64().unwrap_or_default();
        match (port["IP"].as_str(), port["PublicPort"].as_u64()) {
            (Some(ip), Some(outside)) if ip.contains(':') => {
                format!("[{ip}]:{outside}->{inside}/{kind}")
            }
            (Some(ip), Some(outside)) => format!("{ip}:{outside}->{inside}/{kind}"),
            _ => format!("{inside}/{kind}"),
        }
    };
    let all = item["Ports"].as_array().into_iter().flatten();
    all.map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_columns_of_its_template() {
        let rows =
            [json!({"ID": "abc", "Names": "one", "CreatedAt": "now", "RunningFor": "2 days ago"})];
        let columns = [("CONTAINER ID", "ID"), ("CREATED", "RunningFor")];
        let shown = |format: &str, rows: &[Value]| {
            let mut out = Vec::new();
            print(&mut out, rows, Some(format), &columns).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            shown(
                "table {{.ID}}\\t{{.Names}}\\t{{.CreatedAt}}\\t{{.RunningFor}}",
                &rows
            ),
            "CONTAINER ID   NAMES     CREATED AT   CREATED\n\
             abc            one       now          2 days ago\n"
        );
        assert_eq!(shown("table {{.ID}}", &[]), "CONTAINER ID\n");
        assert_eq!(shown("{{.ID}}={{upper .Names}}", &rows), "abc=ONE\n");
    }

    #[test]
    fn a_label_is_told_from_the_others() {
        let labels = json!({"a.my-app": "x,b=2", "b": "1"});
        let rows = [with_labels(json!({"Names": "one"}), &labels)];
        let text = |format: &str| {
            let mut out = Vec::new();
            print(&mut out, &rows, Some(format), &[("NAMES", "Names")]).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text("{{.Label \"a.my-app\"}}|{{.Label \"c\"}}|"),
            "x,b=2||\n"
        );
        assert_eq!(
            text("{{with .Label \"b\"}}{{.}}{{end}}{{$.Label \"b\"}}"),
            "11\n"
        );
        assert_eq!(text("{{if eq (.Label \"b\") \"1\"}}yes{{end}}"), "yes\n");
        assert_eq!(text("{{json .}}"), "{\"Names\":\"one\"}\n");
        assert_eq!(text("json"), "{\"Names\":\"one\"}\n");
        assert_eq!(text(""), "NAMES\none\n");
        let table = text("table {{.Names}}\t{{.Label \"a.my-app\"}}");
        assert_eq!(table, "NAMES     my app\none       x,b=2\n");
        let mut out = Vec::new();
        assert!(print(&mut out, &rows, Some("{{.Names \"b\"}}"), &[]).is_err());
    }

    #[test]
    fn a_command_is_quoted_as_docker_does() {
        let item = json!({"Command": "sh -c 'a \"b c\"'"});
        assert_eq!(row(&item, true)["Command"], r#""sh -c 'a \"b c\"'""#);
    }

    #[test]
    fn mounts_and_sizes_are_the_containers() {
        let item = json!({
            "Mounts": [
                {"Type": "volume", "Name": "data", "Driver": "local", "Source": "/var/x"},
                {"Type": "bind", "Source": "/a/long/path/of/the/host"},
            ],
            "SizeRw": 5000, "SizeRootFs": 1_005_000,
        });
        let row = row(&item, false);
        assert_eq!(row["Mounts"], "data,/a/long/path/o…");
        assert_eq!(row["LocalVolumes"], "1");
        assert_eq!(row["Size"], "5kB (virtual 1MB)");
    }

    #[test]
    fn published_ports_are_written_as_docker_does() {
        let item = json!({"Ports": [
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 53, "Type": "udp"},
        ]});
        assert_eq!(
            ports(&item),
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 53/udp"
        );
    }
}
