//! Docker's store of contexts: names for engines and for how they are reached.
//!
//! ```text
//! contexts/meta/SHA256-OF-NAME/meta.json            what it is
//! contexts/tls/SHA256-OF-NAME/docker/{ca,cert,key}.pem   its certificates
//! ```

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::docker_config;
use crate::error::{CliError, Result};

/// The engine of this machine; not in the store.
pub(crate) const DEFAULT: &str = "default";
/// Names of the certificates' files: authority, certificate, key.
pub(crate) const TLS_FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];
const DOCKER: &str = "docker";

/// A context as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Context {
    /// Its name.
    pub(crate) name: String,
    /// `Description`, and what other programs keep there.
    #[serde(default)]
    pub(crate) metadata: serde_json::Map<String, Value>,
    /// By kind; `docker` is ours.
    #[serde(default)]
    pub(crate) endpoints: serde_json::Map<String, Value>,
}

impl Context {
    /// One for a Docker endpoint.
    pub(crate) fn new(name: &str, description: &str, host: &str) -> Self {
        let mut context = Self {
            name: name.to_owned(),
            metadata: serde_json::Map::new(),
            endpoints: serde_json::Map::new(),
        };
        context.describe(description);
        context.set_host(host);
        context
    }

    /// Its description, which may be empty.
    pub(crate) fn description(&self) -> &str {
        self.metadata
            .get("Description")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn describe(&mut self, description: &str) {
        match description {
            "" => self.metadata.remove("Description"),
            text => self.metadata.insert("Description".to_owned(), text.into()),
        };
    }

    /// Where its engine listens; empty if it names none.
    pub(crate) fn host(&self) -> &str {
        let docker = self.endpoints.get(DOCKER);
        docker
            .and_then(|docker| docker["Host"].as_str())
            .unwrap_or_default()
    }

    pub(crate) fn set_host(&mut self, host: &str) {
        let endpoint = serde_json::json!({ "Host": host, "SkipTLSVerify": false });
        self.endpoints.insert(DOCKER.to_owned(), endpoint);
    }

    /// Whether the server's certificate is not looked at.
    pub(crate) fn skips_verification(&self) -> bool {
        let docker = self.endpoints.get(DOCKER);
        docker.is_some_and(|docker| docker["SkipTLSVerify"].as_bool() == Some(true))
    }
}

/// The store of a user.
#[derive(Debug)]
pub(crate) struct Contexts(PathBuf);

impl Contexts {
    /// That of this user.
    pub(crate) fn of_user() -> Result<Self> {
        Ok(Self(docker_config::folder()?.join("contexts")))
    }

    /// One in a folder of a test.
    #[cfg(test)]
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The folder of a context's description.
    pub(crate) fn meta(&self, name: &str) -> PathBuf {
        self.0.join("meta").join(hash(name))
    }

    /// The folder of its certificates.
    pub(crate) fn tls(&self, name: &str) -> PathBuf {
        self.0.join("tls").join(hash(name))
    }

    /// The file of a certificate or key, if the context has it.
    pub(crate) fn tls_file(&self, name: &str, file: &str) -> Option<PathBuf> {
        let path = self.tls(name).join(DOCKER).join(file);
        path.exists().then_some(path)
    }

    /// Removes the file of a certificate or key, if it is there.
    pub(crate) fn drop_tls(&self, name: &str, file: &str) -> Result<()> {
        let Some(path) = self.tls_file(name, file) else {
            return Ok(());
        };
        std::fs::remove_file(&path)
            .map_err(CliError::io(format!("cannot remove {}", path.display())))
    }

    /// One context.
    pub(crate) fn get(&self, name: &str) -> Result<Context> {
        let path = self.meta(name).join("meta.json");
        match std::fs::read(&path) {
            Ok(text) => parse(&path, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(CliError::Failed {
                status: 1,
                message: format!(
                    "context {name:?}: context not found: open {}: no such file or directory",
                    path.display()
                ),
            }),
            Err(error) => Err(CliError::io(format!("cannot read {}", path.display()))(
                error,
            )),
        }
    }

    /// All, by name.
    pub(crate) fn list(&self) -> Result<Vec<Context>> {
        let folder = self.0.join("meta");
        let failed = |error| CliError::io(format!("cannot read {}", folder.display()))(error);
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path().join("meta.json");
            if let Ok(text) = std::fs::read(&path) {
                all.push(parse(&path, &text)?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Writes a context's description.
    pub(crate) fn put(&self, context: &Context) -> Result<()> {
        let text = serde_json::to_vec(context).map_err(crate::client::broken)?;
        docker_config::replace(&self.meta(&context.name).join("meta.json"), &text)
    }

    /// Keeps a certificate or key.
    pub(crate) fn put_tls_content(&self, name: &str, file: &str, content: &[u8]) -> Result<()> {
        docker_config::replace(&self.tls(name).join(DOCKER).join(file), content)
    }

    /// Keeps a copy of a certificate or key.
    pub(crate) fn put_tls(&self, name: &str, file: &str, source: &Path) -> Result<()> {
        let content = std::fs::read(source)
            .map_err(CliError::io(format!("cannot read {}", source.display())))?;
        self.put_tls_content(name, file, &content)
    }

    /// Removes a context with its certificates.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        for folder in [self.tls(name), self.meta(name)] {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(CliError::io(format!("cannot remove {}", folder.display()))(
                        error,
                    ))
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Docker's rule for names.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let usable = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    let refused = |message: String| Err(CliError::Failed { status: 1, message });
    if name == DEFAULT {
        return refused(format!("\"{DEFAULT}\" is a reserved context name"));
    }
    match first && 1 < name.len() && name.chars().all(usable) {
        true => Ok(()),
        false => refused(format!(
            "context name {name:?} is invalid, names are validated against regexp \
             \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        )),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Context> {
    serde_json::from_slice(text)
        .map_err(|error| CliError::io(format!("cannot read {}", path.display()))(error.into()))
}

fn hash(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_where_docker_looks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Contexts(dir.path().join("contexts"));
        let context = Context::new("lab", "words", "tcp://h:2376");
        store.put(&context).unwrap();
        let place = "contexts/meta/a51146d38077ff992eba84cf1d5e9b249073503eb74868699016153b031a38f7/meta.json";
        assert!(dir.path().join(place).exists());
        assert_eq!(store.get("lab").unwrap(), context);
        assert_eq!(store.list().unwrap(), [context]);
        let file = dir.path().join("x.pem");
        std::fs::write(&file, "pem").unwrap();
        store.put_tls("lab", "ca.pem", &file).unwrap();
        assert!(store.tls_file("lab", "ca.pem").is_some());
        assert!(store.tls_file("lab", "key.pem").is_none());
        store.remove("lab").unwrap();
        assert!(store.get("lab").is_err() && store.list().unwrap().is_empty());
        assert!(!store.tls("lab").exists());
    }

    #[test]
    fn what_others_keep_in_a_context_stays() {
        let text = r#"{"Name":"k","Metadata":{"Description":"d","x":1},
            "Endpoints":{"docker":{"Host":"unix:///s","SkipTLSVerify":true},"kubernetes":{"a":1}}}"#;
        let context: Context = serde_json::from_str(text).unwrap();
        assert_eq!((context.host(), context.description()), ("unix:///s", "d"));
        assert!(context.skips_verification());
        let again: Value = serde_json::to_value(&context).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn names_are_dockers() {
        assert!(check_name("lab-1.x").is_ok());
        for bad in ["default", "", "a", "-x", "a/b", "a b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
