//! Many requests at once, and what becomes of them when the driver or the VM stops.

use super::*;

of_both_engines! {
    a_full_queue_of_large_requests_is_answered_once_each
    a_reset_waits_for_what_is_under_way
    a_queue_that_is_taken_back_gets_no_answer
    a_pause_answers_what_is_under_way
}

/// More than may be under way at once, over many extents.
fn a_full_queue_of_large_requests_is_answered_once_each(by: By) {
    let file = tempfile::tempfile().unwrap();
    let extents = (0..1024u64).rev();
    let extents = extents.map(|n| extent("disk", n * SECTOR, SECTOR));
    let blk = blk(by, extents.collect(), false, |_| file.try_clone().unwrap());
    let mut guest = start(blk.unwrap());
    let content = |n: u64| vec![n as u8 + 1; 200 * SECTOR as usize];
    for n in 0..5 {
        guest.prepare(0, write_parts(n * 200, content(n)));
    }
    guest.kick();
    assert_eq!(guest.used(0).len(), 5);
    let reads: Vec<_> = (0..5u64)
        .map(|n| guest.prepare(0, read_parts(n * 200, content(n).len())))
        .collect();
    guest.kick();
    assert_eq!(guest.used(0).len(), 5);
    for (n, read) in (0..).zip(&reads) {
        let answer = guest.answer(read);
        assert!(answer.starts_with(&content(n)) && answer.ends_with(&[OK]));
    }
    // The last sector of the disk is the first of the file.
    let mut first = [0; 512];
    file.read_exact_at(&mut first, 1023 * SECTOR).unwrap();
    assert_eq!(first, [1; 512]);
}

fn a_reset_waits_for_what_is_under_way(by: By) {
    let (blk, _file) = disk(by, &vec![7; 8 << 20], 16 << 11, false);
    let mut guest = start(blk);
    for round in 0..4 {
        let sent: Vec<_> = (0..4)
            .map(|n| guest.prepare(0, read_parts(n << 11, 1 << 20)))
            .collect();
        guest.prepare(0, write_parts(9 << 11, vec![round; 1 << 20]));
        guest.kick_once();
        guest.set(reg::STATUS, 0);
        // The memory is the driver's again.
        for sent in &sent {
            guest.fill(sent, 0x55);
        }
        std::thread::sleep(Duration::from_millis(2));
        for sent in &sent {
            assert!(guest.answer(sent).iter().all(|byte| *byte == 0x55));
        }
        guest.drive(u64::MAX);
        assert_eq!(read(&mut guest, 3, 512), (vec![7; 512], OK));
    }
}

fn a_queue_that_is_taken_back_gets_no_answer(by: By) {
    let (blk, _file) = disk(by, &vec![7; 8 << 20], 8 << 11, false);
    let mut guest = start(blk);
    guest.prepare(0, write_parts(0, vec![1; 1 << 20]));
    guest.kick_once();
    let used = guest.used(0).len();
    guest.set(reg::QUEUE_SEL, 0);
    guest.set(reg::QUEUE_READY, 0);
    guest.run();
    assert!(used <= 1 && guest.used(0).is_empty());
    guest.drive(u64::MAX);
    assert_eq!(read(&mut guest, 4 << 11, 512), (vec![7; 512], OK));
}

fn a_pause_answers_what_is_under_way(by: By) {
    let (blk, _file) = disk(by, &vec![7; 4 << 20], 4 << 11, false);
    let mut guest = start(blk);
    for n in 0..4 {
        guest.prepare(0, write_parts(n << 11, vec![n as u8; 1 << 20]));
    }
    guest.kick_once();
    guest.pause();
    assert_eq!(guest.used(0).len(), 4);
    guest.resume();
    assert_eq!(read(&mut guest, 3 << 11, 512), (vec![3; 512], OK));
}
