//! `diff`, `export` and `commit`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response};

use super::line;
use crate::client::{broken, empty, encode, read_json, Client};
use crate::error::{CliError, Result};
use crate::signals;

/// `diff`
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// Container
    container: String,
}

/// `export`
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// File to write instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Container
    container: String,
}

/// `commit`
#[derive(Debug, clap::Args)]
pub(crate) struct CommitArgs {
    /// Who made it
    #[arg(short, long, default_value = "")]
    author: String,
    /// Apply a line of a Dockerfile to the image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What it is
    #[arg(short, long, default_value = "")]
    message: String,
    /// Pause the container meanwhile (on unless --no-pause or --pause=false is given)
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", hide_default_value = true, conflicts_with = "no_pause", action = clap::ArgAction::Set)]
    pause: bool,
    /// Let the container run on meanwhile
    #[arg(long)]
    no_pause: bool,
    /// Container
    container: String,
    /// Name of the image: REPOSITORY[:TAG]
    image: Option<String>,
}

/// A name's repository and tag; no tag is empty. A colon before a slash is a registry's port.
pub(super) fn split_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, ""),
    }
}

/// An archive is nothing for a terminal.
pub(super) fn refuse_terminal(output: Option<&Path>) -> Result<()> {
    match output.is_none() && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        false => Ok(()),
        true => Err(CliError::usage(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        )),
    }
}

/// Writes an answer's body to a file, or to standard output.
pub(super) async fn write_body(
    answer: Response<Incoming>,
    output: Option<&Path>,
    out: &mut dyn Write,
) -> Result<()> {
    let Some(path) = output else {
        return copy_body(answer, out).await;
    };
    let mut file = Output::open(path).map_err(CliError::io(WRITING))?;
    tokio::select! {
        copied = copy_body(answer, file.writer()) => copied?,
        // What there is of it goes with this command.
        status = signals::ended() => {
            return Err(CliError::Failed {
                status,
                message: format!("interrupted: {} is as it was", path.display()),
            });
        }
    }
    file.finish().map_err(CliError::io(WRITING))
}

const WRITING: &str = "cannot write the archive";

async fn copy_body(answer: Response<Incoming>, out: &mut (dyn Write + '_)) -> Result<()> {
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        out.write_all(&data).map_err(CliError::io(WRITING))?;
    }
    Ok(())
}

/// A file that an archive goes to. What was there is as it was until the new one is whole.
enum Output {
    /// Beside its place, which it takes at the end.
    Beside(tempfile::NamedTempFile, PathBuf),
    /// No file of a disk, such as /dev/null or a pipe.
    Itself(File),
}

impl Output {
    fn open(path: &Path) -> std::io::Result<Self> {
        // A link's file is what is replaced, not the link.
        let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let old = std::fs::metadata(&place);
        if old.as_ref().is_ok_and(|old| !old.is_file()) || path.is_symlink() && old.is_err() {
            return File::create(path).map(Self::Itself);
        }
        let folder = place
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        // For this user alone, as docker's: an archive may hold what is nobody else's business.
        let new = tempfile::Builder::new()
            .prefix(".hull-")
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        if let Ok(old) = old {
            new.as_file().set_permissions(old.permissions())?;
        }
        Ok(Self::Beside(new, place))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Beside(file, _) => file,
            Self::Itself(file) => file,
        }
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Self::Beside(file, place) => {
                // On the disk before the old one goes: a power cut leaves one of the two.
                file.as_file().sync_all()?;
                file.persist(place).map(drop).map_err(|error| error.error)
            }
            Self::Itself(_) => Ok(()),
        }
    }
}

/// Prints what a container changed: A added, C changed, D deleted.
pub(crate) async fn diff(args: DiffArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let path = format!("/containers/{}/changes", encode(&args.container));
    let changes = client.get_json(&path).await?;
    for change in changes.as_array().into_iter().flatten() {
        let kind = match change["Kind"].as_u64() {
            Some(0) => 'C',
            Some(1) => 'A',
            Some(2) => 'D',
            _ => '?',
        };
        let path = change["Path"].as_str().unwrap_or_default();
        line(out, format!("{kind} {path}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a container's files as a tar.
pub(crate) async fn export(
    args: ExportArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    refuse_terminal(args.output.as_deref())?;
    let path = format!("/containers/{}/export", encode(&args.container));
    let answer = client.send(Method::GET, &path, empty()).await?;
    write_body(answer, args.output.as_deref(), out).await?;
    Ok(ExitCode::SUCCESS)
}

/// Makes an image of a container, and prints its id.
pub(crate) async fn commit(
    args: CommitArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let image = args.image.unwrap_or_default();
    let (repository, tag) = split_tag(&image);
    let path = format!(
        "/commit?container={}&repo={}&tag={}&comment={}&author={}&pause={}&changes={}",
        encode(&args.container),
        encode(repository),
        encode(tag),
        encode(&args.message),
        encode(&args.author),
        args.pause && !args.no_pause,
        encode(&args.change.join("\n")),
    );
    let answer = read_json(client.send(Method::POST, &path, empty()).await?).await?;
    line(out, answer["Id"].as_str().unwrap_or_default())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_archive_takes_its_place_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a.tar"), dir.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("a.tar", &link).unwrap();
        let begin = || {
            let mut file = Output::open(&link).unwrap();
            file.writer().write_all(b"new").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            file
        };
        drop(begin());
        assert_eq!(dir.path().read_dir().unwrap().count(), 2);
        begin().finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(link.is_symlink() && mode(&path) == 0o640);
        assert_eq!(dir.path().read_dir().unwrap().count(), 2);
        let new = dir.path().join("new.tar");
        Output::open(&new).unwrap().finish().unwrap();
        assert_eq!(mode(&new), 0o600);
    }

    #[test]
    fn what_is_no_file_is_written_as_it_is() {
        assert!(matches!(
            Output::open(Path::new("/dev/null")),
            Ok(Output::Itself(_))
        ));
        assert!(Output::open(Path::new("/")).is_err());
        assert!(Output::open(Path::new("/no/such/folder/a.tar")).is_err());
    }
}
