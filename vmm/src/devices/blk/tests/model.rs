//! Random requests against a model of what each sector may hold.

use super::*;

/// A step of a driver that knows what it does.
#[derive(Debug, Clone)]
enum Step {
    Read(u64, u64),
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Flush,
    Kick,
    /// With this many turns of the event loop since the last kick.
    Reset,
    Pause,
}

/// Sectors of the disk.
const MODEL: u64 = 96;

fn step() -> impl Strategy<Value = Step> {
    let range = (0..MODEL - 16, 1..16u64);
    prop_oneof![
        4 => range.clone().prop_map(|(at, count)| Step::Read(at, count)),
        4 => (range.clone(), any::<u8>()).prop_map(|((at, count), byte)| Step::Write(at, count, byte)),
        1 => (range, any::<bool>()).prop_map(|((at, count), how)| Step::Zero(at, count, how)),
        1 => Just(Step::Flush),
        4 => Just(Step::Kick),
        1 => Just(Step::Reset),
        1 => Just(Step::Pause),
    ]
}

/// What each sector may hold: one value, or one of several where writes to it overlap or were
/// forgotten by a reset.
struct Model(Vec<Vec<u8>>);

impl Model {
    fn may_become(&mut self, (at, count): (u64, u64), byte: u8) {
        for sector in &mut self.0[at as usize..(at + count) as usize] {
            sector.push(byte);
        }
    }

    fn became(&mut self, (at, count): (u64, u64), byte: u8) {
        for sector in &mut self.0[at as usize..(at + count) as usize] {
            *sector = vec![byte];
        }
    }

    fn holds(&self, at: u64, data: &[u8]) -> bool {
        let sectors = data.chunks(SECTOR as usize).zip(&self.0[at as usize..]);
        sectors
            .into_iter()
            .all(|(data, may)| may.contains(&data[0]) && data.iter().all(|byte| *byte == data[0]))
    }
}

/// Offers one request, waits for nothing, and tells what it writes.
fn offer(guest: &mut Guest<Blk>, step: &Step) -> Option<((u64, u64), u8)> {
    match *step {
        Step::Write(at, count, byte) => {
            let data = vec![byte; (count * SECTOR) as usize];
            guest.prepare(0, write_parts(at, data));
            Some(((at, count), byte))
        }
        Step::Zero(at, count, unmap) => {
            let mut bytes = at.to_le_bytes().to_vec();
            bytes.extend((count as u32).to_le_bytes());
            bytes.extend(u32::from(unmap).to_le_bytes());
            let parts = vec![header(kind::WRITE_ZEROES, 0), Part::Out(bytes), Part::In(1)];
            guest.prepare(0, parts);
            Some(((at, count), 0))
        }
        Step::Flush => {
            guest.prepare(0, vec![header(kind::FLUSH, 0), Part::In(1)]);
            None
        }
        _ => None,
    }
}

fn model_holds(by: By, steps: Vec<Step>) {
    let (a, b) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let extents = (0..MODEL / 8).map(|n| {
        let name = if n % 3 == 0 { "a" } else { "b" };
        extent(name, n * 8 * SECTOR, 8 * SECTOR)
    });
    let open = |name: &FdName| match name.0.as_str() {
        "a" => a.try_clone().unwrap(),
        _ => b.try_clone().unwrap(),
    };
    let mut guest = start(blk(by, extents.collect(), false, open).unwrap());
    let mut model = Model(vec![vec![0]; MODEL as usize]);
    // Requests of this batch: five descriptors hold one, so three fit the ring.
    let mut batch: Vec<((u64, u64), u8)> = Vec::new();
    let mut offered = 0;
    for step in steps {
        match step {
            Step::Read(at, count) => {
                guest.kick();
                settle(&mut guest, &mut batch, &mut offered, &mut model);
                let (data, status) = read(&mut guest, at, (count * SECTOR) as usize);
                assert_eq!(status, OK);
                assert!(model.holds(at, &data), "{at}: {:?}", &model.0[at as usize]);
            }
            Step::Kick => guest.kick_once(),
            Step::Pause => {
                guest.pause();
                guest.resume();
            }
            Step::Reset => {
                guest.set(reg::STATUS, 0);
                guest.drive(u64::MAX);
                for (range, byte) in batch.drain(..) {
                    model.may_become(range, byte);
                }
                offered = 0;
            }
            change => {
                if offered == 5 {
                    guest.kick();
                    settle(&mut guest, &mut batch, &mut offered, &mut model);
                }
                batch.extend(offer(&mut guest, &change));
                offered += 1;
            }
        }
    }
}

/// All that was offered is answered: what it wrote is there.
fn settle(
    guest: &mut Guest<Blk>,
    batch: &mut Vec<((u64, u64), u8)>,
    offered: &mut usize,
    model: &mut Model,
) {
    assert_eq!(guest.used(0).len(), *offered);
    *offered = 0;
    for (index, (range, byte)) in batch.iter().enumerate() {
        // Where two of a batch overlap, either may come last.
        model.became(*range, *byte);
        for (other, byte) in &batch[..index] {
            let (from, to) = (
                range.0.max(other.0),
                (range.0 + range.1).min(other.0 + other.1),
            );
            if from < to {
                model.may_become((from, to - from), *byte);
            }
        }
    }
    batch.clear();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_ring_keeps_what_was_answered(steps in prop::collection::vec(step(), 1..60)) {
        model_holds(By::Ring, steps);
    }

    #[test]
    fn a_thread_keeps_what_was_answered(steps in prop::collection::vec(step(), 1..60)) {
        model_holds(By::Thread, steps);
    }
}
