//! `-p`: `[ADDRESS:][HOST-PORTS:]PORTS[/PROTOCOL]`, as docker writes it.

use std::collections::HashMap;

use bollard::models::PortBinding;

use crate::error::{CliError, Result};

/// Docker's map of ports to publish.
pub(super) type PortMap = HashMap<String, Option<Vec<PortBinding>>>;

/// Reads all `-p`.
pub(super) fn parse_all(words: &[String]) -> Result<PortMap> {
    let mut map = PortMap::new();
    for word in words {
        parse(word, &mut map)?;
    }
    Ok(map)
}

fn parse(text: &str, map: &mut PortMap) -> Result<()> {
    let bad = |why: &str| CliError::usage(format!("invalid --publish {text:?}: {why}"));
    let (ports, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad("the protocol has to be tcp, udp or sctp"));
    }
    let (address, rest) = match ports.strip_prefix('[') {
        Some(rest) => rest
            .split_once("]:")
            .ok_or_else(|| bad("no ']:' after '['"))?,
        None => match ports.matches(':').count() {
            0 | 1 => ("", ports),
            2 => ports.split_once(':').unwrap_or_default(),
            _ => bare_v6(ports).ok_or_else(|| bad("what is before the ports is no address"))?,
        },
    };
    let (host, inside) = rest.split_once(':').unwrap_or(("", rest));
    let inside = range(inside).ok_or_else(|| bad("no valid container port"))?;
    let host = match host {
        // Any that is free.
        "" | "0" => None,
        host => Some(range(host).ok_or_else(|| bad("no valid host port"))?),
    };
    let count = inside.1 - inside.0;
    for step in 0..=count {
        let host_port = match host {
            None => String::new(),
            Some((low, high)) if high - low == count => (low + step).to_string(),
            // One port inside, and several outside to choose from.
            Some((low, high)) if count == 0 => format!("{low}-{high}"),
            Some(_) => return Err(bad("the ranges differ in length")),
        };
        map.entry(format!("{}/{protocol}", inside.0 + step))
            .or_default()
            .get_or_insert_default()
            .push(PortBinding {
                host_ip: Some(address.to_owned()),
                host_port: Some(host_port),
            });
    }
    Ok(())
}

/// An IPv6 address without brackets, and the two ports behind it.
fn bare_v6(text: &str) -> Option<(&str, &str)> {
    let inside = text.rfind(':')?;
    let host = text[..inside].rfind(':')?;
    let address = &text[..host];
    address.parse::<std::net::Ipv6Addr>().ok()?;
    Some((address, &text[host + 1..]))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    match text.split_once('-') {
        Some((low, high)) => {
            let (low, high) = (number(low)?, number(high)?);
            (low <= high).then_some((low, high))
        }
        None => number(text).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (String, String, String) {
        let map = parse_all(&[text.to_owned()]).unwrap();
        let (key, bindings) = map.into_iter().next().unwrap();
        let binding = bindings.unwrap().remove(0);
        (key, binding.host_ip.unwrap(), binding.host_port.unwrap())
    }

    #[test]
    fn all_forms_are_read() {
        let want = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(one("80"), want("80/tcp", "", ""));
        assert_eq!(one("8080:80"), want("80/tcp", "", "8080"));
        assert_eq!(
            one("127.0.0.1:53:5353/udp"),
            want("5353/udp", "127.0.0.1", "53")
        );
        assert_eq!(one("127.0.0.1::80"), want("80/tcp", "127.0.0.1", ""));
        assert_eq!(one("[::1]:8080:80"), want("80/tcp", "::1", "8080"));
        assert_eq!(one("::1:8080:80"), want("80/tcp", "::1", "8080"));
        assert_eq!(one("fe80::2::80"), want("80/tcp", "fe80::2", ""));
        assert_eq!(one("0:80"), want("80/tcp", "", ""));
        assert_eq!(one("[::1]:0:80"), want("80/tcp", "::1", ""));
        assert_eq!(one("53:53/UDP"), want("53/udp", "", "53"));
        assert_eq!(one("8000-8010:80"), want("80/tcp", "", "8000-8010"));
        let map = parse_all(&["7000-7002:8000-8002".to_owned()]).unwrap();
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for bad in [
            "", "x", "80:x", "80:0", "0-1:80", "1:2:3:4", "::1:80", "80/icmp", "1-2:1-3", "9-1:80",
            "[::1:80",
        ] {
            assert!(parse_all(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
