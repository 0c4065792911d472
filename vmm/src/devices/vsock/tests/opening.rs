//! Connections: how they come to be, and what is refused.

use super::*;

#[test]
fn a_header_survives_its_encoding() {
    let header = Header {
        src_cid: 1,
        dst_cid: u64::MAX,
        src_port: 3,
        dst_port: 4,
        len: 5,
        kind: 6,
        op: 7,
        flags: 8,
        buf_alloc: 9,
        fwd_cnt: 10,
    };
    assert_eq!(Header::decode(&header.encode()), header);
}

#[test]
fn connections_wait_for_the_agent() {
    let mut driver = Driver::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    driver.guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
    ours.write_all(b"early").unwrap();
    driver.guest.kick();
    assert!(driver.packets().is_empty());
    assert!(!driver.guest.device().ready());
    driver.knock();
    assert!(driver.guest.device().ready());
    let packets = driver.packets();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[0].0.op, op::RST);
    let request = packets[1].0;
    assert_eq!(request.op, op::REQUEST);
    driver.send(header(op::RESPONSE, PORT, request.src_port), &[]);
    assert_eq!(driver.packet().1, b"early");
}

#[test]
fn the_guest_cannot_connect() {
    let mut driver = Driver::new();
    for port in [0, 2, 1024, u32::MAX] {
        driver.send(header(op::REQUEST, 77, port), &[]);
        let (reset, _) = driver.packet();
        assert_eq!(reset.op, op::RST);
        assert_eq!((reset.src_port, reset.dst_port), (port, 77));
    }
    assert!(!driver.guest.device().ready());
}

#[test]
fn a_refused_connection_is_closed() {
    let mut driver = Driver::ready();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    driver.guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
    let (request, _) = driver.packet();
    driver.send(header(op::RST, PORT, request.src_port), &[]);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}
