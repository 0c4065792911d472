//! Other name servers: which the host has, and what they are asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::net::{TcpStream, UdpSocket};

use super::{read_message, write_message, MAX_MESSAGE, PORT};

/// Where the kernel tells of interfaces.
const INTERFACES: &str = "/sys/class/net";
/// How long a name server has to answer.
const LIMIT: Duration = Duration::from_secs(4);
/// Where an answer has its code, and the bits of it.
const CODE_BYTE: usize = 3;
const CODE_BITS: u8 = 0x0f;

/// Asks one after the other, until one answers; what only says that it can't is the answer if nobody has
/// a better one.
pub(super) async fn ask(servers: &[SocketAddr], question: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let mut poor = None;
    for address in servers {
        let asked = async {
            match tcp {
                true => ask_tcp(*address, question).await,
                false => ask_udp(*address, question).await,
            }
        };
        match tokio::time::timeout(LIMIT, asked).await {
            Ok(Some(answer)) if says_nothing(&answer) => poor = poor.or(Some(answer)),
            Ok(Some(answer)) => return Some(answer),
            Ok(None) | Err(_) => {}
        }
    }
    poor
}

/// Whether a server says only that it does not answer: another may.
fn says_nothing(answer: &[u8]) -> bool {
    let code = answer.get(CODE_BYTE).map(|byte| byte & CODE_BITS);
    code.is_some_and(|code| {
        [
            ResponseCode::ServFail,
            ResponseCode::NotImp,
            ResponseCode::Refused,
        ]
        .iter()
        .any(|one| u16::from(*one) == u16::from(code))
    })
}

/// The host's name servers.
pub(super) fn of_host(resolv_conf: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    text.lines().filter_map(of_line).collect()
}

/// As the C library reads a line: what is behind the address means nothing.
fn of_line(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    match words.next() {
        Some("nameserver") => upstream(words.next()?),
        _ => None,
    }
}

/// A name server, which may be at a link-local address of an interface: `fe80::1%eth0`.
fn upstream(text: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, PORT));
    };
    let index = || {
        let known = (!interface.contains('/')).then(|| Path::new(INTERFACES).join(interface))?;
        let text = std::fs::read_to_string(known.join("ifindex")).ok()?;
        text.trim().parse().ok()
    };
    let scope = interface.parse().ok().or_else(index)?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(question).await.ok()?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        // Only an answer to this question counts.
        if question.get(..2) == buffer.get(..2) && 2 <= length {
            buffer.truncate(length);
            return Some(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    write_message(&mut stream, question).await?;
    read_message(&mut stream).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_host_may_be_on_an_interface() {
        let at = |text: &str| upstream(text).map(|server| server.to_string());
        assert_eq!(at("192.0.2.1").unwrap(), "192.0.2.1:53");
        assert_eq!(at("2001:db8::1").unwrap(), "[2001:db8::1]:53");
        assert_eq!(at("fe80::1%7").unwrap(), "[fe80::1%7]:53");
        assert_eq!(at("fe80::1%lo").unwrap(), "[fe80::1%1]:53");
        for bad in ["", "x", "fe80::1%", "fe80::1%../lo", "192.0.2.1%lo"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn lines_are_read_as_the_c_library_does() {
        let at = |line: &str| of_line(line).map(|server| server.ip().to_string());
        for line in [
            "nameserver 192.0.2.1",
            "nameserver 192.0.2.1 # added by a manager of networks",
            "nameserver\t192.0.2.1\t; eth0",
            "  nameserver   192.0.2.1\r",
        ] {
            assert_eq!(at(line).as_deref(), Some("192.0.2.1"), "{line:?}");
        }
        assert_eq!(at("nameserver fe80::1%lo eth0").as_deref(), Some("fe80::1"));
        for line in [
            "nameserver",
            "nameserverx 192.0.2.1",
            "# nameserver 192.0.2.1",
            "search x",
        ] {
            assert_eq!(at(line), None, "{line:?}");
        }
    }

    /// A server that answers with this code.
    async fn server(code: ResponseCode) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                buffer[CODE_BYTE] = u16::from(code) as u8;
                let _ = socket.send_to(&buffer[..length], peer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn who_can_not_answer_is_passed_over() {
        let question = [7, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let good = server(ResponseCode::NXDomain).await;
        let code = |answer: Option<Vec<u8>>| answer.unwrap()[CODE_BYTE];
        for poor in [
            ResponseCode::ServFail,
            ResponseCode::Refused,
            ResponseCode::NotImp,
        ] {
            let poor_one = server(poor).await;
            let both = ask(&[poor_one, good], &question, false).await;
            assert_eq!(
                code(both),
                u16::from(ResponseCode::NXDomain) as u8,
                "{poor}"
            );
            let alone = ask(&[poor_one], &question, false).await;
            assert_eq!(code(alone), u16::from(poor) as u8);
        }
    }
}
