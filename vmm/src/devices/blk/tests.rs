//! A driver, good and bad, against disks made of temporary files.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use hull_vm_config::control::DiskEngine;
use hull_vm_config::{BlockConfig, Extent, FdName};
use proptest::prelude::*;

use super::disk::{ExtentTable, SECTOR};
use super::request::kind;
use super::Blk;
use crate::devices::mmio::reg;
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part, Used, NEXT, WRITE};
use crate::devices::virtio::{DeviceError, F_EVENT_IDX};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Who carries requests out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Ring,
    Thread,
}

/// Each of these is a test of both engines.
macro_rules! of_both_engines {
    ($($name:ident)*) => {
        mod ring {
            $(#[test] fn $name() { super::$name(super::By::Ring) })*
        }
        mod thread {
            $(#[test] fn $name() { super::$name(super::By::Thread) })*
        }
    };
}

mod model;
mod under_way;

/// A disk of one file that starts as given and is `sectors` long for the guest.
fn disk(by: By, content: &[u8], sectors: u64, read_only: bool) -> (Blk, File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let copy = file.try_clone().unwrap();
    let extents = vec![extent("disk", 0, sectors * SECTOR)];
    let blk = blk(by, extents, read_only, |_| file.try_clone().unwrap()).unwrap();
    (blk, copy)
}

/// A writable disk of one file.
pub(crate) fn on_file(by: By, file: File, sectors: u64) -> Blk {
    let extents = vec![extent("disk", 0, sectors * SECTOR)];
    blk(by, extents, false, |_| file.try_clone().unwrap()).unwrap()
}

fn extent(name: &str, offset: u64, length: u64) -> Extent {
    Extent {
        fd: FdName::from(name),
        offset,
        length,
    }
}

fn blk(
    by: By,
    extents: Vec<Extent>,
    read_only: bool,
    open: impl Fn(&FdName) -> File,
) -> Result<Blk, DeviceError> {
    let config = BlockConfig {
        extents,
        read_only,
        serial: "hull-scratch".into(),
    };
    let mut open = |name: &FdName| Ok(Arc::new(open(name).into()));
    let blk = Blk::new(&config, by == By::Ring, &mut open)?;
    let (engine, why) = blk.engine().unwrap();
    let want = match by {
        By::Ring => DiskEngine::IoUring,
        By::Thread => DiskEngine::Synchronous,
    };
    assert_eq!(engine, want, "this host: {why:?}");
    Ok(blk)
}

/// A guest whose driver accepts what is offered and in `mask`.
fn start_with(blk: Blk, mask: u64) -> Guest<Blk> {
    let mut guest = Guest::new(blk);
    guest.started();
    guest.drive(mask);
    guest
}

pub(crate) fn start(blk: Blk) -> Guest<Blk> {
    start_with(blk, u64::MAX)
}

fn header(kind: u32, sector: u64) -> Part {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    Part::Out(bytes)
}

/// Submits a request; returns the data that came back and the status.
fn request(guest: &mut Guest<Blk>, parts: Vec<Part>) -> (Vec<u8>, u8) {
    let sent = guest.submit(0, parts);
    let used = guest.used(0);
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].head, sent.head);
    let mut answer = guest.answer(&sent);
    assert!(used[0].len as usize <= answer.len());
    let status = answer.pop().unwrap();
    (answer, status)
}

fn read_parts(sector: u64, bytes: usize) -> Vec<Part> {
    vec![header(kind::IN, sector), Part::In(bytes), Part::In(1)]
}

fn write_parts(sector: u64, bytes: Vec<u8>) -> Vec<Part> {
    vec![header(kind::OUT, sector), Part::Out(bytes), Part::In(1)]
}

fn read(guest: &mut Guest<Blk>, sector: u64, bytes: usize) -> (Vec<u8>, u8) {
    request(guest, read_parts(sector, bytes))
}

fn write(guest: &mut Guest<Blk>, sector: u64, bytes: Vec<u8>) -> u8 {
    request(guest, write_parts(sector, bytes)).1
}

of_both_engines! {
    what_was_written_is_read_back
    read_past_the_end_of_a_short_file_is_zero
    requests_beyond_the_disk_fail
    a_read_only_disk_takes_no_change
    discarded_and_zeroed_ranges_read_as_zero_and_free_their_blocks
    the_serial_number_is_told
    any_framing_is_understood
    chains_without_room_for_an_answer_are_given_back
    malformed_chains_do_no_harm
    a_full_queue_is_served_in_one_kick_with_and_without_event_index
    a_driver_that_does_not_flush_is_written_through
    a_composite_disk_shows_its_extents_one_after_another
    a_restored_disk_goes_on_where_it_was
    errors_of_a_file_are_answers
}

fn what_was_written_is_read_back(by: By) {
    let (blk, file) = disk(by, &[], 64, false);
    let mut guest = start(blk);
    let data: Vec<u8> = (0..4096u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(write(&mut guest, 3, data.clone()), OK);
    assert_eq!(read(&mut guest, 3, 4096), (data.clone(), OK));
    let mut on_disk = vec![0; 4096];
    file.read_exact_at(&mut on_disk, 3 * SECTOR).unwrap();
    assert_eq!(on_disk, data);
    let flush = vec![header(kind::FLUSH, 0), Part::In(1)];
    assert_eq!(request(&mut guest, flush).1, OK);
    assert!(guest.interrupts() > 0);
}

fn read_past_the_end_of_a_short_file_is_zero(by: By) {
    let (blk, _file) = disk(by, &[7; 700], 4, true);
    let mut guest = start(blk);
    let (data, status) = read(&mut guest, 0, 2048);
    assert_eq!(status, OK);
    assert_eq!(&data[..700], &[7; 700]);
    assert_eq!(&data[700..], &[0; 1348]);
}

fn requests_beyond_the_disk_fail(by: By) {
    let (blk, _file) = disk(by, &[1; 4096], 8, false);
    let mut guest = start(blk);
    for sector in [8, 9, 1 << 40, u64::MAX, u64::MAX / SECTOR] {
        assert_eq!(read(&mut guest, sector, 512).1, IOERR, "{sector}");
        assert_eq!(write(&mut guest, sector, vec![0; 512]), IOERR, "{sector}");
    }
    assert_eq!(read(&mut guest, 7, 1024).1, IOERR);
    assert_eq!(read(&mut guest, 7, 512), (vec![1; 512], OK));
    assert_eq!(read(&mut guest, 0, 100).1, IOERR);
    assert_eq!(write(&mut guest, 0, vec![0; 513]), IOERR);
    assert_eq!(read(&mut guest, 0, 17 << 20).1, IOERR);
}

fn a_read_only_disk_takes_no_change(by: By) {
    let (blk, file) = disk(by, &[5; 4096], 8, true);
    let mut guest = start(blk);
    assert_ne!(guest.offered() & (1 << 5), 0);
    assert_eq!(guest.offered() & (1 << 13 | 1 << 14), 0);
    assert_eq!(write(&mut guest, 0, vec![0; 512]), IOERR);
    assert_eq!(segment(&mut guest, kind::DISCARD, 0, 8, 0), IOERR);
    assert_eq!(segment(&mut guest, kind::WRITE_ZEROES, 0, 8, 0), IOERR);
    let mut content = vec![0; 4096];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, [5; 4096]);
}

fn segment(guest: &mut Guest<Blk>, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    request(guest, vec![header(kind, 0), Part::Out(bytes), Part::In(1)]).1
}

fn discarded_and_zeroed_ranges_read_as_zero_and_free_their_blocks(by: By) {
    let (blk, file) = disk(by, &vec![9; 1 << 20], 2048, false);
    let mut guest = start(blk);
    let before = file.metadata().unwrap().blocks();
    assert_eq!(segment(&mut guest, kind::DISCARD, 0, 1024, 0), OK);
    assert_eq!(read(&mut guest, 8, 512), (vec![0; 512], OK));
    assert!(file.metadata().unwrap().blocks() <= before / 2 + 8);
    assert_eq!(segment(&mut guest, kind::WRITE_ZEROES, 1024, 8, 0), OK);
    assert_eq!(read(&mut guest, 1031, 512), (vec![0; 512], OK));
    assert_eq!(read(&mut guest, 1032, 512), (vec![9; 512], OK));
    assert_eq!(segment(&mut guest, kind::WRITE_ZEROES, 1032, 8, 1), OK);
    assert_eq!(read(&mut guest, 1032, 512), (vec![0; 512], OK));
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    // Flags and ranges that do not exist.
    assert_eq!(segment(&mut guest, kind::DISCARD, 0, 8, 1), UNSUPPORTED);
    assert_eq!(segment(&mut guest, kind::DISCARD, 2040, 9, 0), IOERR);
    assert_eq!(segment(&mut guest, kind::DISCARD, u64::MAX, 1, 0), IOERR);
    assert_eq!(segment(&mut guest, kind::DISCARD, 0, u32::MAX, 0), IOERR);
    let short = vec![
        header(kind::DISCARD, 0),
        Part::Out(vec![0; 15]),
        Part::In(1),
    ];
    assert_eq!(request(&mut guest, short).1, IOERR);
    let many = Part::Out(vec![0; 16 * 17]);
    let many = vec![header(kind::DISCARD, 0), many, Part::In(1)];
    assert_eq!(request(&mut guest, many).1, IOERR);
}

fn the_serial_number_is_told(by: By) {
    let (blk, _file) = disk(by, &[], 8, false);
    let mut guest = start(blk);
    let get = vec![header(kind::GET_ID, 0), Part::In(20), Part::In(1)];
    let (id, status) = request(&mut guest, get);
    assert_eq!(status, OK);
    assert_eq!(id, *b"hull-scratch\0\0\0\0\0\0\0\0");
    let unknown = vec![header(77, 0), Part::In(1)];
    assert_eq!(request(&mut guest, unknown).1, UNSUPPORTED);
}

fn any_framing_is_understood(by: By) {
    let (blk, _file) = disk(by, &[3; 4096], 8, false);
    let mut guest = start(blk);
    // Header cut in three; data and status in one buffer.
    let Part::Out(bytes) = header(kind::IN, 2) else {
        unreachable!()
    };
    let cut = |range: std::ops::Range<usize>| Part::Out(bytes[range].to_vec());
    let parts = vec![cut(0..1), cut(1..9), cut(9..16), Part::In(513)];
    assert_eq!(request(&mut guest, parts), (vec![3; 512], OK));
    // Header and data in one buffer.
    let Part::Out(mut bytes) = header(kind::OUT, 2) else {
        unreachable!()
    };
    bytes.extend([4; 512]);
    let parts = vec![Part::Out(bytes), Part::In(1)];
    assert_eq!(request(&mut guest, parts).1, OK);
    assert_eq!(read(&mut guest, 2, 512), (vec![4; 512], OK));
}

fn chains_without_room_for_an_answer_are_given_back(by: By) {
    let (blk, _file) = disk(by, &[], 8, false);
    let mut guest = start(blk);
    let sent = guest.submit(0, vec![header(kind::FLUSH, 0)]);
    let back = |head| [Used { head, len: 0 }];
    assert_eq!(guest.used(0), back(sent.head));
    // Only a status: the header is missing.
    let sent = guest.submit(0, vec![Part::In(1)]);
    assert_eq!(guest.answer(&sent), [IOERR]);
    assert_eq!(guest.used(0).len(), 1);
    // The header is write-only.
    let sent = guest.submit(0, vec![Part::In(16), Part::In(512), Part::In(1)]);
    assert_eq!(guest.answer(&sent).last(), Some(&IOERR));
    assert_eq!(guest.used(0).len(), 1);
    // Zero lengths.
    let inside = guest.alloc(16);
    let head = guest.offer(0, &[(inside, 0, NEXT, 1), (inside, 0, WRITE, 0)]);
    guest.kick();
    assert_eq!(guest.used(0), back(head));
}

fn malformed_chains_do_no_harm(by: By) {
    let (blk, _file) = disk(by, &[6; 4096], 8, false);
    let mut guest = start(blk);
    malformed_chains(&mut guest, 0);
    broken_rings(&mut guest, 0);
    assert_eq!(read(&mut guest, 0, 512), (vec![6; 512], OK));
}

fn a_full_queue_is_served_in_one_kick_with_and_without_event_index(by: By) {
    for mask in [u64::MAX, !F_EVENT_IDX] {
        let (blk, _file) = disk(by, &[6; 4096], 8, false);
        let mut guest = start_with(blk, mask);
        for round in 0..20 {
            guest.interrupts();
            for _ in 0..5 {
                guest.prepare(0, vec![header(kind::IN, 0), Part::In(512), Part::In(1)]);
            }
            guest.kick();
            assert_eq!(guest.used(0).len(), 5, "round {round}");
            assert_eq!(guest.interrupts(), 1);
        }
    }
}

fn a_driver_that_does_not_flush_is_written_through(by: By) {
    let (blk, _file) = disk(by, &[6; 4096], 8, false);
    let mut guest = start_with(blk, !(1 << 9));
    assert_eq!(write(&mut guest, 0, vec![1; 512]), OK);
}

#[test]
fn an_unused_slot_is_a_disk_without_sectors() {
    let mut guest = start(Blk::empty(true));
    assert_eq!(guest.get(0x100), 0);
    assert_eq!(read(&mut guest, 0, 512).1, IOERR);
}

#[test]
fn wrong_configurations_are_refused() {
    let open = |_: &FdName| tempfile::tempfile().unwrap();
    assert!(blk(By::Ring, vec![], false, open).is_err());
    assert!(blk(By::Ring, vec![extent("a", 0, 0)], false, open).is_err());
    assert!(blk(By::Ring, vec![extent("a", 0, 100)], false, open).is_err());
    assert!(blk(By::Ring, vec![extent("a", 1, 512)], false, open).is_err());
    let huge = 1 << 62;
    let two = vec![extent("a", 0, huge), extent("a", 0, huge)];
    assert!(blk(By::Ring, two, false, open).is_err());
    let config = BlockConfig {
        extents: vec![extent("a", 0, 512)],
        read_only: true,
        serial: "x".repeat(21),
    };
    let error = Blk::new(&config, true, &mut |name| Ok(Arc::new(open(name).into())));
    assert!(error.is_err());
}

fn a_composite_disk_shows_its_extents_one_after_another(by: By) {
    let first: Vec<u8> = (0..4u8).flat_map(|i| [i; 512]).collect();
    let second: Vec<u8> = (10..14u8).flat_map(|i| [i; 512]).collect();
    let make = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    };
    let (a, b) = (make(&first), make(&second));
    let extents = vec![
        extent("a", 1024, 1024),
        extent("b", 512, 512),
        extent("a", 0, 512),
        extent("b", 1536, 1024),
    ];
    let open = |name: &FdName| match name.0.as_str() {
        "a" => a.try_clone().unwrap(),
        _ => b.try_clone().unwrap(),
    };
    let blk = blk(by, extents, false, open).unwrap();
    let mut guest = start(blk);
    let (data, status) = read(&mut guest, 0, 6 * 512);
    assert_eq!(status, OK);
    let sectors: Vec<u8> = data.chunks(512).map(|sector| sector[511]).collect();
    assert_eq!(sectors, [2, 3, 11, 0, 13, 0]);
    assert_eq!(write(&mut guest, 1, vec![42; 3 * 512]), OK);
    let mut byte = [0];
    for (file, at) in [(&a, 1536), (&b, 512), (&a, 0)] {
        file.read_exact_at(&mut byte, at).unwrap();
        assert_eq!(byte, [42]);
    }
}

fn a_restored_disk_goes_on_where_it_was(by: By) {
    let (blk, file) = disk(by, &[6; 4096], 8, false);
    let mut guest = start(blk);
    for sector in 0..5 {
        assert_eq!(write(&mut guest, sector, vec![sector as u8; 512]), OK);
    }
    // Offered before the pause, served after it.
    guest.paused = true;
    let parts = vec![header(kind::IN, 3), Part::In(512), Part::In(1)];
    let sent = guest.submit(0, parts);
    assert!(guest.used(0).is_empty());
    let extents = vec![extent("disk", 0, 16 * SECTOR)];
    let larger = super::tests::blk(by, extents, false, |_| file.try_clone().unwrap());
    let mut guest = guest.restored(larger.unwrap()).unwrap();
    assert_eq!(guest.used(0).len(), 1);
    assert_eq!(guest.answer(&sent)[..512], [3; 512]);
    // The disk behind it has grown: the driver is told.
    assert_eq!(guest.get(reg::INTERRUPT_STATUS) & 2, 2);
    assert_eq!(guest.get(reg::CONFIG_GENERATION), 1);
    assert_eq!(guest.get(reg::CONFIG), 16);
    assert_eq!(write(&mut guest, 15, vec![1; 512]), OK);
    // A driver that uses discard cannot go on with a disk that has none.
    assert!(guest.restored(Blk::empty(true)).is_err());
}

/// A file that can't be written, and one that can't be read.
fn errors_of_a_file_are_answers(by: By) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let mut options = File::options();
    let unreadable = options.write(true).open(file.path()).unwrap();
    let unwritable = File::open(file.path()).unwrap();
    for (file, read_status, write_status) in [(unreadable, IOERR, OK), (unwritable, OK, IOERR)] {
        let mut guest = start(on_file(by, file, 8));
        assert_eq!(read(&mut guest, 0, 1024).1, read_status);
        assert_eq!(write(&mut guest, 0, vec![0; 1024]), write_status);
        let zeroed = segment(&mut guest, kind::WRITE_ZEROES, 0, 2, 0);
        assert_eq!(zeroed, write_status);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_cover_exactly_what_was_asked_for(
        extents in prop::collection::vec((0usize..4, 0u64..50, 1u64..20), 1..20),
        start in 0u64..400,
        length in 0u64..400,
    ) {
        let mut table = ExtentTable::default();
        let mut model = Vec::new();
        for (file, offset, sectors) in extents {
            table.push(file, offset * SECTOR, sectors * SECTOR).unwrap();
            model.extend((0..sectors).map(|i| (file, offset + i)));
        }
        prop_assert_eq!(table.length(), model.len() as u64 * SECTOR);
        let (from, count) = (start * SECTOR, length * SECTOR);
        let fits = start + length <= model.len() as u64;
        prop_assert_eq!(table.holds(from, count), fits);
        if fits {
            let found: Vec<_> = table
                .pieces(from, count)
                .flat_map(|p| {
                    (0..p.length / SECTOR).map(move |i| (p.file, p.offset / SECTOR + i))
                })
                .collect();
            prop_assert_eq!(&found, &model[start as usize..(start + length) as usize]);
            prop_assert!(table.pieces(from, count).all(|p| p.length > 0));
        }
    }
}

/// All tables of three extents of up to three sectors, and all ranges of each.
#[test]
fn every_small_table_shows_exactly_its_extents() {
    let lengths = || (1..=3u64).flat_map(|length| (0..3u64).map(move |offset| (offset, length)));
    let pairs = || lengths().flat_map(|a| lengths().map(move |b| (a, b)));
    for ((one, two), three) in pairs().flat_map(|pair| lengths().map(move |c| (pair, c))) {
        let (mut table, mut model) = (ExtentTable::default(), Vec::new());
        for (file, (offset, length)) in [one, two, three].into_iter().enumerate() {
            table.push(file, offset * SECTOR, length * SECTOR).unwrap();
            model.extend((0..length).map(|sector| (file, offset + sector)));
        }
        for start in 0..=model.len() {
            for end in start..=model.len() + 1 {
                let (from, count) = (start as u64 * SECTOR, (end - start) as u64 * SECTOR);
                assert_eq!(table.holds(from, count), end <= model.len());
                let sectors = table.pieces(from, count).flat_map(|piece| {
                    let sector = move |at| (piece.file, piece.offset / SECTOR + at);
                    (0..piece.length / SECTOR).map(sector)
                });
                let found: Vec<_> = sectors.collect();
                assert_eq!(found, model[start..end.min(model.len())]);
            }
        }
    }
}

#[test]
fn ranges_at_the_end_of_all_numbers_lie_on_no_disk() {
    let mut table = ExtentTable::default();
    table.push(0, 0, SECTOR).unwrap();
    for (start, length) in [
        (u64::MAX, 1),
        (u64::MAX - SECTOR, 2 * SECTOR),
        (1, u64::MAX),
        (0, u64::MAX),
    ] {
        assert!(!table.holds(start, length));
        assert!(table.pieces(start, length).count() <= 1);
    }
    let last = i64::MAX as u64 / SECTOR * SECTOR;
    assert!(table.push(0, last, SECTOR).is_err());
}
