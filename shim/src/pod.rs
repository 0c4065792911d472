//! Pods, as the makers of Kubernetes' containers describe them in annotations, and containers that
//! join another one's VM.

use std::collections::HashMap;

use crate::annotations::JOIN;

/// How containerd's CRI plugin and CRI-O say what a container is of a pod, and of which.
const ANNOTATIONS: [(&str, &str); 2] = [
    (
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
    ),
    (
        "io.kubernetes.cri-o.ContainerType",
        "io.kubernetes.cri-o.SandboxID",
    ),
];

/// What a container is of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It has nothing to do with one.
    None,
    /// The first: the VM is its.
    Sandbox,
    /// One more, in the VM of this sandbox.
    Member(String),
}

impl Role {
    /// Reads the annotations of a configuration.
    pub fn of(annotations: Option<&HashMap<String, String>>) -> Self {
        let value = |key: &str| annotations.and_then(|all| all.get(key));
        for (kind, sandbox) in ANNOTATIONS {
            match (value(kind).map(String::as_str), value(sandbox)) {
                (Some("sandbox"), _) => return Self::Sandbox,
                (Some("container"), Some(sandbox)) => return Self::Member(sandbox.clone()),
                _ => {}
            }
        }
        match value(JOIN) {
            Some(other) => Self::Member(other.clone()),
            None => Self::None,
        }
    }
}

/// What all containers of a pod may use together, as containerd's CRI plugin passes it on from the
/// kubelet. Zero, or what is no number, is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// CPU time in microseconds of each period.
    pub cpu_quota: Option<i64>,
    /// Length of a period, in microseconds.
    pub cpu_period: Option<u64>,
}

impl Limits {
    /// Reads the annotations of a pod's first container.
    pub fn of(annotations: Option<&HashMap<String, String>>) -> Self {
        if Role::of(annotations) != Role::Sandbox {
            return Self::default();
        }
        let value = |name: &str| {
            let key = format!("io.kubernetes.cri.sandbox-{name}");
            let number: i64 = annotations?.get(&key)?.parse().ok()?;
            Some(number).filter(|number| 0 < *number)
        };
        Self {
            memory: value("memory"),
            cpu_quota: value("cpu-quota"),
            cpu_period: value("cpu-period").and_then(|period| u64::try_from(period).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pods_first_container_tells_the_pods_limits() {
        let limits = |kind: &str| {
            let all = [
                (ANNOTATIONS[0].0, kind),
                (ANNOTATIONS[0].1, "a"),
                ("io.kubernetes.cri.sandbox-memory", "1073741824"),
                ("io.kubernetes.cri.sandbox-cpu-quota", "150000"),
                ("io.kubernetes.cri.sandbox-cpu-period", "0"),
            ];
            Limits::of(Some(&all.map(|(k, v)| (k.into(), v.into())).into()))
        };
        let pod = limits("sandbox");
        assert_eq!((pod.memory, pod.cpu_quota), (Some(1 << 30), Some(150_000)));
        assert_eq!(pod.cpu_period, None);
        assert_eq!(limits("container"), Limits::default());
    }

    #[test]
    fn a_role_is_what_the_annotations_say() {
        let role = |all: &[(&str, &str)]| {
            let all = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Role::of(Some(&all.collect()))
        };
        let (kind, sandbox) = ANNOTATIONS[0];
        assert_eq!(role(&[(kind, "sandbox"), (sandbox, "a")]), Role::Sandbox);
        let member = role(&[(kind, "container"), (sandbox, "a")]);
        assert_eq!(member, Role::Member("a".into()));
        assert_eq!(role(&[(kind, "container")]), Role::None);
        let (kind, sandbox) = ANNOTATIONS[1];
        assert_ne!(role(&[(kind, "container"), (sandbox, "b")]), Role::None);
        assert_eq!(role(&[(JOIN, "c")]), Role::Member("c".into()));
        assert_eq!(Role::of(None), Role::None);
    }
}
