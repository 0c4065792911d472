//! `run`, `create`, `attach`.

mod devices;
mod limits;
mod mount;
mod networks;
mod options;
mod proxies;
mod publish;
mod security;
mod values;

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;

use bollard::models::ContainerCreateBody;
use hyper::body::Incoming;
use hyper::{Method, Response};
use serde_json::Value;
use tokio::sync::watch;

pub(crate) use options::CreateArgs;
use options::Streams;

use super::{line, pull};
use crate::attach::{Attached, Ended};
use crate::client::{empty, encode, json_body, read_json, Client};
use crate::docker_config;
use crate::error::{CliError, Result};
use crate::progress::To;
use crate::signals::{self, Sized};
use crate::terminal::{DetachKeys, RawMode};

/// Docker's default detach keys.
const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// `run`
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Run in the background, and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Keys that detach from the container
    #[arg(long)]
    detach_keys: Option<String>,
    /// Forward signals to the container
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: bool,
    #[command(flatten)]
    create: CreateArgs,
}

/// `attach`
#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    /// Do not attach to its input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Keys that detach from the container
    #[arg(long)]
    pub(crate) detach_keys: Option<String>,
    /// Forward signals to the container
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sig_proxy: bool,
    /// Name or id
    pub(crate) container: String,
}

pub(crate) async fn create(
    args: CreateArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let body = args.body()?;
    client.expect_hull().await?;
    line(out, create_container(&args, body, client).await?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn run(args: RunArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    if args.detach && args.create.rm && args.create.restarts() {
        return Err(CliError::usage("conflicting options: --restart and --rm"));
    }
    if args.detach && !args.create.attach.is_empty() {
        return Err(CliError::usage(
            "conflicting options: cannot specify both --attach and --detach",
        ));
    }
    let mut body = args.create.body()?;
    let foreground = !args.detach;
    let (tty, streams) = (args.create.tty, args.create.streams());
    if foreground && tty && streams.stdin && !stdin_is_terminal() {
        return Err(CliError::usage("the input device is not a TTY"));
    }
    if args.detach {
        for stream in [
            &mut body.attach_stdin,
            &mut body.attach_stdout,
            &mut body.attach_stderr,
            &mut body.stdin_once,
        ] {
            *stream = Some(false);
        }
    }
    let keys = detach_keys(args.detach_keys.as_deref(), tty)?;
    client.expect_hull().await?;
    let id = create_container(&args.create, body, client).await?;
    if !foreground {
        let interrupted = async {
            match args.create.cidfile {
                // By itself a signal ends nothing any more where one was waited for before.
                Some(_) => signals::ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            started = start(client, &id) => started.map_err(start_error)?,
            status = interrupted => return Ok(ExitCode::from(status)),
        }
        line(out, id)?;
        return Ok(ExitCode::SUCCESS);
    }
    let session = Session {
        id: &id,
        tty,
        streams,
        sig_proxy: args.sig_proxy,
        given_keys: args.detach_keys,
        keys,
    };
    let condition = if args.create.rm {
        "removed"
    } else {
        "next-exit"
    };
    session.run(client, condition, true).await
}

/// Makes the container, and the file that tells its id.
async fn create_container(
    args: &CreateArgs,
    body: ContainerCreateBody,
    client: &Client,
) -> Result<String> {
    let image = args.image()?;
    let Some(path) = args.cidfile.as_deref() else {
        return pull_and_create(image, args, body, client).await;
    };
    let file = IdFile::make(path)?;
    let id = tokio::select! {
        id = pull_and_create(image, args, body, client) => id?,
        // The file goes with this command.
        status = signals::ended() => {
            return Err(CliError::Failed {
                status,
                message: "interrupted before the container was made".to_owned(),
            });
        }
    };
    file.write(&id)?;
    Ok(id)
}

/// Makes the container; an image that is not there is pulled first.
async fn pull_and_create(
    image: &str,
    args: &CreateArgs,
    mut body: ContainerCreateBody,
    client: &Client,
) -> Result<String> {
    let quiet = if args.quiet { To::Quiet } else { To::Stderr };
    if args.pull == options::Pull::Always {
        pull::pull(client, image, args.platform.as_deref(), quiet).await?;
    }
    add_proxies(&mut body, client);
    let body = serde_json::to_value(body).map_err(crate::client::broken)?;
    let mut path = "/containers/create?".to_owned();
    for (key, value) in [("name", &args.name), ("platform", &args.platform)] {
        if let Some(value) = value {
            path.push_str(&format!("{key}={}&", encode(value)));
        }
    }
    let create =
        || async { read_json(client.send(Method::POST, &path, json_body(&body)).await?).await };
    let answer = match create().await {
        Err(error) if is_missing_image(&error) && args.pull != options::Pull::Never => {
            if quiet != To::Quiet {
                eprintln!("Unable to find image '{}' locally", pull::with_tag(image));
            }
            pull::pull(client, image, args.platform.as_deref(), quiet).await?;
            create().await?
        }
        other => other?,
    };
    for warning in answer["Warnings"].as_array().into_iter().flatten() {
        eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    Ok(answer["Id"].as_str().unwrap_or_default().to_owned())
}

/// The proxies of docker's configuration, as docker's client has them.
fn add_proxies(body: &mut ContainerCreateBody, client: &Client) {
    let config = docker_config::read().unwrap_or_else(|error| {
        eprintln!("WARNING: docker's configuration is left out: {error}");
        serde_json::Value::Null
    });
    let mut env = body.env.take().unwrap_or_default();
    proxies::add(&config, &client.host(), &mut env);
    body.env = values::some(env);
}

fn is_missing_image(error: &CliError) -> bool {
    let text = error.to_string();
    let missing = ["No such image", "does not match the specified platform"];
    error.is_not_found() && missing.iter().any(|words| text.contains(words))
}

/// The file of `--cidfile`: made before the container, so that there is none where it can't be made, and
/// removed where no container came of it.
struct IdFile<'a> {
    path: &'a Path,
    file: File,
    written: bool,
}

impl<'a> IdFile<'a> {
    fn make(path: &'a Path) -> Result<Self> {
        let file = File::create_new(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => CliError::usage(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            )),
            _ => CliError::io(format!(
                "cannot make the container ID file {}",
                path.display()
            ))(error),
        })?;
        Ok(Self {
            path,
            file,
            written: false,
        })
    }

    fn write(mut self, id: &str) -> Result<()> {
        let written = self.file.write_all(id.as_bytes());
        self.written = written.is_ok();
        written.map_err(CliError::io(format!(
            "cannot write the container id to {}",
            self.path.display()
        )))
    }
}

impl Drop for IdFile<'_> {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(self.path);
        }
    }
}

async fn start(client: &Client, id: &str) -> Result<()> {
    let path = format!("/containers/{id}/start");
    client.send(Method::POST, &path, empty()).await.map(|_| ())
}

fn start_error(error: CliError) -> CliError {
    CliError::Failed {
        status: error.start_status(),
        message: error.to_string(),
    }
}

fn stdin_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdin())
}

fn detach_keys(given: Option<&str>, tty: bool) -> Result<Option<DetachKeys>> {
    match (given, tty) {
        (Some(text), _) => DetachKeys::parse(text).map(Some),
        (None, true) => DetachKeys::parse(DETACH_KEYS).map(Some),
        // Without a terminal the keys' bytes are data.
        (None, false) => Ok(None),
    }
}

/// A foreground container.
struct Session<'a> {
    id: &'a str,
    tty: bool,
    streams: Streams,
    sig_proxy: bool,
    /// As the user wrote them.
    given_keys: Option<String>,
    keys: Option<DetachKeys>,
}

impl Session<'_> {
    /// Attaches, starts the container if asked to, and stays to its end.
    async fn run(self, client: &Client, condition: &str, starts: bool) -> Result<ExitCode> {
        let path = attach_path(self.id, self.streams, self.given_keys.as_deref());
        let attached = client.hijack(&path, empty()).await?;
        // Its head has come when this returns: no end can be missed.
        let waiting = client
            .send(
                Method::POST,
                &format!("/containers/{}/wait?condition={condition}", self.id),
                empty(),
            )
            .await?;
        // Before the start, which takes as long as a VM's boot: what comes meanwhile is for the container.
        let begun = watch::Sender::new(!starts);
        let signal = signals::left(client, self.id, self.sig_proxy, begun.subscribe());
        tokio::pin!(signal);
        if starts {
            let started = tokio::select! {
                started = start(client, self.id) => started,
                status = signal.as_mut() => return Ok(ExitCode::from(status)),
            };
            if let Err(error) = started {
                if condition == "removed" {
                    let _ = read_json(waiting).await;
                }
                return Err(start_error(error));
            }
            begun.send_replace(true);
        }
        match self.stay(client, attached, signal).await? {
            Stayed::ToTheEnd => exit_code(waiting).await,
            Stayed::Until(status) => Ok(status),
        }
    }

    async fn stay(
        self,
        client: &Client,
        attached: Attached,
        signal: Pin<&mut impl Future<Output = u8>>,
    ) -> Result<Stayed> {
        let _raw = match self.tty && self.streams.stdin {
            true => RawMode::enter()?,
            false => None,
        };
        let sized = Sized::Container(self.id);
        if self.tty {
            signals::send_size(client, sized).await;
        }
        let copying = attached.copy(self.streams.stdin, self.keys);
        let sizes = async {
            match self.tty {
                true => signals::follow_size(client, sized).await,
                false => std::future::pending().await,
            }
        };
        Ok(tokio::select! {
            ended = copying => match ended? {
                Ended::Output => Stayed::ToTheEnd,
                Ended::Detached => Stayed::Until(ExitCode::SUCCESS),
            },
            () = sizes => Stayed::ToTheEnd,
            status = signal => Stayed::Until(ExitCode::from(status)),
        })
    }
}

/// How long a session lasted.
enum Stayed {
    /// Until the container's output ended.
    ToTheEnd,
    /// Until the user left, with this exit status.
    Until(ExitCode),
}

/// The engine is told of the keys, too: it holds back those that it looks for.
fn attach_path(id: &str, streams: Streams, keys: Option<&str>) -> String {
    let keys = keys.map(|keys| format!("&detachKeys={}", encode(keys)));
    format!(
        "/containers/{id}/attach?stream=1&stdout={}&stderr={}&stdin={}{}",
        u8::from(streams.stdout),
        u8::from(streams.stderr),
        u8::from(streams.stdin),
        keys.unwrap_or_default()
    )
}

async fn exit_code(waiting: Response<Incoming>) -> Result<ExitCode> {
    let answer = read_json(waiting).await?;
    for why in [&answer["HullReason"], &answer["Error"]["Message"]] {
        if let Some(why) = why.as_str() {
            eprintln!("hull: {why}");
        }
    }
    Ok(status_byte(&answer["StatusCode"]))
}

/// An exit code as this process's own.
pub(super) fn status_byte(value: &Value) -> ExitCode {
    ExitCode::from(
        value
            .as_i64()
            .and_then(|code| u8::try_from(code & 0xff).ok())
            .unwrap_or(1),
    )
}

pub(crate) async fn attach(args: AttachArgs, client: &Client) -> Result<ExitCode> {
    let inspect = client
        .get_json(&format!("/containers/{}/json", encode(&args.container)))
        .await?;
    if inspect["State"]["Running"] != true {
        return Err(CliError::usage(
            "you cannot attach to a stopped container, start it first",
        ));
    }
    attached(args, client, &inspect, "not-running", false).await
}

pub(super) async fn start_attached(args: AttachArgs, client: &Client) -> Result<ExitCode> {
    let inspect = client
        .get_json(&format!("/containers/{}/json", encode(&args.container)))
        .await?;
    attached(args, client, &inspect, "next-exit", true).await
}

async fn attached(
    args: AttachArgs,
    client: &Client,
    inspect: &Value,
    condition: &str,
    starts: bool,
) -> Result<ExitCode> {
    let tty = inspect["Config"]["Tty"] == true;
    let session = Session {
        id: inspect["Id"].as_str().unwrap_or_default(),
        tty,
        streams: Streams {
            stdin: !args.no_stdin && inspect["Config"]["OpenStdin"] == true,
            stdout: true,
            stderr: true,
        },
        sig_proxy: args.sig_proxy,
        keys: detach_keys(args.detach_keys.as_deref(), tty)?,
        given_keys: args.detach_keys,
    };
    session.run(client, condition, starts).await
}
