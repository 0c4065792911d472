//! Containers that are marked as running code which nobody vouches for.

use std::collections::HashMap;

use bollard_stubs::models::HostConfig;
use hull_network::egress::Egress;
use hull_shim::annotations::{IO_URING, VHOST_NET};

use super::joins;
use crate::engine::Defaults;
use crate::error::{EngineError, Result};
use crate::network::EGRESS_ANNOTATION;

/// Annotation: `true` marks a container so, `false` says that it is not, whatever the default.
pub(crate) const UNTRUSTED_ANNOTATION: &str = "dev.hull.untrusted";

/// Fills in what a container may do in the network that says nothing of it: what the operator chose,
/// and for an untrusted one at most the world outside; and has the VMM's own code, and not the host
/// kernel's, serve an untrusted one's network and disks. The record keeps it, so that what holds does not change with the daemon's configuration.
pub(super) fn fill(host: &mut HostConfig, defaults: &Defaults) -> Result<()> {
    if joins(host) {
        // Network and VM are another one's, who has said what holds.
        return match said(host, EGRESS_ANNOTATION) {
            Some(_) => Err(EngineError::BadRequest(
                "conflicting options: an egress policy and another container's network, which has \
                 its own"
                    .to_owned(),
            )),
            None => Ok(()),
        };
    }
    let untrusted = is_untrusted(host, defaults)?;
    let mut open = |key: &str, value: String| {
        let annotations = host.annotations.get_or_insert_default();
        annotations.entry(key.to_owned()).or_insert(value);
    };
    if untrusted {
        open(UNTRUSTED_ANNOTATION, true.to_string());
        open(VHOST_NET, false.to_string());
        open(IO_URING, false.to_string());
    }
    let egress = match &defaults.egress {
        Egress::All if untrusted => &Egress::Outside,
        chosen => chosen,
    };
    if *egress != Egress::All {
        open(EGRESS_ANNOTATION, egress.to_string());
    }
    Ok(())
}

fn said<'a>(host: &'a HostConfig, key: &str) -> Option<&'a String> {
    let all: Option<&HashMap<String, String>> = host.annotations.as_ref();
    all?.get(key)
}

fn is_untrusted(host: &HostConfig, defaults: &Defaults) -> Result<bool> {
    said(host, UNTRUSTED_ANNOTATION).map_or(Ok(defaults.untrusted), |text| {
        text.parse().map_err(|_| {
            EngineError::BadRequest(format!(
                "annotation {UNTRUSTED_ANNOTATION}: {text:?}: want true or false"
            ))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(said: &[(&str, &str)], defaults: &Defaults) -> Vec<(String, String)> {
        let said = said.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut host = HostConfig {
            annotations: Some(said.collect()),
            ..HostConfig::default()
        };
        fill(&mut host, defaults).unwrap();
        let mut all: Vec<_> = host.annotations.unwrap().into_iter().collect();
        all.sort();
        all
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        let all = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        all.collect()
    }

    #[test]
    fn an_untrusted_container_reaches_only_the_world_outside_unless_it_says_more() {
        let plain = Defaults::default();
        assert_eq!(filled(&[], &plain), []);
        let marked = [(UNTRUSTED_ANNOTATION, "true")];
        let full = [
            (EGRESS_ANNOTATION, "outside"),
            (IO_URING, "false"),
            (UNTRUSTED_ANNOTATION, "true"),
            (VHOST_NET, "false"),
        ];
        assert_eq!(filled(&marked, &plain), pairs(&full));
        let open = [
            marked[0],
            (EGRESS_ANNOTATION, "all"),
            (IO_URING, "true"),
            (VHOST_NET, "true"),
        ];
        let mut kept = pairs(&open);
        kept.sort();
        assert_eq!(filled(&open, &plain), kept);
        let all = Defaults {
            untrusted: true,
            ..plain
        };
        assert_eq!(filled(&[], &all), pairs(&full));
        let not = [(UNTRUSTED_ANNOTATION, "false")];
        assert_eq!(filled(&not, &all), pairs(&not));
    }

    #[test]
    fn the_operators_policy_is_for_those_that_name_none() {
        let chosen = Defaults {
            egress: "allow:10.0.0.0/8".parse().unwrap(),
            ..Defaults::default()
        };
        let wanted = pairs(&[(EGRESS_ANNOTATION, "allow:10.0.0.0/8")]);
        assert_eq!(filled(&[], &chosen), wanted);
        let own = [(EGRESS_ANNOTATION, "none")];
        assert_eq!(filled(&own, &chosen), pairs(&own));
        let marked = filled(&[(UNTRUSTED_ANNOTATION, "true")], &chosen);
        assert!(marked.contains(&wanted[0]));
    }

    #[test]
    fn who_joins_another_ones_network_has_its_policy() {
        let joining = |annotations| HostConfig {
            network_mode: Some("container:a".to_owned()),
            annotations,
            ..HostConfig::default()
        };
        let chosen = Defaults {
            egress: Egress::None,
            ..Defaults::default()
        };
        let mut silent = joining(None);
        fill(&mut silent, &chosen).unwrap();
        assert_eq!(silent.annotations, None);
        let own = HashMap::from([(EGRESS_ANNOTATION.to_owned(), "all".to_owned())]);
        let error = fill(&mut joining(Some(own)), &chosen).unwrap_err();
        assert!(error.message().contains("another container's network"));
    }

    #[test]
    fn a_mark_is_true_or_false() {
        let said = HashMap::from([(UNTRUSTED_ANNOTATION.to_owned(), "yes".to_owned())]);
        let mut host = HostConfig {
            annotations: Some(said),
            ..HostConfig::default()
        };
        let error = fill(&mut host, &Defaults::default()).unwrap_err();
        assert!(error.message().contains("want true or false"));
    }
}
