//! Ends on networks as the shim is told of them.

use std::net::IpAddr;

use hull_shim::network::{Attachment, Attachments, Route};

use super::records::Endpoint;

/// One end, for a VM that runs.
pub(crate) fn interface(endpoint: &Endpoint) -> Attachment {
    let gateways = endpoint.gateways().filter(|at| endpoint.has_route(*at));
    let straight = endpoint.layer3 && endpoint.routed;
    Attachment {
        name: format!("eth{}", endpoint.index()),
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
        // The default route.
        routes: straight.then(Route::default).into_iter().collect(),
        neighbours: Vec::new(),
    }
}

/// A default route by way of an end that is there.
pub(crate) fn default_route(endpoint: &Endpoint, gateway: IpAddr) -> Attachment {
    let whole = interface(endpoint);
    let by_gateway = (!endpoint.layer3).then(|| gateway.to_string());
    Attachment {
        addresses: Vec::new(),
        gateways: by_gateway.into_iter().collect(),
        static_v6: false,
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
