//! How connections end: closed by one side, or by a reset or a restored guest.

use super::*;

#[test]
fn half_close_of_the_host_reaches_the_guest() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    ours.write_all(b"last words").unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    driver.guest.run();
    let packets = driver.packets();
    assert_eq!(packets[0].1, b"last words");
    let end = packets[1].0;
    assert_eq!((end.op, end.flags), (op::SHUTDOWN, SHUTDOWN_SEND));
    // The other direction lives.
    driver.send(data(port, b"answer"), b"answer");
    assert_eq!(drain(&mut ours), b"answer");
    driver.send(shutdown(port, SHUTDOWN_BOTH), &[]);
    assert_eq!(driver.packet().0.op, op::RST);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn half_close_of_the_guest_reaches_the_host() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    driver.send(data(port, b"out"), b"out");
    driver.send(shutdown(port, SHUTDOWN_SEND), &[]);
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out");
    ours.write_all(b"in").unwrap();
    driver.guest.run();
    assert_eq!(driver.packet().1, b"in");
    driver.send(shutdown(port, SHUTDOWN_RECEIVE), &[]);
    assert_eq!(driver.packet().0.op, op::RST);
    let error = ours.write(b"more").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_host_that_closes_ends_both_directions() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    ours.write_all(b"bye").unwrap();
    drop(ours);
    driver.guest.run();
    let packets = driver.packets();
    assert_eq!(packets[0].1, b"bye");
    let end = packets[1].0;
    assert_eq!((end.op, end.flags), (op::SHUTDOWN, SHUTDOWN_BOTH));
    // What the guest still sends goes nowhere, and does no harm.
    driver.send(data(port, b"late"), b"late");
    driver.send(header(op::RST, PORT, port), &[]);
    assert!(driver.packets().is_empty());
    driver.send(data(port, b"later"), b"later");
    assert_eq!(driver.packet().0.op, op::RST, "forgotten");
}

#[test]
fn what_the_guest_sent_before_it_closed_is_delivered() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    let chunk = vec![5; 32 << 10];
    let mut sent = 0;
    for _ in 0..8 {
        driver.send(data(port, &chunk), &chunk);
        sent += chunk.len();
    }
    driver.send(shutdown(port, SHUTDOWN_BOTH), &[]);
    assert!(driver.packets().iter().any(|(p, _)| p.op == op::RST));
    let mut got = 0;
    while got < sent {
        got += drain(&mut ours).len();
        driver.guest.run();
    }
    assert_eq!(ours.read(&mut [0]).unwrap(), 0, "then the end");
}

#[test]
fn a_driver_reset_closes_what_the_guest_knew() {
    let mut driver = Driver::ready();
    let (mut ours, _) = driver.connect();
    driver.guest.drive(u64::MAX);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    assert!(!driver.guest.device().ready());
}

#[test]
fn a_pause_loses_nothing() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    driver.guest.paused = true;
    ours.write_all(b"meanwhile").unwrap();
    driver.guest.kick();
    assert!(driver.packets().is_empty());
    driver.guest.paused = false;
    driver.guest.kick();
    let (packet, body) = driver.packet();
    assert_eq!(
        (packet.src_port, body.as_slice()),
        (port, &b"meanwhile"[..])
    );
}

#[test]
fn a_restored_guest_hears_of_the_reset_before_anything_else() {
    let mut vsock = Vsock::new(CID);
    let saved = DeviceState::Vsock {
        ready: true,
        next_port: 1 << 21,
    };
    vsock.restore(&saved).unwrap();
    assert_eq!(vsock.save(), saved);
    let mut driver = Driver {
        guest: Guest::start(vsock),
        buffers: Vec::new(),
    };
    driver.offer_buffers(8);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    driver.guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
    assert!(driver.packets().is_empty());
    let events = [8, 8].map(|len| driver.guest.prepare(2, vec![Part::In(len)]));
    driver.guest.kick();
    let used = driver.guest.used(2);
    assert_eq!((used.len(), used[0].len), (1, 4));
    assert_eq!(driver.guest.answer(&events[0])[..4], [0; 4]);
    driver.guest.kick();
    assert!(driver.packets().is_empty(), "the guest has not acted yet");
    driver.guest.submit(2, vec![Part::In(8)]);
    assert_eq!(driver.packet().0.op, op::REQUEST);
}
