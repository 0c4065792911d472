//! Which of a container's networks has the default route, of each family.

use std::net::IpAddr;

use super::records::Endpoint;

/// Gives the default route of each family to the first network of the highest priority that has a
/// way out in it, unless one has it. Returns the ends that got one, and by way of whom.
pub(crate) fn choose_routes(endpoints: &mut [Endpoint]) -> Vec<(Endpoint, IpAddr)> {
    [false, true]
        .into_iter()
        .filter_map(|v6| choose_route(endpoints, v6))
        .collect()
}

fn choose_route(endpoints: &mut [Endpoint], v6: bool) -> Option<(Endpoint, IpAddr)> {
    let way_out = |end: &Endpoint| end.gateways().find(|gateway| gateway.is_ipv6() == v6);
    let routed = |end: &Endpoint| way_out(end).is_some_and(|gateway| end.has_route(gateway));
    if endpoints.iter().any(routed) {
        return None;
    }
    let ways_out = endpoints.iter_mut().filter(|end| way_out(end).is_some());
    let chosen = ways_out.rev().max_by_key(|end| end.priority)?;
    let gateway = way_out(chosen)?;
    chosen.give_route(gateway);
    Some((chosen.clone(), gateway))
}

impl Endpoint {
    /// Whether it has the default route of the family that an address is of.
    pub(crate) fn has_route(&self, of: IpAddr) -> bool {
        match of {
            IpAddr::V4(_) => self.routed,
            IpAddr::V6(_) => self.routed_v6.unwrap_or(self.routed),
        }
    }

    fn give_route(&mut self, of: IpAddr) {
        match of {
            IpAddr::V4(_) => {
                self.routed_v6 = Some(self.routed_v6.unwrap_or(self.routed));
                self.routed = true;
            }
            IpAddr::V6(_) => self.routed_v6 = Some(true),
        }
    }

    fn take_route(&mut self, of: IpAddr) {
        match of {
            IpAddr::V4(_) => {
                self.routed_v6 = Some(self.routed_v6.unwrap_or(self.routed));
                self.routed = false;
            }
            IpAddr::V6(_) => self.routed_v6 = Some(false),
        }
    }

    /// Takes the default routes that none of the container's other ends has, or one of a lower
    /// priority.
    pub(super) fn take_routes_from(&mut self, others: &mut [Endpoint]) {
        for gateway in self.gateways().collect::<Vec<_>>() {
            let mut routed = others.iter_mut().filter(|end| end.leads_out(gateway));
            match routed.next() {
                Some(other) if self.priority <= other.priority => continue,
                Some(other) => other.take_route(gateway),
                None => {}
            }
            self.give_route(gateway);
        }
    }

    /// Whether it has the default route of a family, and a way out in it.
    fn leads_out(&self, of: IpAddr) -> bool {
        let mut gateways = self.gateways();
        self.has_route(of) && gateways.any(|gateway| gateway.is_ipv6() == of.is_ipv6())
    }
}

#[cfg(test)]
mod tests {
    use super::super::attach::tests::endpoint;
    use super::super::records::EndAddress;
    use super::super::{annotation, default_route};
    use super::*;

    /// How many gateways each end has a route by.
    fn routed(ends: &[Endpoint]) -> Vec<usize> {
        let mut ends = ends.to_vec();
        choose_routes(&mut ends);
        let interfaces = annotation(&ends).interfaces;
        interfaces.iter().map(|one| one.gateways.len()).collect()
    }

    fn v6(last: u16) -> EndAddress<std::net::Ipv6Addr> {
        let at = |last| [0xfd00, 0, 0, 0, 0, 0, 0, last].into();
        EndAddress {
            address: at(last),
            prefix_length: 64,
            gateway: Some(at(1)),
        }
    }

    #[test]
    fn the_first_network_with_a_way_out_has_the_default_route() {
        let mut ends = [
            endpoint(0, "inner", false),
            endpoint(1, "a", true),
            endpoint(2, "b", true),
        ];
        assert_eq!(routed(&ends), [0, 1, 0]);
        ends[2].priority = 1;
        assert_eq!(routed(&ends), [0, 0, 1]);
        // Who has it keeps it.
        ends[1].routed = true;
        assert_eq!(routed(&ends), [0, 1, 0]);
    }

    #[test]
    fn each_family_has_a_default_route() {
        let v6_only = Endpoint {
            v4: None,
            v6: Some(v6(2)),
            ..endpoint(1, "six", true)
        };
        let both = Endpoint {
            v6: Some(v6(3)),
            ..endpoint(2, "both", true)
        };
        assert_eq!(
            routed(&[endpoint(0, "four", true), v6_only.clone()]),
            [1, 1]
        );
        assert_eq!(routed(&[v6_only.clone(), both.clone()]), [1, 1]);
        assert_eq!(routed(&[both.clone(), v6_only.clone()]), [2, 0]);

        // What is left when the first one goes gets what that had.
        let mut left = [v6_only, both];
        choose_routes(&mut left);
        let mut left = [left[1].clone()];
        let [(end, gateway)] = choose_routes(&mut left).try_into().unwrap();
        assert_eq!(default_route(&end, gateway).gateways, ["fd00::1"]);
        assert!(end.routed && end.routed_v6 == Some(true));
        assert!(choose_routes(&mut left).is_empty());
    }

    #[test]
    fn one_that_comes_takes_what_nobody_has_and_what_it_comes_first_for() {
        let comes = |priority| Endpoint {
            v6: Some(v6(3)),
            priority,
            ..endpoint(2, "both", true)
        };
        let four = Endpoint {
            routed: true,
            ..endpoint(0, "four", true)
        };
        for (priority, taken) in [(-1, false), (0, false), (1, true)] {
            let (mut both, mut others) = (comes(priority), [four.clone()]);
            both.take_routes_from(&mut others);
            assert_eq!((both.routed, others[0].routed), (taken, !taken));
            assert_eq!(both.routed_v6, Some(true));
        }
        let (mut first, mut others) = (comes(0), [comes(-5)]);
        choose_routes(&mut others);
        first.take_routes_from(&mut others);
        assert_eq!(routed(&[first, others[0].clone()]), [2, 0]);
    }

    #[test]
    fn an_end_of_an_earlier_version_has_both_routes_or_none() {
        let old = Endpoint {
            v6: Some(v6(3)),
            routed: true,
            ..endpoint(0, "both", true)
        };
        let mut json = serde_json::to_value(old).unwrap();
        json.as_object_mut().unwrap().remove("routed_v6");
        let mut ends: [Endpoint; 1] = [serde_json::from_value(json).unwrap()];
        assert_eq!(ends[0].v4.unwrap().prefix_length, 24);
        assert!(choose_routes(&mut ends).is_empty());
    }
}
