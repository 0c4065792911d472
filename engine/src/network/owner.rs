//! Whom ends on networks are made for.

use std::net::IpAddr;

use bollard_stubs::models::HostConfig;
use hull_network::egress::Egress;

use super::records::Wanted;
use crate::engine::Defaults;
use crate::ids;
use crate::record::Record;

/// Whom ends are made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) egress: &'a Egress,
    /// Name servers that it asks for, or the operator; none: the host's.
    pub(crate) dns: &'a [String],
    /// Its VM may have several vCPUs, each of which wants a queue.
    pub(crate) several_cpus: bool,
}

impl<'a> Owner<'a> {
    /// A container.
    pub(crate) fn of(record: &'a Record, egress: &'a Egress, defaults: &'a Defaults) -> Self {
        let own = record.host.dns.as_deref().filter(|own| !own.is_empty());
        Self {
            id: &record.id,
            name: &record.name,
            hostname: crate::spec::hostname(record),
            egress,
            dns: own.unwrap_or(&defaults.resolving.servers),
            several_cpus: may_have_several_cpus(&record.host),
        }
    }

    pub(super) fn upstreams(&self) -> Vec<IpAddr> {
        self.dns
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }
}

/// Whether the shim may find several vCPUs for a container (see `hull_shim::lower`). A tap for
/// several queues serves one as well, it only takes more of the host's memory.
fn may_have_several_cpus(host: &HostConfig) -> bool {
    const ONE_CPU: i64 = 1_000_000_000;
    const DEFAULT_PERIOD: i64 = 100_000;
    let period = host.cpu_period.filter(|period| 0 < *period);
    let quota = host.cpu_quota.unwrap_or(0);
    let set = host.cpuset_cpus.as_deref().unwrap_or_default();
    let annotations = host.annotations.as_ref();
    let said = annotations.and_then(|all| all.get(hull_shim::annotations::VCPUS));
    ONE_CPU < host.nano_cpus.unwrap_or(0)
        || period.unwrap_or(DEFAULT_PERIOD) < quota
        || set.contains(['-', ','])
        || said.is_some_and(|count| count != "1")
}

/// What it is called on a network.
pub(super) fn names(owner: Owner<'_>, wanted: &Wanted) -> Vec<String> {
    let mut names = vec![owner.name.to_owned()];
    for name in wanted
        .aliases
        .iter()
        .map(String::as_str)
        .chain([ids::short(owner.id), owner.hostname])
    {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_cpus_want_several_queues() {
        let several = |change: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            may_have_several_cpus(&host)
        };
        assert!(!several(|_| {}));
        assert!(!several(|host| host.nano_cpus = Some(1_000_000_000)));
        assert!(several(|host| host.nano_cpus = Some(1_500_000_000)));
        assert!(several(|host| host.cpu_quota = Some(150_000)));
        assert!(!several(|host| host.cpuset_cpus = Some("3".into())));
        assert!(several(|host| host.cpuset_cpus = Some("0-1".into())));
        assert!(several(|host| {
            let said = (hull_shim::annotations::VCPUS.to_owned(), "2".to_owned());
            host.annotations = Some([said].into());
        }));
    }

    #[test]
    fn a_container_has_each_name_once() {
        let owner = Owner {
            id: "0123456789abcdef",
            name: "web",
            hostname: "0123456789ab",
            egress: &Egress::All,
            dns: &[],
            several_cpus: false,
        };
        let wanted = Wanted {
            aliases: vec!["www".into(), "web".into()],
            ..Wanted::default()
        };
        assert_eq!(names(owner, &wanted), ["web", "www", "0123456789ab"]);
    }
}
