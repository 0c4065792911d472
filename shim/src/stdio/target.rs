//! Where output goes, as containerd's clients name it: a path, or a URI with the scheme `fifo`,
//! `file` or `binary`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// What is wrong with a URI.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another way to take output.
    #[error("the scheme {0:?} is not known (want the path of a FIFO or file, fifo://, file:// or binary://)")]
    Scheme(String),
    /// Something else than a path of this host.
    #[error("want an absolute path behind {0}://")]
    Path(String),
    /// A percent sign that two hexadecimal digits don't follow.
    #[error("a %-escape is not valid")]
    Escape,
}

/// Where a stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A FIFO, or a file that is there.
    Path(PathBuf),
    /// A file that is made where there is none, with its directories.
    File(PathBuf),
    /// A program that takes all output of the process.
    Logger {
        program: PathBuf,
        /// Names and values of the query.
        arguments: Vec<OsString>,
    },
}

impl Target {
    /// What a stream field says; `None`: the stream is not attached.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, UriError> {
        if text.is_empty() {
            return Ok(None);
        }
        let parts = text.split_once(':').filter(|_| !text.starts_with('/'));
        let Some((scheme, rest)) = parts else {
            return Ok(Some(Self::Path(text.into())));
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = || match path.starts_with('/') {
            true => Ok(PathBuf::from(decoded(path)?)),
            false => Err(UriError::Path(scheme.to_owned())),
        };
        Ok(Some(match scheme {
            "fifo" => Self::Path(path()?),
            "file" => Self::File(path()?),
            "binary" => Self::Logger {
                program: path()?,
                arguments: arguments(query)?,
            },
            other => return Err(UriError::Scheme(other.to_owned())),
        }))
    }
}

/// Each name once, with its first value, as containerd's own shim has them.
fn arguments(query: &str) -> Result<Vec<OsString>, UriError> {
    let mut pairs: Vec<(OsString, OsString)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let spaced = |text: &str| decoded(&text.replace('+', " "));
        let (name, value) = (spaced(name)?, spaced(value)?);
        if pairs.iter().all(|(known, _)| *known != name) {
            pairs.push((name, value));
        }
    }
    let both = pairs.into_iter().flat_map(|(name, value)| [name, value]);
    Ok(both.collect())
}

fn decoded(text: &str) -> Result<OsString, UriError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next())? << 4 | digit(rest.next())?,
            other => other,
        });
    }
    Ok(OsString::from_vec(bytes))
}

fn digit(byte: Option<u8>) -> Result<u8, UriError> {
    let digit = byte.and_then(|byte| char::from(byte).to_digit(16));
    digit
        .and_then(|digit| u8::try_from(digit).ok())
        .ok_or(UriError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logger(text: &str) -> (PathBuf, Vec<OsString>) {
        match Target::parse(text).unwrap().unwrap() {
            Target::Logger { program, arguments } => (program, arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_and_their_schemes_are_told_apart() {
        let parse = |text| Target::parse(text).unwrap();
        assert_eq!(parse(""), None);
        let path = |path: &str| Some(Target::Path(path.into()));
        assert_eq!(parse("/run/f"), path("/run/f"));
        assert_eq!(parse("/run/a://b"), path("/run/a://b"));
        assert_eq!(parse("fifo:///run/f"), path("/run/f"));
        let file = |path: &str| Some(Target::File(path.into()));
        assert_eq!(parse("file:///var/log/a%20b"), file("/var/log/a b"));
        assert_eq!(parse("file:/x"), file("/x"));
    }

    #[test]
    fn a_logger_gets_names_and_values_of_the_query() {
        let (program, arguments) = logger("binary:///bin/log%2Fger?b=1&a=x+y%26&flag&b=2&=e");
        assert_eq!(program, PathBuf::from("/bin/log/ger"));
        assert_eq!(arguments, ["b", "1", "a", "x y&", "flag", "", "", "e"]);
        assert!(logger("binary:///bin/logger").1.is_empty());
    }

    #[test]
    fn what_names_no_place_is_refused() {
        let wrong = |text| Target::parse(text).unwrap_err();
        assert_eq!(
            wrong("syslog:///x"),
            UriError::Scheme(String::from("syslog"))
        );
        let path = |scheme: &str| UriError::Path(scheme.into());
        assert_eq!(wrong("binary://logger?a=b"), path("binary"));
        assert_eq!(wrong("file://host/x"), path("file"));
        assert_eq!(wrong("file://"), path("file"));
        for text in [
            "file:///%",
            "file:///%4",
            "binary:///x?a=%zz",
            "file:///%+1",
        ] {
            assert_eq!(wrong(text), UriError::Escape, "{text}");
        }
    }
}
