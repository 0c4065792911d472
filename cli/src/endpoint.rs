//! Which engine a command talks to, and how: flags, environment and contexts, by docker's rules.

use std::path::{Path, PathBuf};

use crate::contexts::{Contexts, DEFAULT, TLS_FILES};
use crate::docker_config;
use crate::error::{CliError, Result};

/// The engine that Hull starts by itself.
pub(crate) const OWN_SOCKET: &str = "/run/hull/hull.sock";
/// Docker's port with TLS, and without.
const TLS_PORT: u16 = 2376;
const PLAIN_PORT: u16 = 2375;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// This machine's own engine, started where it does not run.
    Own,
    /// A UNIX socket.
    Unix(PathBuf),
    /// TCP, with TLS if there are certificates.
    Tcp {
        /// Name or address.
        host: String,
        port: u16,
        tls: Option<TlsFiles>,
    },
    /// A machine that ssh reaches, where `hull system dial-stdio` goes on to its engine.
    Ssh(SshHost),
}

/// What `ssh://[USER@]HOST[:PORT][/SOCKET]` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SshHost {
    /// As ssh's own configuration and name servers know it.
    pub(crate) host: String,
    /// The user there; None: ssh's own choice.
    pub(crate) user: Option<String>,
    /// The port there; None: ssh's own choice.
    pub(crate) port: Option<u16>,
    /// The engine's socket there; None: the engine of that machine.
    pub(crate) socket: Option<PathBuf>,
}

/// Files in PEM; those that are not there are not used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TlsFiles {
    /// Authorities of the server's certificate.
    pub(crate) ca: Option<PathBuf>,
    /// This client's certificate.
    pub(crate) certificate: Option<PathBuf>,
    /// Its key.
    pub(crate) key: Option<PathBuf>,
}

/// Flags of every command that say where the engine is.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct EngineArgs {
    /// Engine to talk to: unix:///path, tcp://host[:port] or ssh://[user@]host[:port] [default:
    /// $HULL_HOST, $DOCKER_HOST, the context in use, else the engine of this machine, which is started
    /// where it does not run]
    #[arg(short = 'H', long, global = true, value_name = "HOST")]
    host: Option<String>,
    /// Context to use, in the place of $DOCKER_CONTEXT and of what `hull context use` chose
    #[arg(long, value_name = "NAME", conflicts_with = "host")]
    context: Option<String>,
    /// Talk TLS over TCP, and check the server's certificate [default: if $DOCKER_TLS_VERIFY is set]
    #[arg(long = "tlsverify")]
    tls_verify: bool,
    /// Certificates of the server's authority [default: ca.pem in $DOCKER_CERT_PATH or ~/.docker]
    #[arg(long = "tlscacert", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// This client's certificate [default: cert.pem there]
    #[arg(long = "tlscert", value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// Its private key [default: key.pem there]
    #[arg(long = "tlskey", value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

/// What decides.
enum Choice {
    Host(String),
    Context(String),
}

impl EngineArgs {
    /// The engine that a command talks to.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        match self.choice(&environment)? {
            Choice::Host(host) => parse(&host, self.tls(&environment)?),
            Choice::Context(name) if name == DEFAULT => Ok(Endpoint::Own),
            Choice::Context(name) => of_context(&Contexts::of_user()?, &name),
        }
    }

    /// The name of the context in use.
    pub(crate) fn context(&self) -> Result<String> {
        Ok(match self.choice(&environment)? {
            Choice::Host(_) => DEFAULT.to_owned(),
            Choice::Context(name) => name,
        })
    }

    fn choice(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Choice> {
        let flag = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        if let Some(host) = flag(&self.host) {
            return Ok(Choice::Host(host));
        }
        if let Some(name) = flag(&self.context) {
            return Ok(Choice::Context(name));
        }
        if let Some(host) = environment("HULL_HOST").or_else(|| environment("DOCKER_HOST")) {
            return Ok(Choice::Host(host));
        }
        if let Some(name) = environment("DOCKER_CONTEXT") {
            return Ok(Choice::Context(name));
        }
        // Without a home there is no choice to be found.
        let config = docker_config::read().unwrap_or_default();
        let name = config["currentContext"].as_str().unwrap_or_default();
        Ok(Choice::Context(match name {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        }))
    }

    fn tls(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<TlsFiles>> {
        let named = [&self.tls_ca, &self.tls_certificate, &self.tls_key];
        let asked = self.tls_verify
            || environment("DOCKER_TLS_VERIFY").is_some()
            || named.iter().any(|file| file.is_some());
        if !asked {
            return Ok(None);
        }
        let folder = match environment("DOCKER_CERT_PATH") {
            Some(folder) => PathBuf::from(folder),
            None => docker_config::folder()?,
        };
        let file = |given: &Option<PathBuf>, name: &str| {
            let there = || Some(folder.join(name)).filter(|path| path.exists());
            given.clone().or_else(there)
        };
        let [ca, certificate, key] = TLS_FILES;
        Ok(Some(TlsFiles {
            ca: file(&self.tls_ca, ca),
            certificate: file(&self.tls_certificate, certificate),
            key: file(&self.tls_key, key),
        }))
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The engine of a stored context.
fn of_context(contexts: &Contexts, name: &str) -> Result<Endpoint> {
    let context = contexts.get(name)?;
    if context.skips_verification() {
        return Err(CliError::usage(format!(
            "context {name:?} does not verify its server (SkipTLSVerify): hull always does"
        )));
    }
    let [ca, certificate, key] = TLS_FILES.map(|file| contexts.tls_file(name, file));
    let tls = (ca.is_some() || certificate.is_some()).then_some(TlsFiles {
        ca,
        certificate,
        key,
    });
    match context.host() {
        "" => Err(CliError::usage(format!(
            "context {name:?} has no docker endpoint"
        ))),
        host => parse(host, tls),
    }
}

/// Reads `unix:///path`, `tcp://host[:port]` and `ssh://[user@]host[:port][/socket]`.
pub(crate) fn parse(text: &str, tls: Option<TlsFiles>) -> Result<Endpoint> {
    let bad = |why: &str| CliError::usage(format!("host {text:?}: {why}"));
    if let Some(path) = text.strip_prefix("unix://") {
        return match path {
            "" => Ok(Endpoint::Own),
            path => Ok(Endpoint::Unix(Path::new(path).to_owned())),
        };
    }
    if let Some(rest) = text.strip_prefix("ssh://") {
        return ssh(rest).map(Endpoint::Ssh).map_err(|why| bad(&why));
    }
    let rest = text
        .strip_prefix("tcp://")
        .ok_or_else(|| bad("want unix:///path, tcp://host[:port] or ssh://[user@]host[:port]"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let default = match tls {
        Some(_) => TLS_PORT,
        None => PLAIN_PORT,
    };
    let (host, port) = host_and_port(rest).map_err(|why| bad(&why))?;
    match host.contains('/') {
        true => Err(bad("it names no host")),
        false => Ok(Endpoint::Tcp {
            host,
            port: port.unwrap_or(default),
            tls,
        }),
    }
}

/// `HOST[:PORT]`; the colons of an IPv6 address are in brackets.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let port = port.parse().map_err(|_| "its port is no number")?;
            (host, Some(port))
        }
        _ => (text, None),
    };
    match host.trim_start_matches('[').trim_end_matches(']') {
        "" => Err("it names no host".to_owned()),
        host => Ok((host.to_owned(), port)),
    }
}

/// What follows `ssh://`.
fn ssh(text: &str) -> Result<SshHost, String> {
    let (authority, path) = match text.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (text, None),
    };
    let (user, rest) = match authority.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return Err("a password is not taken in it: ssh asks, or has a key".to_owned());
    }
    let (host, port) = host_and_port(rest)?;
    let is_option = |word: &str| word.is_empty() || word.starts_with('-');
    if user.is_some_and(is_option) || is_option(&host) {
        return Err("ssh would take its user or host for an option".to_owned());
    }
    Ok(SshHost {
        host,
        user: user.map(str::to_owned),
        port,
        socket: path
            .filter(|path| !path.is_empty())
            .map(|path| Path::new("/").join(path)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> EngineArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            engine: EngineArgs,
        }
        let words = ["hull"].iter().chain(words);
        <Line as clap::Parser>::try_parse_from(words)
            .unwrap()
            .engine
    }

    fn chosen(words: &[&str], set: &[(&str, &str)]) -> String {
        let environment = |name: &str| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        match args(words).choice(&environment).unwrap() {
            Choice::Host(host) => host,
            Choice::Context(name) => format!("context {name}"),
        }
    }

    #[test]
    fn flags_come_before_the_environment_and_hosts_before_contexts() {
        let all = [
            ("DOCKER_HOST", "d"),
            ("DOCKER_CONTEXT", "c"),
            ("HULL_HOST", "h"),
        ];
        assert_eq!(chosen(&["-H", "x"], &all), "x");
        assert_eq!(chosen(&["--context", "y"], &all), "context y");
        assert_eq!(chosen(&[], &all), "h");
        assert_eq!(chosen(&[], &all[..2]), "d");
        assert_eq!(chosen(&[], &all[1..2]), "context c");
    }

    #[test]
    fn addresses_are_read() {
        let tcp = |host: &str, port, tls| Endpoint::Tcp {
            host: host.to_owned(),
            port,
            tls,
        };
        let tls = Some(TlsFiles::default());
        assert_eq!(
            parse("unix:///s", None).unwrap(),
            Endpoint::Unix("/s".into())
        );
        assert_eq!(parse("tcp://h", None).unwrap(), tcp("h", 2375, None));
        assert_eq!(parse("tcp://h/", tls.clone()).unwrap(), tcp("h", 2376, tls));
        assert_eq!(parse("tcp://[::1]:9", None).unwrap(), tcp("::1", 9, None));
        assert_eq!(parse("tcp://[::1]", None).unwrap(), tcp("::1", 2375, None));
        for bad in ["tcp://", "tcp://h:x", "h:1", "npipe://h", "tcp://h/p"] {
            assert!(parse(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_of_ssh_are_read() {
        let ssh = |host: &str, user: Option<&str>, port, socket: Option<&str>| {
            Endpoint::Ssh(SshHost {
                host: host.to_owned(),
                user: user.map(str::to_owned),
                port,
                socket: socket.map(PathBuf::from),
            })
        };
        assert_eq!(parse("ssh://h", None).unwrap(), ssh("h", None, None, None));
        assert_eq!(
            parse("ssh://me@h:2222/run/x.sock", None).unwrap(),
            ssh("h", Some("me"), Some(2222), Some("/run/x.sock"))
        );
        assert_eq!(
            parse("ssh://[fe80::1]:22/", None).unwrap(),
            ssh("fe80::1", None, Some(22), None)
        );
        for bad in [
            "ssh://",
            "ssh://me:secret@h",
            "ssh://-oProxyCommand=x",
            "ssh://-l@h",
            "ssh://@h",
            "ssh://h:x",
        ] {
            assert!(parse(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn certificates_are_where_the_environment_says() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), "x").unwrap();
        let folder = dir.path().to_string_lossy().into_owned();
        let environment = |name: &str| match name {
            "DOCKER_TLS_VERIFY" => Some("1".to_owned()),
            "DOCKER_CERT_PATH" => Some(folder.clone()),
            _ => None,
        };
        let files = args(&[]).tls(&environment).unwrap().unwrap();
        assert_eq!(files.ca, Some(dir.path().join("ca.pem")));
        assert_eq!(files.key, None);
        let named = args(&["--tlskey", "k"]).tls(&environment).unwrap().unwrap();
        assert_eq!(named.key, Some("k".into()));
        assert_eq!(args(&[]).tls(&|_| None).unwrap(), None);
    }
}
