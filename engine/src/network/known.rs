//! Who is known by which name, and to whom.

use super::dns::{Asker, Content, Zone};
use super::manage::{Networks, State};
use super::records::{Endpoint, Link};

impl Networks {
    /// Changes names of a container that runs.
    pub(crate) fn rename(&self, id: &str, change: impl Fn(&mut String)) {
        self.change_ends(id, |end| end.names.iter_mut().for_each(&change));
    }

    /// Changes what others, or it, know by name of a container that runs.
    pub(crate) fn change_ends(&self, id: &str, change: impl Fn(&mut Endpoint)) {
        if let Some(live) = self.lock().live.get_mut(id) {
            live.endpoints.iter_mut().for_each(change);
        }
        self.tell_names();
    }

    /// Lets the name servers know who is there now.
    pub(super) fn tell_names(&self) {
        let state = self.lock();
        self.directory.set(directory_of(&state));
    }
}

/// What the name servers answer, and to whom.
fn directory_of(state: &State) -> Content {
    let mut content = Content::default();
    for network in &state.networks {
        let zone = Zone {
            open: !network.is_builtin(),
            name: network.name.to_ascii_lowercase(),
            ..Zone::default()
        };
        content.zones.insert(network.id.clone(), zone);
    }
    for (id, live) in &state.live {
        let asker = asker_of(id, &live.endpoints);
        for end in &live.endpoints {
            for address in end.addresses() {
                content.askers.insert(address, asker.clone());
                if let Some(zone) = content.zones.get_mut(&end.network_id) {
                    end.names.iter().for_each(|name| zone.add(name, address));
                }
            }
        }
    }
    content
}

fn asker_of(id: &str, endpoints: &[Endpoint]) -> Asker {
    let links = endpoints.iter().flat_map(|end| {
        let to = |link: &Link| {
            let target = (end.network_id.clone(), link.target.to_ascii_lowercase());
            (link.alias.to_ascii_lowercase(), target)
        };
        end.links.iter().map(to)
    });
    let first = endpoints.first();
    let mut upstreams = first.map(|end| end.upstreams.clone()).unwrap_or_default();
    // Who has no way out has none by names either, but to servers on its own networks.
    let open = endpoints.iter().any(Endpoint::is_open);
    if !open {
        let near: Vec<_> = endpoints.iter().flat_map(Endpoint::prefixes).collect();
        upstreams.retain(|server| near.iter().any(|network| network.contains(*server)));
    }
    Asker {
        owner: id.to_owned(),
        egress: first.map(Endpoint::egress).unwrap_or_default(),
        networks: endpoints.iter().map(|end| end.network_id.clone()).collect(),
        links: links.collect(),
        closed: !open && upstreams.is_empty(),
        upstreams,
    }
}

#[cfg(test)]
mod tests {
    use super::super::attach::tests::endpoint;
    use super::*;

    #[test]
    fn without_a_way_out_only_servers_on_its_own_networks_are_asked() {
        let asker = |gateway: bool, upstreams: &[&str]| {
            let end = Endpoint {
                upstreams: upstreams.iter().map(|text| text.parse().unwrap()).collect(),
                ..endpoint(0, "n", gateway)
            };
            let asker = asker_of("c", &[end]);
            (asker.closed, asker.upstreams.len())
        };
        assert_eq!(asker(true, &["192.0.2.1"]), (false, 1));
        assert_eq!(asker(false, &[]), (true, 0));
        assert_eq!(asker(false, &["192.0.2.1"]), (true, 0));
        assert_eq!(asker(false, &["192.0.2.1", "10.0.0.9"]), (false, 1));
    }
}
