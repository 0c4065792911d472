//! Inputs out of inputs.

/// Makes new inputs of old ones. The same seed makes the same inputs.
#[derive(Debug, Clone)]
pub struct Mutator {
    state: u64,
}

/// Longest input, in bytes.
const MAX_LENGTH: usize = 64 << 10;
/// Values at which numbers break.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

impl Mutator {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed | 1 }
    }

    /// A number (xorshift64*).
    pub fn number(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 => 0,
            bound => (self.number() % bound as u64) as usize,
        }
    }

    /// A new input of one of `corpus`.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = match corpus.is_empty() {
            true => Vec::new(),
            false => corpus[self.below(corpus.len())].clone(),
        };
        for _ in 0..1 + self.below(8) {
            self.step(&mut input, corpus);
        }
        input.truncate(MAX_LENGTH);
        input
    }

    fn step(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(8) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << (self.number() % 8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.number() as u8;
                }
            }
            2 => input.truncate(at),
            3 => {
                let count = self.below(16);
                let bytes: Vec<u8> = (0..count).map(|_| self.number() as u8).collect();
                input.splice(at..at, bytes);
            }
            4 => {
                let end = (at + self.below(64)).min(input.len());
                let part = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, part);
            }
            5 => {
                let end = (at + self.below(32)).min(input.len());
                input.drain(at..end);
            }
            6 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let width = 1 << self.below(4);
                for (byte, value) in input.iter_mut().skip(at).zip(&edge[..width]) {
                    *byte = *value;
                }
            }
            _ => {
                if let Some(other) = corpus.get(self.below(corpus.len())) {
                    let from = self.below(other.len() + 1);
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let corpus = vec![b"hello world".to_vec(), vec![0; 100]];
        let make = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..100).map(|_| mutator.next(&corpus)).collect::<Vec<_>>()
        };
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
        assert!(make(7).iter().all(|input| input.len() <= MAX_LENGTH));
    }
}
