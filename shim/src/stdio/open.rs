//! Opening what containerd names for a process's streams.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use tokio::net::unix::pipe;
use tokio::process::Command;

use super::logger::{Logger, Owner};
use super::target::Target;
use super::{Endpoints, Input, Output, StdioError};
use crate::fd_stream;

/// Of a file that is made for output.
const FILE_MODE: u32 = 0o644;
/// Of the directories that are made for it.
const DIRECTORY_MODE: u32 = 0o755;

/// What containerd names for a process's streams; an empty name is a stream not attached.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Named<'a> {
    pub(crate) stdin: &'a str,
    pub(crate) stdout: &'a str,
    pub(crate) stderr: &'a str,
    /// All output is one, and goes to `stdout`.
    pub(crate) terminal: bool,
}

impl Endpoints {
    /// Opens what is named.
    ///
    /// FIFOs for output are opened for reading too, so that a reader may go away and another one
    /// come without an error or a loss. Input ends when the last writer has closed the FIFO. A
    /// logger and a file by its URI have both streams, whatever `stderr` says, as with containerd's
    /// own shim.
    pub(crate) async fn open(named: Named<'_>, owner: Owner<'_>) -> Result<Self, StdioError> {
        let parse = |stream, text: &str| {
            Target::parse(text).map_err(|source| StdioError::Uri {
                stream,
                uri: text.to_owned(),
                source,
            })
        };
        let input = parse("stdin", named.stdin)?;
        let output = parse("stdout", named.stdout)?;
        let errors = match &output {
            _ if named.terminal => None,
            Some(file @ Target::File(_)) => Some(file.clone()),
            _ => parse("stderr", named.stderr)?,
        };
        let mut endpoints = Self {
            stdin: input.map(open_input).transpose()?,
            ..Self::default()
        };
        if let Some(Target::Logger { program, arguments }) = output {
            let mut command = Command::new(program);
            command.args(arguments);
            let (logger, stdout, stderr) = Logger::start(command, owner).await?;
            endpoints.logger = Some(logger);
            endpoints.stdout = Some(stdout);
            endpoints.stderr = Some(stderr).filter(|_| !named.terminal);
            return Ok(endpoints);
        }
        endpoints.stdout = open_output("stdout", output).await?;
        endpoints.stderr = open_output("stderr", errors).await?;
        Ok(endpoints)
    }
}

fn open_input(target: Target) -> Result<Input, StdioError> {
    let Target::Path(path) = target else {
        return Err(StdioError::NoInput);
    };
    let opened = pipe::OpenOptions::new().open_receiver(&path);
    let receiver = opened.map_err(|source| StdioError::Open {
        stream: "stdin",
        path,
        source,
    })?;
    Ok(Box::new(receiver))
}

/// On a thread of its own: a file may be on a file system that does not answer, and all containers of
/// a pod are served by one thread.
async fn open_output(
    stream: &'static str,
    target: Option<Target>,
) -> Result<Option<Output>, StdioError> {
    let (path, open): (_, fn(&Path) -> io::Result<Output>) = match target {
        None => return Ok(None),
        Some(Target::Path(path)) => (path, open_path),
        Some(Target::File(path)) => (path, open_file),
        Some(Target::Logger { .. }) => return Err(StdioError::LoggerOfStderr),
    };
    let its = path.clone();
    let opened = tokio::task::spawn_blocking(move || open(&its)).await;
    let opened = opened.map_err(io::Error::other).flatten();
    opened.map(Some).map_err(|source| StdioError::Open {
        stream,
        path,
        source,
    })
}

fn open_path(path: &Path) -> io::Result<Output> {
    if fs::metadata(path)?.file_type().is_fifo() {
        let mut options = pipe::OpenOptions::new();
        let sender = options.read_write(true).open_sender(path)?;
        return Ok(Box::new(sender));
    }
    append(path, &mut OpenOptions::new())
}

fn open_file(path: &Path) -> io::Result<Output> {
    if let Some(directory) = path.parent() {
        let mut directories = DirBuilder::new();
        directories.recursive(true).mode(DIRECTORY_MODE);
        directories.create(directory)?;
    }
    append(path, OpenOptions::new().create(true).mode(FILE_MODE))
}

fn append(path: &Path, options: &mut OpenOptions) -> io::Result<Output> {
    // Opening what is no file must not wait.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.append(true).custom_flags(flags).open(path)?;
    fd_stream::output(file.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const OWNER: Owner<'_> = Owner {
        id: "c1",
        namespace: "ns",
    };

    async fn open(stdout: &str, stderr: &str) -> Result<Endpoints, StdioError> {
        let named = Named {
            stdout,
            stderr,
            ..Named::default()
        };
        Endpoints::open(named, OWNER).await
    }

    async fn open_for_terminal(stdout: &str, stderr: &str) -> Endpoints {
        let named = Named {
            stdout,
            stderr,
            terminal: true,
            ..Named::default()
        };
        Endpoints::open(named, OWNER).await.unwrap()
    }

    async fn put(output: &mut Option<Output>, text: &str) {
        let output = output.as_mut().unwrap();
        output.write_all(text.as_bytes()).await.unwrap();
        output.flush().await.unwrap();
    }

    #[tokio::test]
    async fn fifos_survive_a_reader_that_comes_late() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdout");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let endpoints = open(path.to_str().unwrap(), "").await.unwrap();
        let mut output = endpoints.stdout.unwrap();
        output.write_all(b"early").await.unwrap();
        let mut reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        drop(output);
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "early");
    }

    #[tokio::test]
    async fn a_file_is_made_and_appended_to_by_both_streams() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/log");
        let uri = format!("file://{}", path.display());
        // Whatever is said of the second one.
        let mut endpoints = open(&uri, "").await.unwrap();
        put(&mut endpoints.stdout, "out\n").await;
        put(&mut endpoints.stderr, "err\n").await;
        // A path that is there is appended to as well.
        let mut endpoints = open(path.to_str().unwrap(), "").await.unwrap();
        put(&mut endpoints.stdout, "more\n").await;
        assert!(endpoints.stderr.is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), "out\nerr\nmore\n");
    }

    #[tokio::test]
    async fn a_terminals_output_goes_to_what_takes_stdout() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let uri = format!("file://{}", path("log").display());
        // What is said of the other stream is not asked.
        for stderr in ["", &uri, "syslog:///x", "binary:///bin/cat"] {
            let mut endpoints = open_for_terminal(&uri, stderr).await;
            put(&mut endpoints.stdout, "out\n").await;
            assert!(endpoints.stderr.is_none(), "{stderr}");
        }
        assert_eq!(fs::read_to_string(path("log")).unwrap(), "out\n".repeat(4));
        let script = "#!/bin/sh\nexec 5>&-; cat <&4 >$2.err; cat <&3 >$2.out\n";
        fs::write(path("logger"), script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path("logger"), mode).unwrap();
        let uri = format!(
            "binary://{}?to={}",
            path("logger").display(),
            path("to").display()
        );
        let mut endpoints = open_for_terminal(&uri, &uri).await;
        put(&mut endpoints.stdout, "shown\n").await;
        drop(endpoints.stdout);
        endpoints.logger.unwrap().end().await;
        assert_eq!(fs::read_to_string(path("to.out")).unwrap(), "shown\n");
        assert_eq!(fs::read_to_string(path("to.err")).unwrap(), "");
    }

    #[tokio::test]
    async fn what_cannot_be_opened_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
        for (stdout, stderr, named) in [
            (missing.to_str().unwrap(), "", "missing"),
            ("syslog:///x", "", "syslog"),
            ("", "binary:///bin/cat", "stdout"),
            // Without a reader it would wait.
            (&format!("file://{}", fifo.display()), "", "fifo"),
        ] {
            let error = open(stdout, stderr).await.err().unwrap();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
