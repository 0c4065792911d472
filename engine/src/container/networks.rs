//! The networks that a container is to be on.

use std::collections::{BTreeMap, HashMap};

use bollard_stubs::models::{EndpointSettings, HostConfig};

use super::request::{has_text, CreateRequest};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::network::{self, Networks, Wanted, STAYS};

impl Engine {
    /// The networks of a container that is to be made; each must exist now.
    pub(super) fn wanted_networks(&self, request: &CreateRequest) -> Result<Vec<Wanted>> {
        let mode = request.host.network_mode.as_deref().unwrap_or_default();
        if mode == network::NONE {
            return without_network(request).map(|()| Vec::new());
        }
        if super::joins(&request.host) {
            return match request.networks.is_empty() {
                true => Ok(Vec::new()),
                false => Err(EngineError::BadRequest(STAYS.to_owned())),
            };
        }
        if mode == network::HOST {
            let others = request.networks.keys().any(|name| !Networks::is_host(name));
            let settings = request.networks.values();
            let mac = request.mac_address.is_some()
                || settings.clone().any(|one| has_text(&one.mac_address));
            let links = request.host.links.iter().flatten().next().is_some();
            network::check_conflicts(mac, links, others)?;
        }
        let main = self.networks.find(mode)?;
        let mut wanted = vec![Wanted {
            network: main.id.clone(),
            ..Wanted::default()
        }];
        for (name, settings) in by_name(&request.networks) {
            let network = self.networks.find(name)?;
            let known = wanted
                .iter()
                .position(|wanted| wanted.network == network.id);
            let index = known.unwrap_or_else(|| {
                wanted.push(Wanted {
                    network: network.id.clone(),
                    ..Wanted::default()
                });
                wanted.len() - 1
            });
            wanted[index].fill(settings)?;
            wanted[index].check_on(&network)?;
        }
        network::check_count(wanted.len())?;
        if wanted[0].mac.is_none() {
            wanted[0].mac = request.mac_address.clone();
            wanted[0].check_mac()?;
        }
        for text in request.host.links.iter().flatten() {
            wanted[0].links.push(text.parse()?);
        }
        // On other networks a link is a name, which may be of one that comes later.
        if network::is_default_mode(mode) {
            self.check_links(&wanted[0])?;
        }
        Ok(wanted)
    }

    /// Refuses the network `host` where whoever runs this engine does not want it.
    pub(super) fn check_host_network(&self, host: &HostConfig) -> Result<()> {
        match network::is_host_mode(host) && self.defaults.no_host_network {
            true => Err(EngineError::Forbidden(
                "network mode \"host\" is switched off (hulld --no-host-network): publish ports \
                 with -p"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }

    /// Refuses links to containers that are not there.
    fn check_links(&self, wanted: &Wanted) -> Result<()> {
        for link in &wanted.links {
            self.container(&link.target).map_err(|error| {
                EngineError::BadRequest(format!(
                    "could not get container for {}: {}",
                    link.target,
                    error.message()
                ))
            })?;
        }
        Ok(())
    }
}

/// In an order that is the same for each container: a map has none, and what comes first decides which
/// interface is which, and by which network the world is reached.
fn by_name(
    networks: &HashMap<String, EndpointSettings>,
) -> impl Iterator<Item = (&String, &EndpointSettings)> {
    let sorted: BTreeMap<_, _> = networks.iter().collect();
    sorted.into_iter()
}

/// Refuses what only a network could give.
fn without_network(request: &CreateRequest) -> Result<()> {
    if request.host.links.iter().flatten().next().is_some() {
        return Err(EngineError::BadRequest(
            "conflicting options: links can't be had on the network none".to_owned(),
        ));
    }
    let address = |settings: &EndpointSettings| {
        let ipam = settings.ipam_config.clone().unwrap_or_default();
        let set = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
        set(ipam.ipv4_address) || set(ipam.ipv6_address)
    };
    match request.networks.values().any(address) {
        true => Err(EngineError::BadRequest(
            "invalid config for network none: user specified IP address is supported on user \
             defined networks only"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_networks_come_by_their_names() {
        for _ in 0..50 {
            let names =
                ["z", "a", "m", "b"].map(|name| (name.to_owned(), EndpointSettings::default()));
            let networks = HashMap::from(names);
            let order: Vec<&str> = by_name(&networks).map(|(name, _)| name.as_str()).collect();
            assert_eq!(order, ["a", "b", "m", "z"]);
        }
    }
}
