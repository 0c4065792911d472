//! Container names: the rule they follow, and made-up ones.

use crate::ids::fill_random;

const ADJECTIVES: &[&str] = &[
    "able", "agile", "airy", "amber", "apt", "bold", "brave", "bright", "brisk", "calm", "candid",
    "clear", "clever", "cosy", "crisp", "curious", "deft", "eager", "early", "easy", "fair",
    "fast", "fine", "firm", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "happy",
    "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "lucky",
    "mellow", "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky",
    "polite", "proud", "quick", "quiet", "rapid", "ready", "serene", "sharp", "silent", "sleek",
    "smart", "snug", "sober", "solid", "steady", "still", "sunny", "swift", "tidy", "trusty",
    "vivid", "warm", "wise", "witty", "young", "zesty",
];
const NOUNS: &[&str] = &[
    "anchor", "barge", "beacon", "berth", "bow", "breeze", "brig", "buoy", "cabin", "canoe",
    "capstan", "captain", "clipper", "compass", "coracle", "cove", "crane", "crew", "cutter",
    "deck", "dinghy", "dock", "dory", "ferry", "fjord", "fleet", "foghorn", "frigate", "galley",
    "gull", "halyard", "harbour", "heron", "hold", "island", "jetty", "jib", "keel", "ketch",
    "lagoon", "lantern", "lock", "lugger", "mariner", "mast", "mooring", "oar", "otter", "packet",
    "pelican", "pennant", "pier", "pilot", "porthole", "quay", "raft", "reef", "rigging", "rudder",
    "sail", "schooner", "sextant", "skiff", "sloop", "spar", "stern", "tender", "tide", "tiller",
    "trawler", "tug", "voyage", "wharf", "windlass", "yacht", "yawl",
];
const MAX_NAME_LENGTH: usize = 255;

/// A random `adjective_noun`; with `attempt` above zero a digit follows, for when names run out.
pub(crate) fn random(attempt: usize) -> String {
    let mut bytes = [0u8; 6];
    fill_random(&mut bytes);
    let pick = |words: &[&'static str], high: u8, low: u8| {
        words[usize::from(u16::from_be_bytes([high, low])) % words.len()]
    };
    let name = format!(
        "{}_{}",
        pick(ADJECTIVES, bytes[0], bytes[1]),
        pick(NOUNS, bytes[2], bytes[3])
    );
    match attempt {
        0 => name,
        _ => format!("{name}{}", u16::from_be_bytes([bytes[4], bytes[5]])),
    }
}

/// Whether a container may have this name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, at most 255 characters.
pub(crate) fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    2 <= name.len()
        && name.len() <= MAX_NAME_LENGTH
        && bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_names_are_dockers() {
        for good in ["my.app_1-x", "a1", "0x", &"a".repeat(255)] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "a", "-x", "a/b", ".x", "a b", "ü1", &"a".repeat(256)] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn random_names_are_valid() {
        for attempt in 0..50 {
            assert!(is_valid(&random(attempt)));
        }
    }
}
