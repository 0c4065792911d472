//! `--network`, in its short form and in that of fields, and what else is said of networks.

use std::collections::HashMap;

use bollard::models::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};

use super::mount::fields;
use super::values::some;
use crate::error::{CliError, Result};

/// Options of networks.
#[derive(Debug, Default, clap::Args)]
pub(super) struct NetworkOptions {
    /// Network of the container (repeatable): its name, or fields as in
    /// name=NETWORK,alias=NAME,ip=ADDRESS,driver-opt=KEY=VALUE
    #[arg(long, alias = "net")]
    network: Vec<String>,
    /// Further name of the container on its network
    #[arg(long, alias = "net-alias")]
    network_alias: Vec<String>,
    /// Fixed IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Fixed IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Further link-local address
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<String>,
    /// A name for another container on its network: CONTAINER[:NAME]
    #[arg(long, value_name = "CONTAINER[:NAME]")]
    link: Vec<String>,
    /// Hardware address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
}

/// One network and what is said of the container's place on it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Attachment {
    name: String,
    aliases: Vec<String>,
    links: Vec<String>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    link_local: Vec<String>,
    mac: Option<String>,
    options: HashMap<String, String>,
    priority: Option<i64>,
}

impl Attachment {
    /// The form of fields has a `=` in it, which no network's name has.
    fn parse(text: &str) -> Result<Self> {
        let bad = |why: String| CliError::usage(format!("invalid --network {text:?}: {why}"));
        let mut attachment = Self::default();
        if !text.contains('=') {
            attachment.name = text.to_owned();
            return Ok(attachment);
        }
        for field in fields(text) {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| bad(format!("invalid field {field}")))?;
            let value = value.trim().to_owned();
            match key.trim().to_ascii_lowercase().as_str() {
                "name" => attachment.name = value,
                "alias" => attachment.aliases.push(value),
                "ip" => attachment.ipv4 = Some(value),
                "ip6" => attachment.ipv6 = Some(value),
                "link-local-ip" => attachment.link_local.push(value),
                "mac-address" => attachment.mac = Some(value),
                "driver-opt" => {
                    let (key, value) = value
                        .split_once('=')
                        .ok_or_else(|| bad("driver-opt: want KEY=VALUE".to_owned()))?;
                    attachment.options.insert(key.to_owned(), value.to_owned());
                }
                "gw-priority" => {
                    let number = value.parse();
                    let number =
                        number.map_err(|_| bad(format!("gw-priority: {value:?} is no number")))?;
                    attachment.priority = Some(number);
                }
                other => return Err(bad(format!("invalid field key {other}"))),
            }
        }
        match attachment.name.is_empty() {
            true => Err(bad("name is missing".to_owned())),
            false => Ok(attachment),
        }
    }

    /// With the options that stand beside the first network, which it may not contradict.
    fn with(mut self, options: &NetworkOptions) -> Result<Self> {
        let conflict = |what: &str| {
            Err(CliError::usage(format!(
                "conflicting options: cannot specify both --{what} and per-network {what}"
            )))
        };
        let given = |list: &[String]| !list.is_empty();
        if given(&options.network_alias) && given(&self.aliases) {
            return conflict("network-alias");
        }
        if given(&options.link_local_ip) && given(&self.link_local) {
            return conflict("link-local-ip");
        }
        for (what, one, own) in [
            ("ip", &options.ip, &mut self.ipv4),
            ("ip6", &options.ip6, &mut self.ipv6),
            ("mac-address", &options.mac_address, &mut self.mac),
        ] {
            if one.is_some() && own.is_some() {
                return conflict(what);
            }
            *own = one.clone().or(own.take());
        }
        self.aliases.extend(options.network_alias.iter().cloned());
        self.link_local
            .extend(options.link_local_ip.iter().cloned());
        // Links of other networks than the default one are the endpoint's.
        if !is_default(&self.name) {
            self.links.extend(options.link.iter().cloned());
        }
        Ok(self)
    }

    fn settings(&self) -> EndpointSettings {
        let fixed = self.ipv4.is_some() || self.ipv6.is_some() || !self.link_local.is_empty();
        EndpointSettings {
            aliases: some(self.aliases.clone()),
            links: some(self.links.clone()),
            ipam_config: fixed.then(|| EndpointIpamConfig {
                ipv4_address: self.ipv4.clone(),
                ipv6_address: self.ipv6.clone(),
                link_local_ips: some(self.link_local.clone()),
            }),
            mac_address: self.mac.clone(),
            driver_opts: (!self.options.is_empty()).then(|| self.options.clone()),
            gw_priority: self.priority,
            ..EndpointSettings::default()
        }
    }
}

fn is_default(name: &str) -> bool {
    matches!(name, "" | "default" | "bridge")
}

/// Whether it is no network but the absence of one, or another container's.
fn is_mode(name: &str) -> bool {
    matches!(name, "none" | "host") || name.starts_with("container:")
}

impl NetworkOptions {
    fn attachments(&self) -> Result<Vec<Attachment>> {
        let named = self.network.iter().map(|text| Attachment::parse(text));
        let mut all = named.collect::<Result<Vec<_>>>()?;
        if 1 < all.len() {
            if let Some(mode) = all.iter().find(|one| is_mode(&one.name)) {
                return Err(CliError::usage(format!(
                    "conflicting options: cannot attach both user-defined and non-user-defined \
                     network-modes: {}",
                    mode.name
                )));
            }
        }
        if all.is_empty() {
            all.push(Attachment {
                name: "default".to_owned(),
                ..Attachment::default()
            });
        }
        let first = all.remove(0).with(self)?;
        all.insert(0, first);
        Ok(all)
    }

    /// `HostConfig.NetworkMode`.
    pub(super) fn mode(&self) -> Result<Option<String>> {
        match self.network.is_empty() {
            true => Ok(None),
            false => Ok(self.attachments()?.first().map(|one| one.name.clone())),
        }
    }

    /// `HostConfig.Links`.
    pub(super) fn links(&self) -> Vec<String> {
        self.link.clone()
    }

    /// What is said of each network.
    pub(super) fn config(&self) -> Result<Option<NetworkingConfig>> {
        let all = self.attachments()?;
        let silent = self.network.is_empty()
            && all
                .iter()
                .all(|one| one.settings() == EndpointSettings::default());
        let shared = all.first().is_some_and(|first| is_mode(&first.name));
        let first = all.first().filter(|first| shared && first.name != "none");
        if first.is_some_and(|first| first.mac.is_some()) {
            return Err(CliError::usage(
                "conflicting options: mac-address and the network mode",
            ));
        }
        if silent || shared {
            return Ok(None);
        }
        let endpoints = all.iter().map(|one| (one.name.clone(), one.settings()));
        Ok(Some(NetworkingConfig {
            endpoints_config: Some(endpoints.collect()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: NetworkOptions,
    }

    fn config(words: &[&str]) -> Result<Option<HashMap<String, EndpointSettings>>> {
        let line = Line::try_parse_from([&["run"], words].concat()).unwrap();
        let config = line.options.config()?;
        Ok(config.and_then(|config| config.endpoints_config))
    }

    #[test]
    fn options_belong_to_the_first_network() {
        let all = config(&["--network", "a", "--network", "b", "--ip", "10.0.0.5"]);
        let all = all.unwrap().unwrap();
        let address = |name: &str| all[name].ipam_config.clone()?.ipv4_address;
        assert_eq!(address("a").as_deref(), Some("10.0.0.5"));
        assert_eq!(address("b"), None);
    }

    #[test]
    fn fields_say_it_of_each_network() {
        let text = "name=a,alias=x,alias=y,ip=10.0.0.5,driver-opt=k=v,gw-priority=-3";
        let all = config(&[
            "--network",
            text,
            "--network",
            "name=b,mac-address=02:00:00:00:00:01",
        ]);
        let all = all.unwrap().unwrap();
        assert_eq!(all["a"].aliases.as_deref().unwrap(), ["x", "y"]);
        assert_eq!(all["a"].driver_opts.as_ref().unwrap()["k"], "v");
        assert_eq!(all["a"].gw_priority, Some(-3));
        assert_eq!(all["b"].mac_address.as_deref(), Some("02:00:00:00:00:01"));
    }

    #[test]
    fn nothing_is_sent_of_what_nobody_said() {
        assert_eq!(config(&[]).unwrap(), None);
        assert_eq!(config(&["--network", "none"]).unwrap(), None);
        let alone = config(&["--mac-address", "02:00:00:00:00:01"])
            .unwrap()
            .unwrap();
        assert!(alone["default"].mac_address.is_some());
    }

    #[test]
    fn contradictions_are_named() {
        for (words, named) in [
            (vec!["--network", "alias=x"], "name is missing"),
            (vec!["--network", "name=a,colour=red"], "colour"),
            (vec!["--network", "name=a,gw-priority=x"], "gw-priority"),
            (
                vec!["--network", "name=a,ip=1.2.3.4", "--ip", "1.2.3.5"],
                "--ip",
            ),
            (vec!["--network", "host", "--network", "a"], "host"),
        ] {
            let error = config(&words).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
