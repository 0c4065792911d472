//! Ends on networks as the shim is told of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hull_shim::network::{Attachment, Attachments, Route};

use super::endpoint_options::of_interface;
use super::records::Endpoint;

/// One end, for a VM that runs.
pub(crate) fn interface(endpoint: &Endpoint) -> Attachment {
    let gateways = endpoint.gateways().filter(|at| endpoint.has_route(*at));
    Attachment {
        name: endpoint.interface_name(),
        tap: endpoint.tap.clone(),
        mac: endpoint.mac.clone(),
        mtu: endpoint.mtu,
        addresses: endpoint
            .prefixes()
            .map(|prefix| prefix.to_string())
            .collect(),
        gateways: gateways
            .filter(|_| !endpoint.layer3)
            .map(|gateway| gateway.to_string())
            .collect(),
        static_v6: true,
        without_arp: endpoint.layer3,
        routes: straight_routes(endpoint),
        neighbours: Vec::new(),
        sysctls: of_interface(&endpoint.sysctls, &endpoint.interface_name()),
    }
}

/// The default routes of an end that needs no gateway, of each family.
fn straight_routes(endpoint: &Endpoint) -> Vec<Route> {
    let ways_out = endpoint
        .gateways()
        .filter(|at| endpoint.layer3 && endpoint.has_route(*at));
    ways_out.map(default_of).collect()
}

/// The default route of the family that an address is of, straight through the interface.
fn default_of(family: IpAddr) -> Route {
    Route {
        destination: family.is_ipv6().then(|| "::/0".to_owned()),
        ..Route::default()
    }
}

/// A default route by way of an end that is there.
pub(crate) fn default_route(endpoint: &Endpoint, gateway: IpAddr) -> Attachment {
    let whole = interface(endpoint);
    let (routes, gateways) = match endpoint.layer3 {
        true => (vec![default_of(gateway)], Vec::new()),
        false => (Vec::new(), vec![gateway.to_string()]),
    };
    Attachment {
        addresses: Vec::new(),
        gateways,
        routes,
        static_v6: false,
        sysctls: BTreeMap::new(),
        ..whole
    }
}

/// The annotation by which the shim makes these ends.
pub(crate) fn annotation(endpoints: &[Endpoint]) -> Attachments {
    Attachments {
        interfaces: endpoints.iter().map(interface).collect(),
        resolvers: Vec::new(),
    }
}
