//! Containers that are marked as running code which nobody vouches for.

use std::collections::HashMap;

use bollard_stubs::models::HostConfig;
use hull_network::egress::Egress;
use hull_shim::annotations::VHOST_NET;

use crate::engine::Defaults;
use crate::error::{EngineError, Result};
use crate::network::EGRESS_ANNOTATION;

/// Annotation: `true` marks a container so, `false` says that it is not, whatever the default.
pub(crate) const UNTRUSTED_ANNOTATION: &str = "dev.hull.untrusted";

/// Fills in what a container may do in the network that says nothing of it: what the operator chose,
/// and for an untrusted one at most the world outside, by the VMM's own code and not the host
/// kernel's. The record keeps it, so that what holds does not change with the daemon's configuration.
pub(super) fn fill(host: &mut HostConfig, defaults: &Defaults) -> Result<()> {
    let untrusted = is_untrusted(host, defaults)?;
    let mut open = |key: &str, value: String| {
        let annotations = host.annotations.get_or_insert_default();
        annotations.entry(key.to_owned()).or_insert(value);
    };
    if untrusted {
        open(UNTRUSTED_ANNOTATION, true.to_string());
        open(VHOST_NET, false.to_string());
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

fn is_untrusted(host: &HostConfig, defaults: &Defaults) -> Result<bool> {
    let said = host.annotations.as_ref();
    let said = said.and_then(|all: &HashMap<_, _>| all.get(UNTRUSTED_ANNOTATION));
    said.map_or(Ok(defaults.untrusted), |text| {
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
            (UNTRUSTED_ANNOTATION, "true"),
            (VHOST_NET, "false"),
        ];
        assert_eq!(filled(&marked, &plain), pairs(&full));
        let open = [marked[0], (EGRESS_ANNOTATION, "all"), (VHOST_NET, "true")];
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
