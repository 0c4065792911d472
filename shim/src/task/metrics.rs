//! The agent's figures as containerd's cgroup v2 metrics.

use containerd_shim_protos::cgroups_v2::metrics;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message as _, MessageField};
use hull_protocol::agent::{CpuStats, IoStats, MemoryStats, PidsStats, StatsContainerResponse};

/// Type of the metrics in containerd.
const TYPE_URL: &str = "io.containerd.cgroups.v2.Metrics";

/// Disks that are told of: a VM has fewer, and an agent may say anything.
const MAX_DISKS: usize = 64;

/// The metrics of a container, packed.
pub(crate) fn pack(stats: StatsContainerResponse) -> Any {
    let metrics = metrics::Metrics {
        pids: MessageField::from_option(stats.pids.into_option().map(pids)),
        cpu: MessageField::from_option(stats.cpu.into_option().map(cpu)),
        memory_events: MessageField::from_option(stats.memory.as_ref().map(memory_events)),
        memory: MessageField::from_option(stats.memory.into_option().map(memory)),
        io: MessageField::some(metrics::IOStat {
            usage: stats.io.into_iter().take(MAX_DISKS).map(io).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    Any {
        type_url: TYPE_URL.to_owned(),
        value: metrics.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

fn pids(stats: PidsStats) -> metrics::PidsStat {
    metrics::PidsStat {
        current: stats.current,
        limit: stats.limit,
        ..Default::default()
    }
}

fn cpu(stats: CpuStats) -> metrics::CPUStat {
    metrics::CPUStat {
        usage_usec: stats.usage_usec,
        user_usec: stats.user_usec,
        system_usec: stats.system_usec,
        nr_periods: stats.nr_periods,
        nr_throttled: stats.nr_throttled,
        throttled_usec: stats.throttled_usec,
        ..Default::default()
    }
}

fn io(stats: IoStats) -> metrics::IOEntry {
    metrics::IOEntry {
        major: stats.major,
        minor: stats.minor,
        rbytes: stats.rbytes,
        wbytes: stats.wbytes,
        rios: stats.rios,
        wios: stats.wios,
        ..Default::default()
    }
}

fn memory_events(stats: &MemoryStats) -> metrics::MemoryEvents {
    let of = |key: &str| stats.events.get(key).copied().unwrap_or_default();
    metrics::MemoryEvents {
        low: of("low"),
        high: of("high"),
        max: of("max"),
        oom: of("oom"),
        oom_kill: of("oom_kill"),
        oom_group_kill: of("oom_group_kill"),
        ..Default::default()
    }
}

fn memory(stats: MemoryStats) -> metrics::MemoryStat {
    let of = |key: &str| stats.stat.get(key).copied().unwrap_or_default();
    metrics::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        workingset_refault: of("workingset_refault"),
        workingset_activate: of("workingset_activate"),
        workingset_nodereclaim: of("workingset_nodereclaim"),
        pgrefill: of("pgrefill"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgactivate: of("pgactivate"),
        pgdeactivate: of("pgdeactivate"),
        pglazyfree: of("pglazyfree"),
        pglazyfreed: of("pglazyfreed"),
        thp_fault_alloc: of("thp_fault_alloc"),
        thp_collapse_alloc: of("thp_collapse_alloc"),
        usage: stats.usage,
        usage_limit: stats.usage_limit,
        swap_usage: stats.swap_usage,
        swap_limit: stats.swap_limit,
        max_usage: stats.max_usage,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_disks_are_told_of_as_a_vm_can_have() {
        let stats = StatsContainerResponse {
            io: vec![IoStats::default(); 100_000],
            ..Default::default()
        };
        let metrics = metrics::Metrics::parse_from_bytes(&pack(stats).value).unwrap();
        assert_eq!(metrics.io.usage.len(), MAX_DISKS);
    }

    #[test]
    fn figures_keep_their_places() {
        let stats = StatsContainerResponse {
            memory: protobuf::MessageField::some(MemoryStats {
                usage: 7,
                stat: [("anon".to_owned(), 5)].into(),
                events: [("oom_kill".to_owned(), 1)].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let any = pack(stats);
        assert_eq!(any.type_url, TYPE_URL);
        let metrics = metrics::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.memory.usage, 7);
        assert_eq!(metrics.memory.anon, 5);
        assert_eq!(metrics.memory_events.oom_kill, 1);
    }
}
