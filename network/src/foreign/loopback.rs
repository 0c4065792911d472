//! What programs of the host send to a namespace's loopback addresses.
//!
//! The servers that they look for are in the guest. Connections to any TCP port on 127.0.0.0/8 or
//! ::1 are redirected to one listener, which knows by the connection itself where it was to go.
//! 127.0.0.11 is left alone: dockerd's resolver is there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use super::{ForeignError, Namespace};
use crate::nft::{commit, Chain, Change, Family, Header, Hook, Rule, Table, Test, Verdict};
use crate::Prefix;

/// Name of the table in the namespace.
const TABLE: &str = "hull-loopback";
const TCP: u8 = 6;
const LOOPBACK: Prefix = Prefix {
    address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
    length: 8,
};
const RESOLVER: Prefix = Prefix {
    address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)),
    length: 32,
};

/// The listeners.
#[derive(Debug)]
pub struct Loopback {
    /// On 127.0.0.1, non-blocking.
    pub v4: TcpListener,
    /// On ::1, if the namespace has IPv6.
    pub v6: Option<TcpListener>,
}

impl Loopback {
    /// Redirects connections. The rules stay as long as the namespace; those of an owner before
    /// are replaced.
    pub fn catch(namespace: &Namespace) -> Result<Self, ForeignError> {
        let failed = |action| {
            move |source: io::Error| ForeignError::Loopback {
                path: namespace.path.clone(),
                action,
                source,
            }
        };
        namespace.run(|| {
            let listen = failed("listen on its loopback interface");
            let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(listen)?;
            let port = v4.local_addr().map_err(listen)?.port();
            let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok();
            for listener in std::iter::once(&v4).chain(&v6) {
                listener.set_nonblocking(true).map_err(listen)?;
            }
            commit(&Change::Rewrite(table(port))).map_err(failed("redirect its loopback"))?;
            Ok(Self { v4, v6 })
        })
    }
}

fn table(port: u16) -> Table {
    let other_port = || Test::bytes(false, Header::Transport, 2, &port.to_be_bytes());
    let v4 = vec![
        Test::Ipv4,
        Test::destination(true, LOOPBACK),
        Test::destination(false, RESOLVER),
        Test::Transport(TCP),
        other_port(),
    ];
    let v6 = vec![
        Test::Ipv6,
        Test::bytes(true, Header::Network, 24, &Ipv6Addr::LOCALHOST.octets()),
        Test::Transport(TCP),
        other_port(),
    ];
    let rules = [v4, v6].map(|tests| Rule {
        tests,
        verdict: Verdict::Redirect(port),
        owner: String::new(),
        dropped: 0,
    });
    Table {
        family: Family::Inet,
        name: TABLE.into(),
        sets: Vec::new(),
        chains: vec![Chain {
            name: "output".into(),
            hook: Hook::Output,
            rules: rules.into(),
        }],
    }
}
