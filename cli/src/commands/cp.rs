//! `cp`: between a container and this machine, by docker's rules.

mod extract;
mod pack;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::load::body_of;
use crate::client::{broken, empty, encode, Client};
use crate::error::{CliError, Result};

/// Docker's header with the description of a path.
const STAT_HEADER: &str = "x-docker-container-path-stat";
/// Go's `os.ModeDir` and `os.ModeSymlink`.
const GO_DIRECTORY: u64 = 1 << 31;
const GO_SYMLINK: u64 = 1 << 27;

/// `cp`
#[derive(Debug, clap::Args)]
pub(crate) struct CpArgs {
    /// Keep owners and groups
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link at SOURCE leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Don't say what was copied
    #[arg(short, long)]
    quiet: bool,
    /// [CONTAINER:]PATH, or - for a tar on standard input
    source: String,
    /// [CONTAINER:]PATH, or - for a tar on standard output
    destination: String,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    /// A path in a container.
    Container(String, String),
    /// A path of this machine.
    Local(PathBuf),
    /// A standard stream.
    Stream,
}

impl Side {
    fn parse(text: &str) -> Self {
        let local = || Self::Local(PathBuf::from(text));
        if text == "-" {
            return Self::Stream;
        }
        if text.starts_with('/') || text.starts_with('.') {
            return local();
        }
        match text.split_once(':') {
            Some((container, path)) if !container.is_empty() => {
                Self::Container(container.to_owned(), path.to_owned())
            }
            _ => local(),
        }
    }
}

/// A path in a container that exists.
#[derive(Debug)]
struct Found {
    path: String,
    directory: bool,
}

pub(crate) async fn run(args: CpArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let sides = (Side::parse(&args.source), Side::parse(&args.destination));
    let copied = match &sides {
        (Side::Container(..), Side::Container(..)) => {
            return Err(CliError::usage(
                "copying between containers is not supported",
            ))
        }
        (Side::Container(container, path), to) => {
            from_container(&args, client, container, path, to, out).await?
        }
        (from, Side::Container(container, path)) => {
            to_container(&args, client, from, container, path).await?
        }
        _ => {
            return Err(CliError::usage(
                "must specify at least one container source",
            ))
        }
    };
    let streams = [&sides.0, &sides.1].contains(&&Side::Stream);
    if !args.quiet && !streams {
        let size = crate::units::human_size(i64::try_from(copied).unwrap_or(i64::MAX));
        eprintln!("Successfully copied {size} to {}", args.destination);
    }
    Ok(ExitCode::SUCCESS)
}

fn archive_path(container: &str, path: &str, more: &str) -> String {
    format!(
        "/containers/{}/archive?path={}{more}",
        encode(container),
        encode(path)
    )
}

/// The description of a path, with the links at its end followed if `follow`.
async fn look(client: &Client, container: &str, path: &str, follow: bool) -> Result<Option<Found>> {
    let mut path = path.to_owned();
    let mut followed = false;
    for _ in 0..40 {
        let url = archive_path(container, &path, "");
        let response = match client.send(Method::HEAD, &url, empty()).await {
            Ok(response) => response,
            // What a link that leads nowhere leads to is made, as a file.
            Err(CliError::Engine { status: 404, .. }) if followed => {
                return Ok(Some(Found {
                    path,
                    directory: false,
                }));
            }
            Err(CliError::Engine { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let stat = stat_of(&response)?;
        let mode = stat["mode"].as_u64().unwrap_or_default();
        let target = stat["linkTarget"].as_str().unwrap_or_default();
        if mode & GO_SYMLINK == 0 || !follow || target.is_empty() {
            return Ok(Some(Found {
                path,
                directory: mode & GO_DIRECTORY != 0,
            }));
        }
        path = target.to_owned();
        followed = true;
    }
    Err(CliError::usage(format!("{path}: too many links")))
}

fn stat_of(response: &Response<Incoming>) -> Result<Value> {
    let header = response.headers().get(STAT_HEADER);
    let text = header.map(|value| value.as_bytes()).unwrap_or_default();
    let json = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
    serde_json::from_slice(&json.map_err(broken)?).map_err(broken)
}

async fn from_container(
    args: &CpArgs,
    client: &Client,
    container: &str,
    path: &str,
    to: &Side,
    out: &mut dyn Write,
) -> Result<u64> {
    let mut path = without_parents(path);
    if args.follow_link {
        if let Some(found) = look(client, container, &path, true).await? {
            path = found.path;
        }
    }
    let url = archive_path(container, &path, "");
    let response = client.send(Method::GET, &url, empty()).await?;
    let source = Found {
        directory: stat_of(&response)?["mode"].as_u64().unwrap_or_default() & GO_DIRECTORY != 0,
        path,
    };
    match to {
        Side::Local(target) => {
            let place = extract::place(&source.path, source.directory, target)?;
            receive(response, place, args.archive).await
        }
        _ => stream_out(response, out).await,
    }
}

async fn stream_out(response: Response<Incoming>, out: &mut dyn Write) -> Result<u64> {
    let mut body = response.into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            total += data.len() as u64;
            out.write_all(&data)
                .map_err(CliError::io("cannot write the output"))?;
        }
    }
    out.flush()
        .map_err(CliError::io("cannot write the output"))?;
    Ok(total)
}

/// Extracts an answer on a thread that reads it by a pipe.
async fn receive(response: Response<Incoming>, place: extract::Place, owners: bool) -> Result<u64> {
    let pipe = std::io::pipe().map_err(CliError::io("cannot open a pipe"))?;
    let (reader, writer) = pipe;
    let extracting = tokio::task::spawn_blocking(move || extract::extract(reader, &place, owners));
    let writer = tokio::net::unix::pipe::Sender::from_owned_fd(writer.into());
    let mut writer = writer.map_err(CliError::io("cannot use a pipe"))?;
    let mut body = response.into_body();
    let mut total = 0;
    let mut broken_off = None;
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => {
                total += data.len() as u64;
                if writer.write_all(&data).await.is_err() {
                    break;
                }
            }
            Ok(Err(_)) => {}
            Err(error) => {
                broken_off = Some(broken(error));
                break;
            }
        }
    }
    drop(writer);
    let extracted = extracting.await.map_err(broken)?;
    match broken_off {
        Some(error) => Err(error),
        None => extracted.map(|()| total),
    }
}

async fn to_container(
    args: &CpArgs,
    client: &Client,
    from: &Side,
    container: &str,
    path: &str,
) -> Result<u64> {
    let target = look(client, container, path, true).await?;
    let more = match args.archive {
        true => "&noOverwriteDirNonDir=true&copyUIDGID=true",
        false => "&noOverwriteDirNonDir=true",
    };
    let Side::Local(source) = from else {
        let there = target.filter(|found| found.directory).ok_or_else(|| {
            CliError::usage(format!(
                "destination \"{container}:{path}\" must be a directory"
            ))
        })?;
        let url = archive_path(container, &there.path, more);
        let body = body_of(tokio::io::stdin());
        client.send(Method::PUT, &url, body).await?;
        return Ok(0);
    };
    let plan = pack::plan(source, args.follow_link, path, target.as_ref())?;
    let url = archive_path(container, &plan.directory, more);
    let (body, counter) = pack::body(plan, args.archive)?;
    client.send(Method::PUT, &url, body).await?;
    counter.await.map_err(broken)?
}

/// Whether a path says that it is a directory.
fn ends_as_directory(path: &Path) -> bool {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b"."
}

/// A container's path whose last word is its name: `..` takes the word before it away, as docker has it.
fn without_parents(path: &str) -> String {
    if !path.split('/').any(|word| word == "..") {
        return path.to_owned();
    }
    let mut words = Vec::new();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => _ = words.pop(),
            word => words.push(word),
        }
    }
    let end = match means_content(Path::new(path)) {
        true => "/.",
        false => "",
    };
    match words.is_empty() && end.is_empty() {
        true => "/".to_owned(),
        false => {
            words
                .iter()
                .map(|word| format!("/{word}"))
                .collect::<String>()
                + end
        }
    }
}

/// Whether a path means what is in a directory.
fn means_content(path: &Path) -> bool {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    bytes.ends_with(b"/.") || bytes == b"."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_name_of_its_own() {
        for (path, clean) in [
            ("/tmp/..", "/"),
            ("/tmp/../", "/"),
            ("/tmp/../.", "/."),
            ("/etc/../etc/passwd", "/etc/passwd"),
            ("../x/y/..", "/x"),
            (".", "."),
            ("a//b", "a//b"),
        ] {
            assert_eq!(without_parents(path), clean, "{path}");
        }
    }

    #[test]
    fn sides_are_told_apart() {
        let local = |text: &str| Side::Local(text.into());
        assert_eq!(
            Side::parse("c:/x"),
            Side::Container("c".into(), "/x".into())
        );
        assert_eq!(Side::parse("./c:x"), local("./c:x"));
        assert_eq!(Side::parse("/a:b"), local("/a:b"));
        assert_eq!(Side::parse("file"), local("file"));
        assert_eq!(Side::parse("-"), Side::Stream);
        assert!(means_content(Path::new("a/.")) && !means_content(Path::new("a/")));
        assert!(ends_as_directory(Path::new("a/")));
    }
}
