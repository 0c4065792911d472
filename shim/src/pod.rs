//! Pods, as the makers of Kubernetes' containers describe them in annotations.

use std::collections::HashMap;

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
        Self::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(Role::of(None), Role::None);
    }
}
