//! Docker's credentials of a user: `config.json` with `auths`, `credHelpers` and `credsStore`, and the
//! programs that the last two name (docker's credential helper protocol).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;

/// Docker's key for Docker Hub in `auths`.
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name that stands beside an identity token.
pub const TOKEN_USER: &str = "<token>";
/// The user name that stands beside a token for the registry itself.
pub const REGISTRY_TOKEN_USER: &str = "<registrytoken>";
const MAX_CONFIG: u64 = 4 << 20;

/// A user name and a password (or token) for one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name; [`TOKEN_USER`] if `password` is an identity token (docker's convention),
    /// [`REGISTRY_TOKEN_USER`] if the registry takes it as it is.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Where credentials could not be had from, or kept.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CredentialsError {
    #[error("failed to read {0:?}")]
    Config(PathBuf, #[source] io::Error),
    #[error("failed to run docker-credential-{0}")]
    Helper(String, #[source] io::Error),
}

/// Docker's `config.json`, the parts that hold credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// Reads the file; one that does not exist is empty.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        use std::io::Read as _;
        let failed = |error| CredentialsError::Config(path.to_owned(), error);
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_CONFIG)
            .read_to_end(&mut text)
            .map_err(failed)?;
        let config: Self = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            ..config
        })
    }

    /// The credentials for `registry` (`host[:port]`), from a helper or the file itself.
    pub async fn credentials(
        &self,
        registry: &str,
    ) -> Result<Option<Credentials>, CredentialsError> {
        let keys = auth_keys(registry);
        for key in &keys {
            let Some(helper) = self.helper(key) else {
                continue;
            };
            let found = ask_helper(helper, key).await;
            let found =
                found.map_err(|error| CredentialsError::Helper(helper.to_owned(), error))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        for key in &keys {
            if let Some(auth) = self.auths.get(key) {
                return decode_auth(auth)
                    .map_err(|error| CredentialsError::Config(self.path.clone(), error));
            }
        }
        Ok(None)
    }

    /// The helper that keeps the credentials of `key`, a key of `auths`.
    pub fn helper(&self, key: &str) -> Option<&str> {
        let helper = self.cred_helpers.get(key).or(self.creds_store.as_ref())?;
        (!helper.is_empty()).then_some(helper)
    }
}

/// Gives credentials to a helper to keep.
pub async fn keep(
    helper: &str,
    server: &str,
    credentials: &Credentials,
) -> Result<(), CredentialsError> {
    let secret = HelperSecret {
        server_url: server,
        username: &credentials.username,
        secret: &credentials.password,
    };
    let failed = |error| CredentialsError::Helper(helper.to_owned(), error);
    let input = serde_json::to_vec(&secret).map_err(|error| failed(error.into()))?;
    let output = run_helper(helper, "store", &input).await.map_err(failed)?;
    succeeded(&output).map_err(failed)
}

/// Has a helper forget what it keeps for a server.
pub async fn forget(helper: &str, server: &str) -> Result<(), CredentialsError> {
    let failed = |error| CredentialsError::Helper(helper.to_owned(), error);
    let output = run_helper(helper, "erase", server.as_bytes()).await;
    succeeded(&output.map_err(failed)?).map_err(failed)
}

fn auth_keys(registry: &str) -> Vec<String> {
    if registry == "docker.io" {
        return vec![
            DOCKER_HUB_KEY.into(),
            "docker.io".into(),
            "index.docker.io".into(),
        ];
    }
    let forms = ["", "https://", "http://"]
        .into_iter()
        .map(|scheme| format!("{scheme}{registry}"));
    forms
        .flat_map(|base| {
            [
                base.clone(),
                format!("{base}/"),
                format!("{base}/v1/"),
                format!("{base}/v2/"),
            ]
        })
        .collect()
}

fn decode_auth(auth: &DockerAuth) -> io::Result<Option<Credentials>> {
    let tokens = [
        (REGISTRY_TOKEN_USER, &auth.registrytoken),
        (TOKEN_USER, &auth.identitytoken),
    ];
    for (user, token) in tokens {
        if let Some(token) = token.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials {
                username: user.into(),
                password: token.clone(),
            }));
        }
    }
    if let (Some(username), Some(password)) = (&auth.username, &auth.password) {
        return Ok(Some(Credentials {
            username: username.clone(),
            password: password.clone(),
        }));
    }
    let Some(encoded) = auth.auth.as_ref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let plain = STANDARD
        .decode(encoded)
        .map_err(|_| invalid("auth is not base64"))?;
    let plain = String::from_utf8(plain).map_err(|_| invalid("auth is not text"))?;
    let (username, password) = plain
        .split_once(':')
        .ok_or_else(|| invalid("auth is not user:password"))?;
    let password = password.trim_end_matches('\0').to_owned();
    Ok(Some(Credentials {
        username: username.to_owned(),
        password,
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HelperSecret<'a> {
    #[serde(rename = "ServerURL")]
    server_url: &'a str,
    username: &'a str,
    secret: &'a str,
}

async fn ask_helper(helper: &str, server: &str) -> io::Result<Option<Credentials>> {
    let output = run_helper(helper, "get", server.as_bytes()).await?;
    if !output.status.success() {
        // By the protocol, "credentials not found" is a failure on standard output.
        return Ok(None);
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout)?;
    // So some say that they have none.
    let none = answer.username.is_empty() && answer.secret.is_empty();
    Ok((!none).then_some(Credentials {
        username: answer.username,
        password: answer.secret,
    }))
}

/// Runs `docker-credential-HELPER VERB` with an input.
async fn run_helper(helper: &str, verb: &str, input: &[u8]) -> io::Result<std::process::Output> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if !helper.bytes().all(plain) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the helper's name is not valid",
        ));
    }
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).await?;
    }
    child.wait_with_output().await
}

/// A helper says on standard output what went wrong.
fn succeeded(output: &std::process::Output) -> io::Result<()> {
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stdout);
            Err(io::Error::other(format!(
                "{}: {}",
                output.status,
                said.trim()
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[tokio::test]
    async fn docker_config_gives_credentials_by_registry() {
        let auth = STANDARD.encode("user:pass:word");
        let (_folder, path) = config(&format!(
            r#"{{"auths":{{"reg.io:5000":{{"auth":"{auth}"}},"{DOCKER_HUB_KEY}":{{"identitytoken":"t"}},"tokens.io":{{"registrytoken":"r"}}}}}}"#
        ));
        let config = DockerConfig::read(&path).unwrap();
        let found = async |registry| {
            let found = config.credentials(registry).await.unwrap();
            found.map(|found| (found.username, found.password))
        };
        assert_eq!(
            found("reg.io:5000").await,
            Some(("user".into(), "pass:word".into()))
        );
        assert_eq!(
            found("docker.io").await,
            Some((TOKEN_USER.into(), "t".into()))
        );
        assert_eq!(
            found("tokens.io").await,
            Some((REGISTRY_TOKEN_USER.into(), "r".into()))
        );
        assert_eq!(found("other.io").await, None);
    }

    #[tokio::test]
    async fn what_is_broken_is_named() {
        let (_folder, path) = config("{");
        let error = DockerConfig::read(&path).unwrap_err();
        assert!(error.to_string().contains("config.json"));
        let (_folder, path) =
            config(r#"{"auths":{"a.io":{"auth":"%"}},"credHelpers":{"b.io":"../x"}}"#);
        let config = DockerConfig::read(&path).unwrap();
        let error = config.credentials("a.io").await.unwrap_err();
        assert!(error.to_string().contains("config.json"));
        let error = config.credentials("b.io").await.unwrap_err();
        assert!(error.to_string().contains("docker-credential-../x"));
        assert!(DockerConfig::read(Path::new("/nowhere/x")).is_ok());
    }
}
