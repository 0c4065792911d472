//! Finding the executable, with the texts that engines map to exit codes 127 and 126.

use std::path::{Path, PathBuf};

use super::interpreter;
use crate::error::{AgentError, Kind, Result};

/// Where programs are looked for when the process has no PATH of its own.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A link in /proc names whoever follows it: here, the program that is to execute the container's.
const AGENT: &str = "is the program that starts containers, and not this container's own: \
                     permission denied";

/// What there is at a path, as the process's own user sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Executable,
    NotExecutable,
    Directory,
    /// The path, or a directory on the way to it, may not be searched.
    Unreachable,
    /// This very program: a link in /proc leads to it until another one has been executed.
    Agent,
    Missing,
}

/// Finds `program`: a name with a slash is relative to the current directory, one without is
/// looked for in PATH.
pub(crate) fn executable(
    program: &str,
    env: &[String],
    inspect: impl Fn(&Path) -> Found,
) -> Result<PathBuf> {
    let denied = |text: &str| {
        Err(AgentError::new(
            Kind::PermissionDenied,
            format!("exec: {program:?}: {text}"),
        ))
    };
    if program.contains('/') {
        let path = PathBuf::from(program);
        return match inspect(&path) {
            Found::Executable => Ok(path),
            Found::Directory => denied("is a directory: permission denied"),
            Found::NotExecutable | Found::Unreachable => denied("permission denied"),
            Found::Agent => denied(AGENT),
            Found::Missing => Err(AgentError::not_found(format!(
                "exec: {program:?}: stat {program}: no such file or directory"
            ))),
        };
    }
    let search = env
        .iter()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut seen_not_executable = false;
    if !program.is_empty() {
        for directory in search.split(':') {
            // An empty entry of PATH is the current directory.
            let directory = if directory.is_empty() { "." } else { directory };
            let path = Path::new(directory).join(program);
            match inspect(&path) {
                Found::Executable => return Ok(path),
                Found::NotExecutable => seen_not_executable = true,
                Found::Directory | Found::Unreachable | Found::Agent | Found::Missing => {}
            }
        }
    }
    if seen_not_executable {
        return denied("permission denied");
    }
    Err(AgentError::not_found(format!(
        "exec: {program:?}: executable file not found in $PATH"
    )))
}

/// The error of a failed `execve`, in the same terms. The file was there a moment ago, so a
/// missing file is its interpreter.
pub(crate) fn exec_failure(path: &Path, error: &std::io::Error) -> AgentError {
    let mut text = format!(
        "exec {}: {}",
        path.display(),
        lower(&crate::error::plain_text(error))
    );
    if let Some(reason) = interpreter::reason(path, error) {
        text += &format!(" ({reason})");
    }
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Kind::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::ELOOP) => Kind::PermissionDenied,
        Some(libc::E2BIG) => Kind::InvalidArgument,
        Some(libc::ENOMEM | libc::EAGAIN) => Kind::ResourceExhausted,
        _ => Kind::Internal,
    };
    AgentError::new(kind, text)
}

/// The exit status of a program that could not be executed, as a shell gives it.
pub(crate) fn exec_failure_status(error: &AgentError) -> i32 {
    match error.kind() {
        Kind::NotFound => 127,
        _ => 126,
    }
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(program: &str, path: &str, at: &str, found: Found) -> Result<PathBuf> {
        let env = vec!["HOME=/".to_string(), format!("PATH={path}")];
        executable(program, &env, |path| {
            if path == Path::new(at) {
                found
            } else {
                Found::Missing
            }
        })
    }

    #[test]
    fn name_is_found_in_a_later_directory() {
        assert_eq!(
            look("sh", "/bin:/usr/bin", "/usr/bin/sh", Found::Executable).unwrap(),
            Path::new("/usr/bin/sh")
        );
    }

    #[test]
    fn name_with_a_slash_is_not_searched() {
        assert_eq!(
            look("./sh", "/bin", "./sh", Found::Executable).unwrap(),
            Path::new("./sh")
        );
        let error = look("/x/sh", "/bin", "/bin/sh", Found::Executable).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.text().ends_with("no such file or directory"));
    }

    #[test]
    fn missing_name_is_not_found_in_path() {
        let error = look("nope", "/bin", "/bin/sh", Found::Executable).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.text(),
            "exec: \"nope\": executable file not found in $PATH"
        );
    }

    #[test]
    fn directory_and_plain_file_are_denied() {
        for found in [Found::Directory, Found::NotExecutable, Found::Agent] {
            let error = look("/etc", "", "/etc", found).unwrap_err();
            assert_eq!(error.kind(), Kind::PermissionDenied);
            assert!(error.text().contains("permission denied"));
        }
    }

    #[test]
    fn exec_errors_have_kinds() {
        let failure =
            |number| exec_failure(Path::new("/a"), &std::io::Error::from_raw_os_error(number));
        assert_eq!(
            failure(libc::ENOENT).text(),
            "exec /a: no such file or directory"
        );
        assert_eq!(failure(libc::ENOENT).kind(), Kind::NotFound);
        assert_eq!(failure(libc::ENOEXEC).kind(), Kind::PermissionDenied);
    }
}
