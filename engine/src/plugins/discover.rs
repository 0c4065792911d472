//! Where the plugins of this host listen: their sockets, and files that name an address.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use super::PluginError;

/// Most bytes of a file that names an address.
const MAX_SPECIFICATION: u64 = 64 << 10;

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(at) => f.write_str(at),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", at)) => {
                let at = at.trim_end_matches('/');
                let port = at.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
                match port {
                    Some(0_u16) | None => Err(format!("no port in {text:?}")),
                    Some(_) => Ok(Self::Tcp(at.to_owned())),
                }
            }
            Some(("https", _)) => Err(
                "plugins behind TLS are not supported by Hull: let the plugin \
                 listen on a socket of this host"
                    .to_owned(),
            ),
            _ => Err(format!(
                "{text:?} is no address: want unix:///path or tcp://host:port"
            )),
        }
    }
}

/// The folders that are looked through.
#[derive(Debug)]
pub(super) struct Places {
    sockets: PathBuf,
    specifications: Vec<PathBuf>,
}

impl Default for Places {
    /// Docker's.
    fn default() -> Self {
        Self {
            sockets: "/run/docker/plugins".into(),
            specifications: ["/etc/docker/plugins", "/usr/lib/docker/plugins"]
                .map(PathBuf::from)
                .into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Specification {
    addr: String,
    #[serde(default, rename = "TLSConfig")]
    tls: Option<serde_json::Value>,
}

impl Places {
    #[cfg(test)]
    pub(super) fn new(sockets: &Path, specifications: &Path) -> Self {
        Self {
            sockets: sockets.to_owned(),
            specifications: vec![specifications.to_owned()],
        }
    }

    /// The address of a plugin: its socket, else what a file says.
    pub(super) fn find(&self, name: &str) -> Result<Address, PluginError> {
        let missing = || PluginError::NotFound(name.to_owned());
        if !is_name(name) {
            return Err(missing());
        }
        let file = format!("{name}.sock");
        for path in [
            self.sockets.join(&file),
            self.sockets.join(name).join(&file),
        ] {
            if is_socket(&path) {
                return Ok(Address::Unix(path));
            }
        }
        for folder in &self.specifications {
            for end in ["spec", "json"] {
                let file = format!("{name}.{end}");
                for path in [folder.join(&file), folder.join(name).join(&file)] {
                    let wrong = |why: String| PluginError::Specification {
                        name: name.to_owned(),
                        path: path.clone(),
                        why,
                    };
                    match read(&path) {
                        Ok(None) => {}
                        Ok(Some(text)) => return address_in(&text, end).map_err(wrong),
                        Err(error) => return Err(wrong(error.to_string())),
                    }
                }
            }
        }
        Err(missing())
    }

    /// The names of all that are there.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let folders = self
            .specifications
            .iter()
            .map(|folder| (folder, &["spec", "json"][..]));
        for (folder, ends) in folders.chain([(&self.sockets, &["sock"][..])]) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_folder = path.is_dir();
                let end = path.extension().and_then(|end| end.to_str());
                let stem = if is_folder {
                    path.file_name()
                } else {
                    path.file_stem()
                };
                let named = is_folder || end.is_some_and(|end| ends.contains(&end));
                names.extend(
                    stem.and_then(|stem| stem.to_str())
                        .filter(|_| named)
                        .map(str::to_owned),
                );
            }
        }
        names.retain(|name| self.find(name).is_ok());
        names
    }
}

/// A name is part of a path, and of nothing above it.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".."
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn read(path: &Path) -> std::io::Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None)
        }
        other => other?,
    };
    let mut text = String::new();
    file.take(MAX_SPECIFICATION).read_to_string(&mut text)?;
    Ok(Some(text))
}

fn address_in(text: &str, end: &str) -> Result<Address, String> {
    if end == "spec" {
        return text.parse();
    }
    let found: Specification = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match found.tls {
        None => found.addr.parse(),
        // The same refusal.
        Some(_) => "https://".parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_come_before_files() {
        let dir = tempfile::tempdir().unwrap();
        let (sockets, files) = (dir.path().join("run"), dir.path().join("etc"));
        for folder in [&sockets.join("nested"), &files.join("deep")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let listen = |path: PathBuf| std::os::unix::net::UnixListener::bind(path).unwrap();
        let _one = listen(sockets.join("one.sock"));
        let _two = listen(sockets.join("nested/nested.sock"));
        std::fs::write(files.join("one.spec"), "tcp://other:1").unwrap();
        std::fs::write(files.join("two.spec"), "unix:///x/two.sock\n").unwrap();
        std::fs::write(
            files.join("deep/deep.json"),
            r#"{"Name":"d","Addr":"http://h:80/"}"#,
        )
        .unwrap();
        std::fs::write(
            files.join("tls.json"),
            r#"{"Addr":"https://h:80","TLSConfig":{}}"#,
        )
        .unwrap();
        std::fs::write(files.join("bad.spec"), "somewhere").unwrap();
        let places = Places::new(&sockets, &files);
        for (name, address) in [
            ("one", Address::Unix(sockets.join("one.sock"))),
            ("nested", Address::Unix(sockets.join("nested/nested.sock"))),
            ("two", Address::Unix("/x/two.sock".into())),
            ("deep", Address::Tcp("h:80".to_owned())),
        ] {
            assert_eq!(places.find(name).unwrap(), address, "{name}");
        }
        for name in ["tls", "bad"] {
            let error = places.find(name).unwrap_err();
            assert!(
                matches!(error, PluginError::Specification { .. }),
                "{error}"
            );
        }
        for name in ["gone", "", "..", "../run/one"] {
            let error = places.find(name).unwrap_err();
            assert!(matches!(error, PluginError::NotFound(_)), "{error}");
        }
        let names: Vec<_> = places.names().into_iter().collect();
        assert_eq!(names, ["deep", "nested", "one", "two"]);
    }
}
