//! Names of interfaces. They carry the engine's tag, so that an engine finds its own ones again, and
//! two engines on one host never meet.

/// Digits of a tag.
const TAG_DIGITS: usize = 5;

/// What tells the interfaces of one engine from another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag(String);

impl Tag {
    /// Of an engine's id.
    pub(super) fn of(engine_id: &str) -> Self {
        Self(engine_id.chars().take(TAG_DIGITS).collect())
    }

    /// The bridge of a network.
    pub(super) fn bridge(&self, network_id: &str) -> String {
        format!("hb{}{}", self.0, prefix(network_id))
    }

    /// The tap of a container's `index`th interface.
    pub(super) fn tap(&self, container_id: &str, index: usize) -> String {
        format!("h{index}{}{}", self.0, prefix(container_id))
    }

    /// The table of packet rules.
    pub(super) fn table(&self) -> String {
        format!("hull-{}", self.0)
    }

    /// Whether an interface is a tap of this engine.
    pub(super) fn is_tap(&self, name: &str) -> bool {
        let rest = name.strip_prefix('h').and_then(|rest| rest.get(1..));
        let numbered = name.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        numbered && rest.is_some_and(|rest| rest.starts_with(&self.0))
    }
}

/// As many digits of an id as fit.
fn prefix(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_an_interface_and_are_told_apart() {
        let tag = Tag::of(&"a1b2c".repeat(13));
        let id = "0123456789abcdef".repeat(4);
        for name in [tag.bridge(&id), tag.tap(&id, 1)] {
            assert!(name.len() <= 15, "{name}");
        }
        assert!(tag.is_tap(&tag.tap(&id, 0)));
        assert!(!tag.is_tap(&tag.bridge(&id)));
        assert!(!Tag::of("fffff").is_tap(&tag.tap(&id, 0)));
        assert!(!tag.is_tap("eth0") && !tag.is_tap("h"));
    }
}
