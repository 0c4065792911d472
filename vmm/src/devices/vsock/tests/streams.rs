//! Bytes in both directions, credit, and buffers that run out.

use super::*;

#[test]
fn bytes_go_both_ways() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    ours.write_all(b"to the guest").unwrap();
    driver.guest.run();
    let (packet, body) = driver.packet();
    assert_eq!((packet.op, packet.src_port), (op::RW, port));
    assert_eq!(body, b"to the guest");
    driver.send(data(port, b"to the host"), b"to the host");
    assert_eq!(drain(&mut ours), b"to the host");
}

#[test]
fn a_large_write_fills_many_buffers_and_stops_at_the_credit() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    let sent: Vec<u8> = (0..150_000u32).map(|i| (i % 253) as u8).collect();
    let mut writer = ours.try_clone().unwrap();
    writer.write_all(&sent[..100_000]).unwrap();
    driver.guest.run();
    let mut got: Vec<u8> = driver.packets().into_iter().flat_map(|p| p.1).collect();
    assert_eq!(got.len(), 64 << 10, "as much as was granted");
    let update = Header {
        fwd_cnt: 64 << 10,
        ..header(op::CREDIT_UPDATE, PORT, port)
    };
    driver.send(update, &[]);
    got.extend(driver.packets().into_iter().flat_map(|p| p.1));
    assert_eq!(got.len(), 100_000);
    ours.write_all(&sent[100_000..]).unwrap();
    driver.guest.run();
    let update = Header {
        fwd_cnt: 100_000,
        ..header(op::CREDIT_UPDATE, PORT, port)
    };
    got.extend(driver.packets().into_iter().flat_map(|p| p.1));
    driver.send(update, &[]);
    got.extend(driver.packets().into_iter().flat_map(|p| p.1));
    assert!(got == sent);
}

#[test]
fn a_reader_that_does_not_read_stops_the_guest_by_credit() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    let chunk = vec![7; 16 << 10];
    // The socket's own buffer and 256 KiB of ours.
    let mut sent = 0u32;
    let mut acknowledged = 0;
    while sent - acknowledged + chunk.len() as u32 <= 256 << 10 {
        driver.send(data(port, &chunk), &chunk);
        sent += chunk.len() as u32;
        for (packet, _) in driver.packets() {
            assert_eq!(packet.op, op::CREDIT_UPDATE);
            acknowledged = packet.fwd_cnt;
        }
    }
    assert!(sent >= 256 << 10);
    // Reading lets the rest flow, and tells the guest.
    let mut got = 0;
    loop {
        let bytes = drain(&mut ours).len();
        driver.guest.run();
        if bytes == 0 {
            break;
        }
        got += bytes;
    }
    assert_eq!(got, sent as usize);
    let (update, _) = driver.packets().pop().unwrap();
    assert!(update.fwd_cnt > sent - (128 << 10));
}

#[test]
fn without_buffers_nothing_is_lost() {
    let mut driver = Driver {
        guest: Guest::start(Vsock::new(CID)),
        buffers: Vec::new(),
    };
    driver.knock();
    driver.offer_buffers(2);
    assert_eq!(driver.packet().0.op, op::RST);
    let (mut ours, port) = driver.connect();
    let sent: Vec<u8> = (0..40_000u32).map(|i| (i % 247) as u8).collect();
    ours.write_all(&sent).unwrap();
    driver.guest.run();
    let got: Vec<u8> = driver.packets().into_iter().flat_map(|p| p.1).collect();
    assert!(got == sent);
    driver.send(header(op::CREDIT_REQUEST, PORT, port), &[]);
    assert_eq!(driver.packet().0.op, op::CREDIT_UPDATE);
}

#[test]
fn what_is_owed_stays_owed_until_there_is_a_buffer() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    // All of the credit and all of the buffers are used up.
    const CREDIT: u32 = 12 * 4096;
    let narrow = |packet: Header| Header {
        buf_alloc: CREDIT,
        ..packet
    };
    driver.send(narrow(header(op::CREDIT_UPDATE, PORT, port)), &[]);
    ours.write_all(&[0; CREDIT as usize]).unwrap();
    driver.guest.run();
    assert_eq!(driver.guest.used(0).len(), 12);
    driver.buffers.clear();
    let chunk = vec![1; 50_000];
    for _ in 0..3 {
        driver.send(narrow(data(port, &chunk)), &chunk);
        assert_eq!(drain(&mut ours).len(), 50_000);
    }
    driver.guest.kick();
    assert!(driver.guest.used(0).is_empty());
    driver.offer_buffers(12);
    let (update, _) = driver.packet();
    assert_eq!((update.op, update.fwd_cnt), (op::CREDIT_UPDATE, 150_000));
}

#[test]
fn a_guest_that_never_reads_its_resets_waits() {
    let mut driver = Driver {
        guest: Guest::start(Vsock::new(CID)),
        buffers: Vec::new(),
    };
    let mut taken = 0;
    for _ in 0..400 {
        let packet = header(op::RW, 1, 2).encode().to_vec();
        driver.guest.submit(1, vec![Part::Out(packet)]);
        let used = driver.guest.used(1).len();
        taken += used;
        if used == 0 {
            break;
        }
    }
    assert_eq!(taken, 256);
    driver.offer_buffers(12);
    assert!(driver.packets().len() >= 256);
    assert_eq!(driver.guest.used(1).len(), 1);
}

#[test]
fn no_connection_starves_another() {
    let mut driver = Driver::ready();
    let (mut greedy, greedy_port) = driver.connect();
    let (mut modest, modest_port) = driver.connect();
    greedy.write_all(&vec![1; 64 << 10]).unwrap();
    modest.write_all(b"me too").unwrap();
    // Twelve buffers at a time: the modest one gets its own before the greedy one is done.
    driver.guest.run();
    let order: Vec<u32> = driver.packets().iter().map(|(p, _)| p.src_port).collect();
    let of = |port| order.iter().rposition(|p| *p == port).unwrap();
    assert!(of(modest_port) < of(greedy_port));
}
