//! Verbs of docker's that Hull does not have: named, with what to do in their place.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What does it, by verb: `hull VERB: WHY`.
const ABSENT: [(&[&str], &str); 8] = [
    (
        &["build", "builder", "buildx", "bake"],
        "images are not built yet: build with another tool (docker, buildah) and `hull load` the archive, \
         or `hull commit` a container",
    ),
    (
        &["compose"],
        "use docker's own, with DOCKER_HOST=unix:///run/hull/hull.sock",
    ),
    (
        &["swarm", "service", "node", "stack", "secret", "config"],
        "the engine is no manager of a swarm: use docker's engine with Hull as its runtime \
         (docs/engines.md)",
    ),
    (
        &["plugin"],
        "plugins are not installed by the engine: one of volumes that runs beside it is found by its \
         socket (docs/files-and-volumes.md)",
    ),
    (
        &["manifest"],
        "use docker's own, or skopeo or crane: it talks to registries alone",
    ),
    (&["trust"], "signatures of images are not checked"),
    (
        &["checkpoint"],
        "a container's state is not saved to be restored",
    ),
    (
        &["scan", "scout", "sbom"],
        "images are not examined: `hull save` them for a tool that does",
    ),
];

/// What to say of a command line that failed to be read for such a verb.
pub(crate) fn explain(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let (_, why) = ABSENT
        .iter()
        .find(|(verbs, _)| verbs.contains(&verb.as_str()))?;
    Some(format!("{verb} is not there: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> Option<String> {
        let words = ["hull"].iter().chain(words);
        explain(
            &crate::command_line()
                .try_get_matches_from(words)
                .unwrap_err(),
        )
    }

    #[test]
    fn what_is_not_there_is_named() {
        let build = said(&["build", "."]).unwrap();
        assert!(
            build.starts_with("build is not there") && build.contains("hull load"),
            "{build}"
        );
        assert!(said(&["swarm", "init"]).unwrap().contains("engines.md"));
        assert!(said(&["image", "build"]).unwrap().contains("hull load"));
        assert_eq!(said(&["buidl"]), None);
        assert_eq!(said(&["ps", "--no-such"]), None);
    }

    #[test]
    fn what_is_there_is_not_in_the_list() {
        let line = crate::command_line();
        for verb in ABSENT.iter().flat_map(|(verbs, _)| *verbs) {
            assert!(line.find_subcommand(verb).is_none(), "{verb}");
        }
    }
}
