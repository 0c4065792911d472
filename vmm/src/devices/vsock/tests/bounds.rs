//! Flow control against random packets: its bounds hold, whatever comes.

use proptest::prelude::*;

use super::super::flow::{Flow, Phase, Verdict};
use super::*;

fn any_packet() -> impl Strategy<Value = Header> {
    let small = prop_oneof![Just(0u32), 0u32..100_000, any::<u32>()];
    (0u16..9, small.clone(), 0u32..4, small.clone(), small).prop_map(
        |(op, len, flags, buf_alloc, fwd_cnt)| Header {
            len: if op == op::RW {
                len
            } else {
                len.saturating_sub(90_000)
            },
            flags,
            buf_alloc,
            fwd_cnt,
            ..header(op, PORT, 1)
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Packet(Header),
    Forward(u32),
    Send(usize),
    Shut(u32),
    Pay,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_packet().prop_map(Step::Packet),
        2 => (0u32..100_000).prop_map(Step::Forward),
        2 => (0usize..100_000).prop_map(Step::Send),
        1 => (0u32..4).prop_map(Step::Shut),
        3 => Just(Step::Pay),
    ]
}

proptest! {
    /// Whatever the guest sends, what it is owed memory for stays inside of what was advertised,
    /// what is in flight inside of what it granted, and a dead connection stays dead.
    #[test]
    fn no_packet_breaks_the_bounds(steps in prop::collection::vec(any_step(), 1..200)) {
        const BUF_ALLOC: u32 = 100_000;
        let mut flow = Flow::new(BUF_ALLOC);
        prop_assert_eq!(flow.on_packet(&header(op::RESPONSE, PORT, 1)), Verdict::Unknown);
        flow.release();
        prop_assert_eq!(flow.owed(), Some(Control::Request));
        flow.on_control(Control::Request);
        let mut dead = false;
        for step in steps {
            match step {
                Step::Packet(packet) => {
                    let before = flow.pending();
                    let verdict = flow.on_packet(&packet);
                    if verdict == Verdict::Data {
                        prop_assert_eq!(flow.pending(), before + packet.len);
                    }
                    if verdict == Verdict::Violation {
                        prop_assert_eq!(flow.owed(), Some(Control::Reset));
                    }
                    prop_assert!(!dead || verdict == Verdict::Unknown);
                }
                Step::Forward(bytes) => {
                    let bytes = bytes.min(flow.pending());
                    flow.on_forwarded(bytes as usize);
                }
                Step::Send(bytes) => {
                    let bytes = bytes.min(flow.credit());
                    flow.on_sent(bytes);
                }
                Step::Shut(flags) => flow.shut(flags),
                Step::Pay => {
                    if let Some(control) = flow.owed() {
                        let (buf_alloc, _) = flow.credit_fields();
                        prop_assert_eq!(buf_alloc, BUF_ALLOC);
                        prop_assert_eq!(flow.owed(), Some(control), "until it is sent");
                        flow.on_control(control);
                        flow.on_advertised();
                        prop_assert!(flow.owed() != Some(control) || control == Control::Request);
                    }
                }
            }
            prop_assert!(flow.pending() <= BUF_ALLOC);
            dead |= flow.phase() == Phase::Draining;
            if dead {
                prop_assert_eq!(flow.credit(), 0);
                prop_assert!(matches!(flow.owed(), None | Some(Control::Reset)));
            }
        }
    }
}
