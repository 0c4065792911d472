//! `top`.

use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;

use crate::client::{encode, Client};
use crate::error::{CliError, Result};
use crate::table;

/// `top`
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Name or id
    container: String,
    /// Options of ps(1): -ef without any, or such as aux, -eo pid,cmd
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PS OPTIONS"
    )]
    options: Vec<String>,
}

pub(crate) async fn run(args: TopArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let mut path = format!("/containers/{}/top", encode(&args.container));
    if !args.options.is_empty() {
        path += &format!("?ps_args={}", encode(&args.options.join(" ")));
    }
    let answer = client.get_json(&path).await?;
    let words = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .map(|item| item.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let titles = words(&answer["Titles"]);
    let heads: Vec<&str> = titles.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = answer["Processes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(words)
        .collect();
    table::print(out, &heads, &rows).map_err(CliError::io("cannot write the output"))?;
    Ok(ExitCode::SUCCESS)
}
