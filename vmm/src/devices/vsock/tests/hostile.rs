//! A guest that breaks the rules.

use super::*;

#[test]
fn a_guest_that_overruns_its_credit_is_reset() {
    let mut driver = Driver::ready();
    let (ours, port) = driver.connect();
    let chunk = vec![7; 60 << 10];
    for _ in 0..20 {
        driver.send(data(port, &chunk), &chunk);
    }
    let packets = driver.packets();
    assert!(packets.iter().any(|(packet, _)| packet.op == op::RST));
    drop(ours);
}

#[test]
fn a_guest_that_lies_is_reset() {
    let ahead = |port| Header {
        fwd_cnt: 1,
        ..header(op::CREDIT_UPDATE, PORT, port)
    };
    let too_long = |port| Header {
        len: 100,
        ..header(op::RW, PORT, port)
    };
    let datagram = |port| Header {
        kind: 2,
        ..header(op::RW, PORT, port)
    };
    let lies: [&dyn Fn(u32) -> Header; 6] = [
        &ahead,
        &too_long,
        &datagram,
        &|port| header(op::RESPONSE, PORT, port),
        &|port| header(op::REQUEST, PORT, port),
        &|port| header(99, PORT, port),
    ];
    for lie in lies {
        let mut driver = Driver::ready();
        let (mut ours, port) = driver.connect();
        driver.send(lie(port), b"");
        assert_eq!(driver.packet().0.op, op::RST);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "the socket is closed");
    }
}

#[test]
fn packets_of_others_and_on_unknown_connections_do_no_harm() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    // Another guest port, a connection that does not exist.
    for (guest_port, host_port) in [(PORT + 1, port), (PORT, port + 1)] {
        driver.send(header(op::RW, guest_port, host_port), &[]);
        assert_eq!(driver.packet().0.op, op::RST);
        driver.send(header(op::RST, guest_port, host_port), &[]);
        assert!(driver.packets().is_empty(), "a reset is never answered");
    }
    // Addresses that are not its own.
    for (src_cid, dst_cid) in [(CID, 5), (9, HOST_CID), (HOST_CID, HOST_CID)] {
        let forged = Header {
            src_cid,
            dst_cid,
            ..header(op::RST, PORT, port)
        };
        driver.send(forged, &[]);
    }
    // A packet shorter than a header.
    driver.guest.submit(1, vec![Part::Out(vec![1; 43])]);
    assert_eq!(driver.guest.used(1).len(), 1);
    assert!(driver.packets().is_empty());
    driver.send(data(port, b"fine"), b"fine");
    assert_eq!(drain(&mut ours), b"fine");
}

#[test]
fn malformed_chains_do_no_harm() {
    for queue in [0, 1] {
        let mut guest = Guest::start(Vsock::new(CID));
        if queue == 0 {
            // Receive buffers are looked at only when there is something to send.
            for _ in 0..200 {
                let (_, theirs) = UnixStream::pair().unwrap();
                guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
            }
            guest.submit(
                1,
                vec![Part::Out(header(op::REQUEST, 1, 1).encode().to_vec())],
            );
        }
        malformed_chains(&mut guest, queue);
        if queue == 1 {
            broken_rings(&mut guest, queue);
        }
    }
}
