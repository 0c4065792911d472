//! `exec`.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use hyper::Method;
use serde_json::json;

use crate::attach::Ended;
use crate::client::{empty, encode, json_body, read_json, Client};
use crate::error::{CliError, Result};
use crate::signals::{self, Sized};
use crate::terminal::{self, DetachKeys, RawMode};
use crate::units::{env_word, parse_env_file};

/// `exec`
#[derive(Debug, clap::Args)]
pub(crate) struct ExecArgs {
    /// Keep its input open
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run in the background
    #[arg(short, long)]
    detach: bool,
    /// Keys that detach from it
    #[arg(long)]
    detach_keys: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User: NAME|UID[:GROUP|GID]
    #[arg(short, long)]
    user: Option<String>,
    /// With all capabilities of the VM
    #[arg(long)]
    privileged: bool,
    /// Name or id
    container: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl ExecArgs {
    fn environment(&self) -> Result<Vec<String>> {
        let mut env = Vec::new();
        for path in &self.env_file {
            let text = std::fs::read_to_string(path)
                .map_err(CliError::io(format!("cannot read {}", path.display())))?;
            env.extend(parse_env_file(&text)?);
        }
        env.extend(self.env.iter().map(|word| env_word(word)));
        Ok(env)
    }
}

pub(crate) async fn run(args: ExecArgs, client: &Client, _: &mut dyn Write) -> Result<ExitCode> {
    let foreground = !args.detach;
    let stdin = foreground && args.interactive;
    if stdin && args.tty && !std::io::stdin().is_terminal() {
        return Err(CliError::usage("the input device is not a TTY"));
    }
    let keys = match (&args.detach_keys, args.tty) {
        (Some(text), _) => Some(DetachKeys::parse(text)?),
        (None, true) => Some(DetachKeys::parse("ctrl-p,ctrl-q")?),
        (None, false) => None,
    };
    let body = json!({
        "AttachStdin": stdin,
        "AttachStdout": foreground,
        "AttachStderr": foreground,
        "Tty": args.tty,
        "Env": args.environment()?,
        "Cmd": args.command,
        "User": args.user.as_deref().unwrap_or_default(),
        "WorkingDir": args.workdir.as_deref().unwrap_or_default(),
        "Privileged": args.privileged,
        // The engine holds back the keys that it looks for.
        "DetachKeys": args.detach_keys.as_deref().unwrap_or_default(),
    });
    let path = format!("/containers/{}/exec", encode(&args.container));
    let created = read_json(client.send(Method::POST, &path, json_body(&body)).await?).await?;
    let id = created["Id"].as_str().unwrap_or_default();
    let start = format!("/exec/{id}/start");
    if !foreground {
        let body = json!({ "Detach": true, "Tty": args.tty });
        let started = client.send(Method::POST, &start, json_body(&body)).await;
        started.map_err(|error| CliError::Failed {
            status: error.start_status(),
            message: error.to_string(),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut body = json!({ "Detach": false, "Tty": args.tty });
    if let Some((width, height)) = terminal::size().filter(|_| args.tty) {
        body["ConsoleSize"] = json!([height, width]);
    }
    let attached = client.hijack(&start, json_body(&body)).await?;
    let ended = {
        let _raw = match args.tty && stdin {
            true => RawMode::enter()?,
            false => None,
        };
        let sizes = async {
            match args.tty {
                true => signals::follow_size(client, Sized::Exec(id)).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = attached.copy(stdin, keys) => ended?,
            () = sizes => Ended::Output,
            status = signals::ended() => return Ok(ExitCode::from(status)),
        }
    };
    if ended == Ended::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    let inspect = client
        .send(Method::GET, &format!("/exec/{id}/json"), empty())
        .await?;
    Ok(super::run::status_byte(
        &read_json(inspect).await?["ExitCode"],
    ))
}
