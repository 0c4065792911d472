//! `logs`.

use std::process::ExitCode;

use hyper::Method;
use jiff::{SignedDuration, Timestamp};

use crate::attach::copy_body;
use crate::client::{empty, encode, Client};
use crate::error::{CliError, Result};

/// `logs`
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Go on while it runs
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines from the end
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// Not before: a time, or a duration until now such as 10m
    #[arg(long)]
    since: Option<String>,
    /// Not after: a time, or a duration until now such as 10m
    #[arg(long)]
    until: Option<String>,
    /// With times
    #[arg(short, long)]
    timestamps: bool,
    /// With the facts that the log options name: labels, variables, tag
    #[arg(long)]
    details: bool,
    /// Name or id
    container: String,
}

pub(crate) async fn run(args: LogsArgs, client: &Client) -> Result<ExitCode> {
    let mut path = format!(
        "/containers/{}/logs?stdout=1&stderr=1&follow={}&timestamps={}&details={}&tail={}",
        encode(&args.container),
        args.follow,
        args.timestamps,
        args.details,
        encode(&args.tail)
    );
    for (key, value) in [("since", &args.since), ("until", &args.until)] {
        if let Some(text) = value {
            path.push_str(&format!("&{key}={}", encode(&point_in_time(text)?)));
        }
    }
    copy_body(client.send(Method::GET, &path, empty()).await?).await?;
    Ok(ExitCode::SUCCESS)
}

/// A time as the API has it. A duration counts back from now.
pub(super) fn point_in_time(text: &str) -> Result<String> {
    if text.parse::<Timestamp>().is_ok() || text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    let bad = || {
        CliError::usage(format!(
            "{text:?} is neither a time nor a duration such as 10m"
        ))
    };
    let duration: SignedDuration = text.parse().map_err(|_| bad())?;
    let time = Timestamp::now().checked_sub(duration).map_err(|_| bad())?;
    Ok(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_read() {
        assert_eq!(
            point_in_time("2026-01-01T00:00:00Z").unwrap(),
            "2026-01-01T00:00:00Z"
        );
        assert_eq!(point_in_time("1700000000").unwrap(), "1700000000");
        assert!(point_in_time("10m").unwrap().parse::<Timestamp>().unwrap() < Timestamp::now());
        assert!(point_in_time("soon").is_err());
    }
}
