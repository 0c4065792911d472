//! The corpus, and a fixed set of inputs near it, through every target.

use std::time::{Duration, Instant};

use hull_fuzz::{corpus, corpus_root, Mutator, TARGETS};

/// Mutated inputs of each target; the same each time.
const NEAR: usize = 300;
/// What one input may take: time, for a busy machine, and memory in KiB.
const TIME: Duration = Duration::from_secs(10);
const MEMORY_KIB: u64 = 256 << 10;

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap()
}

#[test]
fn every_target_takes_its_corpus_and_what_is_near() {
    for target in TARGETS {
        let corpus = corpus(target).unwrap();
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        let mut mutator = Mutator::new(0x4855_4c4c);
        let near = (0..NEAR).map(|_| mutator.next(&corpus));
        for input in corpus.iter().cloned().chain(near) {
            let (begun, before) = (Instant::now(), peak_kib());
            let ran = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(ran.is_ok(), "{} fails on {input:02x?}", target.name);
            let (took, grown) = (begun.elapsed(), peak_kib() - before);
            assert!(
                took < TIME && grown < MEMORY_KIB,
                "{} takes {took:?} and {grown} KiB for {input:02x?}",
                target.name
            );
        }
    }
}

#[test]
fn every_corpus_has_its_target() {
    for entry in std::fs::read_dir(corpus_root()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            TARGETS.iter().any(|target| name == target.name),
            "{name:?} belongs to no target"
        );
    }
}
