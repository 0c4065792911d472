//! Packet rules of all networks and containers, as they are to be.

use std::time::Duration;

use hull_network::egress::{Egress, Restricted};
use hull_network::netlink::Netlink;
use hull_network::nft::Watch;
use hull_network::{pool, rules};

use super::dns::Dns;
use super::manage::{host, Networks, State};
use crate::error::{chain, Result};

/// How long after the first loss of packet rules they are put back.
const SETTLE: Duration = Duration::from_millis(200);

impl Networks {
    pub(super) fn apply_rules(&self, state: &mut State) -> Result<()> {
        // What the rules that go have counted is handed to the ones that come.
        self.count_denied(state);
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        let links = netlink.links().map_err(|error| host(&error))?;
        let networks: Vec<_> = state
            .networks
            .iter()
            .filter_map(|network| {
                let bridge = self.tag.bridge(&network.id);
                let there = links.iter().any(|link| link.name == bridge);
                there.then_some(rules::Network {
                    bridge,
                    subnets: network.subnets().collect(),
                    internal: network.internal,
                    icc: network.icc,
                    masquerade: !network.unmasked,
                    host: network.host,
                })
            })
            .collect();
        let restricted = self.restricted(state);
        let table = self.tag.table();
        let any_end = state.live.values().any(|live| !live.endpoints.is_empty());
        if networks.is_empty() && !any_end {
            return rules::clear(&table).map_err(|error| host(&error));
        }
        rules::apply(&table, &networks, &restricted).map_err(|error| host(&error))
    }

    /// The addresses of containers that have a policy.
    fn restricted(&self, state: &State) -> Vec<Restricted> {
        let live = state.live.iter();
        let ends = live.flat_map(|(id, live)| live.endpoints.iter().map(move |end| (id, end)));
        ends.filter(|(_, end)| end.egress() != Egress::All)
            .flat_map(|(id, end)| {
                let egress = state.learned.resolve(id, &end.egress());
                // With an IPv6 address comes one that reaches the host alone.
                let pinned = end.pinned().filter(|pinned| pinned.v6.is_some());
                let link_local = pinned.map(|pinned| pool::link_local_of(pinned.mac).into());
                let addresses = end.addresses().chain(link_local);
                let name_server = state.servers.get(&end.network_id).and_then(Dns::address);
                let denied = std::iter::once(state.denied.between(&end.tap));
                let denied = denied.chain(std::iter::repeat(0));
                addresses
                    .zip(denied)
                    .map(move |(address, denied)| Restricted {
                        bridge: self.tag.bridge(&end.network_id),
                        tap: end.tap.clone(),
                        address,
                        egress: egress.clone(),
                        name_server,
                        denied,
                    })
            })
            .collect()
    }

    /// Keeps packet rules as they are to be, for as long as the engine runs: what somebody else
    /// takes out is put back.
    pub(crate) async fn keep_rules(&self) {
        let failed = |error: &std::io::Error| {
            tracing::warn!(%error, "packet rules are not watched");
        };
        let watch = match Watch::open(&self.tag.table()) {
            Ok(watch) => watch,
            Err(error) => return failed(&error),
        };
        loop {
            if let Err(error) = watch.lost().await {
                return failed(&error);
            }
            // Who starts a firewall anew takes out much at once.
            tokio::time::sleep(SETTLE).await;
            watch.forget();
            tracing::warn!("somebody else changed Hull's packet rules: they are put back");
            self.restore_rules();
        }
    }

    pub(super) fn apply_or_warn(&self, state: &mut State) {
        if let Err(error) = self.apply_rules(state) {
            tracing::error!(
                error = error.message(),
                "packet rules are not as they should be"
            );
        }
    }

    /// Puts the rules back.
    pub(super) fn restore_rules(&self) {
        let mut state = self.lock();
        self.apply_or_warn(&mut state);
        let table = self.tag.table();
        for end in state.live.values().flat_map(|live| &live.endpoints) {
            let Some(pinned) = end.pinned() else { continue };
            let denied = state.denied.guard(&end.tap);
            if let Err(error) = rules::pin(&table, &end.tap, &pinned, denied) {
                tracing::error!(tap = end.tap, error = chain(&error), "a tap is not pinned");
            }
        }
    }
}
