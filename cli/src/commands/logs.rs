//! `logs`.

use std::process::ExitCode;

use hyper::Method;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::attach::copy_body;
use crate::client::{empty, encode, Client};
use crate::error::{CliError, Result};

/// Characters of a date without a time of day.
const DATE_LENGTH: usize = "2026-01-02".len();

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
    if let Some(time) = local_time(text) {
        return Ok(time.to_string());
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

/// A date, with or without a time of day, as docker's clients read it: of this machine's own zone.
fn local_time(text: &str) -> Option<Timestamp> {
    let time: DateTime = match text.parse::<Date>() {
        Ok(date) if text.len() <= DATE_LENGTH => date.into(),
        _ => text.parse().ok()?,
    };
    Some(time.to_zoned(TimeZone::system()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_without_a_zone_are_local() {
        for (text, time) in [
            ("2026-01-02", DateTime::constant(2026, 1, 2, 0, 0, 0, 0)),
            (
                "2026-01-02T15:04:05",
                DateTime::constant(2026, 1, 2, 15, 4, 5, 0),
            ),
            (
                "2026-01-02T15:04",
                DateTime::constant(2026, 1, 2, 15, 4, 0, 0),
            ),
        ] {
            let read: Timestamp = point_in_time(text).unwrap().parse().unwrap();
            let local = time.to_zoned(TimeZone::system()).unwrap();
            assert_eq!(read, local.timestamp(), "{text}");
        }
        assert!(point_in_time("2026-13-02").is_err());
    }

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
