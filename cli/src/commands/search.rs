//! `search`.

use std::io::Write;
use std::process::ExitCode;

use hyper::Method;
use serde_json::{json, Value};

use super::login::registry_auth;
use super::{filters, ps};
use crate::client::{encode, read_json, Client};
use crate::error::Result;

/// Characters of a description that are shown.
const DESCRIPTION: usize = 45;

/// `search`
#[derive(Debug, clap::Args)]
pub(crate) struct SearchArgs {
    /// Only those that pass: is-official=BOOL, stars=NUMBER
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json` or a template such as '{{.Name}} {{.StarCount}}'
    #[arg(long)]
    format: Option<String>,
    /// At most so many
    #[arg(long)]
    limit: Option<u32>,
    /// Whole descriptions
    #[arg(long)]
    no_trunc: bool,
    /// What to look for, with an optional registry
    term: String,
}

pub(crate) async fn run(
    args: SearchArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let filters = serde_json::to_string(&filters(&args.filter)?).map_err(crate::client::broken)?;
    let path = format!(
        "/images/search?term={}&limit={}&filters={}",
        encode(&args.term),
        args.limit.unwrap_or(0),
        encode(&filters),
    );
    let auth = registry_auth(&args.term).await?;
    let found = read_json(client.send_with_auth(Method::GET, &path, auth).await?).await?;
    let rows = found.as_array().into_iter().flatten();
    let rows: Vec<Value> = rows.map(|row| shown(row, args.no_trunc)).collect();
    ps::print(out, &rows, args.format.as_deref(), &COLUMNS)?;
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [(&str, &str); 4] = [
    ("NAME", "Name"),
    ("DESCRIPTION", "Description"),
    ("STARS", "StarCount"),
    ("OFFICIAL", "IsOfficial"),
];

/// A result under docker's names for templates.
fn shown(found: &Value, whole: bool) -> Value {
    let description = found["description"].as_str().unwrap_or_default();
    let mut description = description.replace(['\n', '\r'], " ");
    if !whole && DESCRIPTION < description.chars().count() {
        description = description.chars().take(DESCRIPTION - 1).collect();
        description.push('…');
    }
    let official = match found["is_official"].as_bool() {
        Some(true) => "[OK]",
        _ => "",
    };
    json!({
        "Name": found["name"],
        "Description": description,
        // A text, as docker's rows have it.
        "StarCount": found["star_count"].to_string(),
        "IsOfficial": official,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_descriptions_are_cut() {
        let found = json!({ "name": "x", "description": "d".repeat(60), "star_count": 3, "is_official": true });
        let row = shown(&found, false);
        assert_eq!(
            row["Description"].as_str().unwrap().chars().count(),
            DESCRIPTION
        );
        assert_eq!(row["IsOfficial"], "[OK]");
        assert_eq!(shown(&found, true)["Description"], "d".repeat(60));
    }
}
