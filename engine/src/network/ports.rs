//! Published ports, as Docker's API has them.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use bollard_stubs::models::{HostConfig, PortBinding, PortMap};
use hull_network::ports::{bind, Bound, PortError, Protocol};
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, Result};

/// How often another number is tried where any will do.
const MORE_NUMBERS: usize = 16;

fn is_in_use(error: &PortError) -> bool {
    error.source.kind() == std::io::ErrorKind::AddrInUse
}

/// A port of a container on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishedPort {
    /// In the container.
    pub(crate) container_port: u16,
    pub(crate) protocol: Protocol,
    /// `None`: all addresses, IPv4 and IPv6.
    pub(crate) host_ip: Option<IpAddr>,
    /// Lowest and highest port of the host to choose from; both 0: any that is free.
    pub(crate) host_ports: (u16, u16),
}

impl PublishedPort {
    /// As it is published on a network that has an address for ports that name none.
    pub(super) fn at(&self, usual: Option<IpAddr>) -> Self {
        Self {
            host_ip: self.host_ip.or(usual),
            ..self.clone()
        }
    }

    /// Docker's key, such as `80/tcp`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.container_port, self.protocol)
    }

    /// Takes the port, on each address that is meant.
    pub(super) async fn bind(&self) -> Result<Vec<Bound>, PortError> {
        let (low, high) = self.host_ports;
        let mut bound = self.bind_at(low).await;
        // The number that is free by IPv4 may not be by IPv6.
        let any = if low == 0 { MORE_NUMBERS } else { 0 };
        for _ in 0..any {
            if !bound.as_ref().is_err_and(is_in_use) {
                break;
            }
            bound = self.bind_at(low).await;
        }
        for port in (low..=high).skip(1) {
            if bound.is_ok() {
                break;
            }
            bound = self.bind_at(port).await;
        }
        bound
    }

    /// Takes the port where it was before, if that is free still.
    pub(super) async fn bind_again(
        &self,
        before: &[BoundAddress],
    ) -> Result<Vec<Bound>, PortError> {
        for port in self.was_at(before) {
            if let Ok(bound) = self.bind_at(port).await {
                return Ok(bound);
            }
        }
        self.bind().await
    }

    /// Where it may have been: of ports that differ by their range alone another one may have that, too.
    fn was_at<'a>(&'a self, before: &'a [BoundAddress]) -> impl Iterator<Item = u16> + 'a {
        let (key, (low, high)) = (self.key(), self.host_ports);
        let ip = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let any = (low, high) == (0, 0);
        let mine = move |one: &&BoundAddress| {
            let port = one.address.port();
            one.key == key && one.address.ip() == ip && (any || (low..=high).contains(&port))
        };
        before.iter().filter(mine).map(|one| one.address.port())
    }

    async fn bind_at(&self, port: u16) -> Result<Vec<Bound>, PortError> {
        let first = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let bound = bind(self.protocol, SocketAddr::new(first, port)).await?;
        let chosen = bound.address().port();
        let mut all = vec![bound];
        if self.host_ip.is_none() {
            let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), chosen);
            match bind(self.protocol, v6).await {
                Ok(bound) => all.push(bound),
                // Somebody has it there, and would have the container's clients.
                Err(error) if is_in_use(&error) => return Err(error),
                // A host without IPv6.
                Err(_) => {}
            }
        }
        Ok(all)
    }
}

/// Every port that a container wants to be published, checked.
pub(crate) fn parse_bindings(
    host: &HostConfig,
    exposed: Option<&[String]>,
) -> Result<Vec<PublishedPort>> {
    let mut ports = Vec::new();
    for (key, bindings) in host.port_bindings.iter().flatten() {
        let (container_port, protocol) = parse_key(key)?;
        for binding in bindings.iter().flatten() {
            ports.push(PublishedPort {
                container_port,
                protocol,
                host_ip: parse_ip(binding)?,
                host_ports: parse_range(binding.host_port.as_deref().unwrap_or_default())?,
            });
        }
    }
    if host.publish_all_ports.unwrap_or(false) {
        let known = ports
            .iter()
            .map(|port| (port.container_port, port.protocol));
        let mut known: BTreeSet<_> = known.collect();
        for key in exposed.into_iter().flatten() {
            let (numbers, protocol) = parse_keys(key)?;
            let new = numbers.filter(|number| known.insert((*number, protocol)));
            ports.extend(new.map(|container_port| PublishedPort {
                container_port,
                protocol,
                host_ip: None,
                host_ports: (0, 0),
            }));
        }
    }
    ports.sort_by_key(|port| (port.container_port, port.protocol, port.host_ports));
    Ok(ports)
}

/// One port.
fn parse_key(key: &str) -> Result<(u16, Protocol)> {
    let (numbers, protocol) = parse_keys(key)?;
    match numbers.start() == numbers.end() {
        true => Ok((*numbers.start(), protocol)),
        false => Err(bad_key(key)),
    }
}

/// A port, or a range of them: images have what their builders have written, such as `8000-8010/TCP`.
fn parse_keys(key: &str) -> Result<(RangeInclusive<u16>, Protocol)> {
    let bad = || bad_key(key);
    let (ports, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let number = |text: &str| {
        let number = text.parse::<u16>().ok();
        number.filter(|port| *port != 0).ok_or_else(bad)
    };
    let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
    let (low, high) = (number(low)?, number(high)?);
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(bad()),
    };
    match low <= high {
        true => Ok((low..=high, protocol)),
        false => Err(bad()),
    }
}

fn bad_key(key: &str) -> EngineError {
    EngineError::BadRequest(format!("invalid port specification: {key:?}"))
}

/// Docker's keys of what `EXPOSE` names: one for each port of a range.
pub(crate) fn exposed_keys(text: &str) -> Result<impl Iterator<Item = String>> {
    let (numbers, protocol) = parse_keys(text)?;
    Ok(numbers.map(move |number| format!("{number}/{protocol}")))
}

fn parse_ip(binding: &PortBinding) -> Result<Option<IpAddr>> {
    match binding.host_ip.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| EngineError::BadRequest(format!("invalid host IP address: {text:?}"))),
    }
}

fn parse_range(text: &str) -> Result<(u16, u16)> {
    let bad = || EngineError::BadRequest(format!("invalid host port: {text:?}"));
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad());
    match (text, text.split_once('-')) {
        ("", _) => Ok((0, 0)),
        (_, Some((low, high))) => {
            let (low, high) = (number(low)?, number(high)?);
            if high < low {
                return Err(bad());
            }
            Ok((low, high))
        }
        (text, None) => number(text).map(|port| (port, port)),
    }
}

/// Where a port of a container is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BoundAddress {
    /// Docker's key, such as `80/tcp`.
    pub(crate) key: String,
    pub(crate) address: SocketAddr,
}

/// Docker's map of what is published where.
pub(crate) fn port_map(published: &[BoundAddress]) -> PortMap {
    let mut map: PortMap = HashMap::new();
    for BoundAddress { key, address } in published {
        map.entry(key.clone())
            .or_default()
            .get_or_insert_default()
            .push(PortBinding {
                host_ip: Some(address.ip().to_string()),
                host_port: Some(address.port().to_string()),
            });
    }
    map
}

/// Puts ports into docker's map that are only exposed: they lead to nowhere on the host.
pub(crate) fn add_exposed(map: &mut PortMap, exposed: Option<&[String]>) {
    for key in exposed.into_iter().flatten() {
        for key in exposed_keys(key).into_iter().flatten() {
            map.entry(key).or_insert(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings(key: &str, ip: &str, port: &str) -> HostConfig {
        let binding = PortBinding {
            host_ip: Some(ip.into()),
            host_port: Some(port.into()),
        };
        HostConfig {
            port_bindings: Some(HashMap::from([(key.into(), Some(vec![binding]))])),
            ..HostConfig::default()
        }
    }

    #[test]
    fn bindings_are_read() {
        let ports = parse_bindings(&bindings("53/udp", "127.0.0.1", "5300-5310"), None).unwrap();
        assert_eq!(ports[0].host_ports, (5300, 5310));
        assert_eq!(ports[0].protocol, Protocol::Udp);
        let sctp = parse_bindings(&bindings("7/sctp", "", ""), None).unwrap();
        assert_eq!(sctp[0].key(), "7/sctp");
        assert_eq!(ports[0].host_ip, "127.0.0.1".parse().ok());
        for (key, ip, port) in [
            ("x", "", ""),
            ("0/tcp", "", ""),
            ("80/tcp", "host", ""),
            ("80/tcp", "", "9-1"),
        ] {
            assert!(
                parse_bindings(&bindings(key, ip, port), None).is_err(),
                "{key} {ip} {port}"
            );
        }
    }

    #[tokio::test]
    async fn a_port_that_ipv6_alone_has_in_use_is_in_use() {
        let v6: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
        let Ok(held) = bind(Protocol::Tcp, v6).await else {
            return;
        };
        let port = held.address().port();
        let ports = parse_bindings(&bindings("80/tcp", "", &port.to_string()), None).unwrap();
        let error = ports[0].bind().await.unwrap_err();
        assert!(is_in_use(&error) && error.address.is_ipv6(), "{error}");
        // Of a range the next one is taken.
        let range = format!("{port}-{}", port.saturating_add(20));
        let ports = parse_bindings(&bindings("80/tcp", "", &range), None).unwrap();
        let bound = ports[0].bind().await.unwrap();
        assert_eq!(bound.len(), 2);
        assert_ne!(bound[0].address().port(), port);
    }

    #[test]
    fn a_port_is_looked_for_where_it_was() {
        let before = |key: &str, address: &str| BoundAddress {
            key: key.into(),
            address: address.parse().unwrap(),
        };
        let before = [
            before("80/udp", "0.0.0.0:1"),
            before("80/tcp", "0.0.0.0:32768"),
            before("80/tcp", "[::]:32768"),
            before("80/tcp", "127.0.0.1:8081"),
            before("80/tcp", "0.0.0.0:9000"),
        ];
        let at = |ip: &str, port: &str| {
            let ports = parse_bindings(&bindings("80/tcp", ip, port), None).unwrap();
            ports[0].was_at(&before).collect::<Vec<_>>()
        };
        assert_eq!(at("", ""), [32768, 9000]);
        assert_eq!(at("127.0.0.1", "8080-8090"), [8081]);
        assert_eq!(at("", "9000"), [9000]);
        assert_eq!(at("::1", ""), [0u16; 0]);
    }

    #[tokio::test]
    async fn a_networks_address_holds_for_ports_that_name_none() {
        let usual = "127.0.0.1".parse().ok();
        let bound = parse_bindings(&bindings("80/tcp", "", ""), None).unwrap()[0]
            .at(usual)
            .bind()
            .await
            .unwrap();
        assert_eq!(bound.len(), 1);
        assert_eq!(Some(bound[0].address().ip()), usual);
        let named = &parse_bindings(&bindings("80/tcp", "::1", ""), None).unwrap()[0];
        assert_eq!(named.at(usual), *named);
    }

    #[test]
    fn exposed_ports_are_in_the_map_without_bindings() {
        let mut map = port_map(&[BoundAddress {
            key: "80/tcp".to_owned(),
            address: "127.0.0.1:8080".parse().unwrap(),
        }]);
        let exposed = ["80/tcp", "90", "53/udp", "x"].map(str::to_owned);
        add_exposed(&mut map, Some(&exposed));
        assert_eq!(map["80/tcp"].as_ref().map(Vec::len), Some(1));
        assert_eq!(
            (map.len(), &map["90/tcp"], &map["53/udp"]),
            (3, &None, &None)
        );
    }

    #[test]
    fn all_exposed_ports_get_one_each() {
        let host = HostConfig {
            publish_all_ports: Some(true),
            ..bindings("80/tcp", "", "8080")
        };
        let seen = |exposed: &[&str]| -> Vec<_> {
            let exposed: Vec<String> = exposed.iter().map(|key| (*key).to_owned()).collect();
            let ports = parse_bindings(&host, Some(&exposed)).unwrap();
            let seen = ports.iter();
            seen.map(|p| (p.container_port, p.host_ports.0)).collect()
        };
        assert_eq!(seen(&["80/tcp", "443/tcp"]), [(80, 8080), (443, 0)]);
        // As some builders write them.
        let ranges = seen(&["79-81/TCP", "81", "90/UDP"]);
        assert_eq!(ranges, [(79, 0), (80, 8080), (81, 0), (90, 0)]);
        for bad in ["82-81/tcp", "0-1", "1-x", "80/foo"] {
            assert!(
                parse_bindings(&host, Some(&[bad.to_owned()])).is_err(),
                "{bad}"
            );
        }
    }
}
