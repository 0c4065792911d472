//! Whom containers that don't say ask for names: the daemon's own choice in place of the host's.

use std::net::IpAddr;

use crate::error::{EngineError, Result};

/// Name servers, search domains and options; what is empty is the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolving {
    /// Addresses of the servers.
    pub servers: Vec<String>,
    /// Domains; a dot alone says that there are none.
    pub search: Vec<String>,
    /// Such as `ndots:1`.
    pub options: Vec<String>,
}

impl Resolving {
    /// Refuses servers that are no addresses.
    pub fn check(&self) -> Result<()> {
        let mut servers = self.servers.iter();
        match servers.find(|server| server.parse::<IpAddr>().is_err()) {
            Some(name) => Err(EngineError::BadRequest(format!(
                "{name} is not an ip address (dns)"
            ))),
            None => Ok(()),
        }
    }

    /// The host's `resolv.conf` (resolv.conf(5)) with what is said here in place of what it says.
    pub(crate) fn over(&self, of_host: &str) -> String {
        let keep = |line: &&str| match line.split_whitespace().next() {
            Some("nameserver") => self.servers.is_empty(),
            Some("search" | "domain") => self.search.is_empty(),
            Some("options") => self.options.is_empty(),
            _ => true,
        };
        let kept = of_host.lines().filter(keep).map(str::to_owned);
        let servers = self
            .servers
            .iter()
            .map(|server| format!("nameserver {server}"));
        let list = |word: &str, all: &[String]| {
            (!all.is_empty() && all != ["."]).then(|| format!("{word} {}", all.join(" ")))
        };
        servers
            .chain(kept)
            .chain(list("search", &self.search))
            .chain(list("options", &self.options))
            .map(|line| line + "\n")
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_HOST: &str =
        "# made by a tool\nnameserver 127.0.0.53\nsearch lan.test\noptions edns0\n";

    fn words(all: &[&str]) -> Vec<String> {
        all.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_is_not_said_is_the_hosts() {
        assert_eq!(Resolving::default().over(OF_HOST), OF_HOST);
        let servers = Resolving {
            servers: words(&["192.0.2.1", "2001:db8::1"]),
            ..Resolving::default()
        };
        assert_eq!(
            servers.over(OF_HOST),
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\n# made by a tool\nsearch lan.test\noptions edns0\n"
        );
    }

    #[test]
    fn what_is_said_takes_the_place_of_the_hosts() {
        let words_of = |search: &[&str]| Resolving {
            search: words(search),
            options: words(&["ndots:3", "timeout:1"]),
            ..Resolving::default()
        };
        assert_eq!(
            words_of(&["a.test", "b.test"]).over(OF_HOST),
            "# made by a tool\nnameserver 127.0.0.53\nsearch a.test b.test\noptions ndots:3 timeout:1\n"
        );
        assert!(!words_of(&["."]).over(OF_HOST).contains("search"));
    }

    #[test]
    fn servers_are_addresses() {
        let of = |server| Resolving {
            servers: words(&[server]),
            ..Resolving::default()
        };
        assert!(of("::1").check().is_ok());
        assert!(of("dns.example").check().is_err());
    }
}
