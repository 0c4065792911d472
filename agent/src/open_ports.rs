//! Ports that are open to the outside: told to a host that has them on its own addresses.

use std::fs;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use hull_network::sockets;
use hull_protocol::agent::{OpenPort, OpenPortsRequest, OpenPortsResponse};

use crate::error::{Context as _, Result};

/// How often it is looked. The kernel tells nobody when somebody begins to listen.
const INTERVAL: Duration = Duration::from_millis(200);
/// Most ports that are told of.
const MOST: usize = 1024;
/// Where ports come from that nobody chose, and Linux' own.
const CHOSEN: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const USUAL: RangeInclusive<u16> = 32_768..=60_999;

/// The open ports, once they are others than the host knows or its time is over.
pub(crate) async fn changed(request: &OpenPortsRequest) -> Result<OpenPortsResponse> {
    let end = Instant::now() + Duration::from_millis(request.wait_ms.into());
    loop {
        let ports = now()?;
        if ports != request.known || end <= Instant::now() {
            return Ok(OpenPortsResponse {
                ports,
                ..Default::default()
            });
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn now() -> Result<Vec<OpenPort>> {
    let open = sockets::open_ports(chosen()).context(|| "failed to list the sockets".to_owned())?;
    let told = open.into_iter().take(MOST).map(|open| OpenPort {
        port: open.port.into(),
        udp: open.udp,
        ..Default::default()
    });
    Ok(told.collect())
}

fn chosen() -> RangeInclusive<u16> {
    fs::read_to_string(CHOSEN)
        .ok()
        .and_then(|text| range_of(&text))
        .unwrap_or(USUAL)
}

fn range_of(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once(char::is_whitespace)?;
    Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_opens_is_told() {
        let known = now().unwrap();
        let asked = OpenPortsRequest {
            known: known.clone(),
            wait_ms: 10_000,
            ..Default::default()
        };
        let changed = tokio::spawn(async move { changed(&asked).await.unwrap().ports });
        let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = changed.await.unwrap();
        // Others on this machine may open some, too.
        assert_ne!(seen, known);
        assert!(now()
            .unwrap()
            .iter()
            .any(|open| open.port == u32::from(port)));
    }

    #[test]
    fn the_range_of_chosen_ports_is_read() {
        assert_eq!(range_of("32768\t60999\n"), Some(USUAL));
        assert_eq!(range_of("x"), None);
    }
}
