//! The corpus, and a fixed set of inputs near it, through every target.

use hull_fuzz::{corpus, corpus_root, Mutator, TARGETS};

/// Mutated inputs of each target; the same each time.
const NEAR: usize = 300;

#[test]
fn every_target_takes_its_corpus_and_what_is_near() {
    for target in TARGETS {
        let corpus = corpus(target).unwrap();
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        let mut mutator = Mutator::new(0x4855_4c4c);
        let near = (0..NEAR).map(|_| mutator.next(&corpus));
        for input in corpus.iter().cloned().chain(near) {
            let ran = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(ran.is_ok(), "{} fails on {input:02x?}", target.name);
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
