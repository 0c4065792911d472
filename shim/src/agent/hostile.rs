//! Agents that lie, never end, or are no agents at all.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use hull_protocol::agent::HelloResponse;
use hull_vm_config::control::ExitReason;
use protobuf::Message as _;
use ttrpc::proto::{Response, Status};

use super::*;
use crate::vmm::FakeVmm;

/// Long enough for an answer, short enough for a test.
const LIMIT: Duration = Duration::from_millis(500);
/// For an answer that comes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the shim may grow by under any of these, in KiB.
const GROWTH_KIB: u64 = 32 << 10;
const RESPONSE: u8 = 2;

/// One ttrpc frame, with any length in its header.
fn frame(length: u32, stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(payload);
    bytes
}

fn response(stream: u32, response: &Response) -> Vec<u8> {
    let payload = response.write_to_bytes().unwrap();
    frame(
        u32::try_from(payload.len()).unwrap(),
        stream,
        RESPONSE,
        &payload,
    )
}

fn hello(stream: u32, version: u32) -> Vec<u8> {
    let message = HelloResponse {
        protocol_version: version,
        ..Default::default()
    };
    let answer = Response {
        payload: message.write_to_bytes().unwrap(),
        ..Default::default()
    };
    response(stream, &answer)
}

/// Reads a request; returns its stream.
fn request(guest: &mut UnixStream) -> u32 {
    let mut header = [0; 10];
    guest.read_exact(&mut header).unwrap();
    let [a, b, c, d, e, f, g, h, ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
    guest.read_exact(&mut payload).unwrap();
    u32::from_be_bytes([e, f, g, h])
}

/// An agent that answers the first request as it should, and the second so, within `limit`.
async fn second_call(
    limit: Duration,
    script: impl FnOnce(&FakeVmm, &mut UnixStream, u32) + Send + 'static,
) -> Result<Empty, AgentError> {
    let (vm, fake) = FakeVmm::start();
    let guest = std::thread::spawn(move || {
        let mut guest = fake.accept();
        let stream = request(&mut guest);
        guest.write_all(&hello(stream, PROTOCOL_VERSION)).unwrap();
        let stream = request(&mut guest);
        script(&fake, &mut guest, stream);
        (fake, guest)
    });
    let agent = Agent::connect(&vm).await.unwrap();
    let answer = agent
        .call("Shutdown", limit, |client, context| async move {
            client.shutdown(context, &Empty::default()).await
        })
        .await;
    drop(agent);
    // It may still be writing, and is read from on this thread.
    let guest = tokio::task::spawn_blocking(move || guest.join().unwrap());
    drop(guest.await.unwrap());
    answer
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap()
}

#[tokio::test]
async fn an_answer_of_4_gib_costs_time_and_no_memory() {
    let before = peak_kib();
    let answer = second_call(LIMIT, |_, guest, stream| {
        guest
            .set_write_timeout(Some(LIMIT))
            .and_then(|()| guest.write_all(&frame(u32::MAX, stream, RESPONSE, &[])))
            .unwrap();
        // Ends when nobody reads any more, or with the last byte.
        let block = vec![0xff; 1 << 20];
        for _ in 0..256 {
            if guest.write_all(&block).is_err() {
                break;
            }
        }
    });
    let error = answer.await.unwrap_err();
    assert!(
        matches!(
            error,
            AgentError::TimedOut { .. } | AgentError::Connection { .. }
        ),
        "{error:?}"
    );
    let growth = peak_kib() - before;
    assert!(growth < GROWTH_KIB, "{growth} KiB");
}

/// Empty elements of a repeated field, two bytes each here and a hundred in memory.
#[tokio::test]
async fn an_answer_that_expands_costs_no_memory() {
    for (elements, fits) in [(2_000_000, false), (500_000, true)] {
        let before = peak_kib();
        let answer = second_call(PATIENCE, move |_, guest, stream| {
            let payload = [0x0a, 0].repeat(elements);
            let answer = Response {
                payload,
                ..Default::default()
            };
            // Nobody reads it to its end.
            let _ = guest.write_all(&response(stream, &answer));
        });
        match answer.await {
            Ok(_) => assert!(fits),
            Err(error) => {
                assert!(!fits);
                assert!(matches!(error, AgentError::Connection { .. }), "{error:?}");
            }
        }
        let growth = peak_kib() - before;
        assert!(growth < GROWTH_KIB, "{elements}: {growth} KiB");
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_or_never_ends_has_a_limit() {
    for length in [1, 100] {
        let answer = second_call(LIMIT, move |_, guest, stream| {
            guest
                .write_all(&frame(length, stream, RESPONSE, &[]))
                .unwrap();
        });
        let error = answer.await.unwrap_err();
        // The guest's end is kept until the call is over.
        assert!(matches!(error, AgentError::TimedOut { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_passed_over() {
    let answer = second_call(PATIENCE, |_, guest, stream| {
        for other in 0..20_000u32 {
            let other = other.wrapping_mul(7).wrapping_add(stream + 2);
            guest.write_all(&hello(other, 99)).unwrap();
        }
        let empty = Response::default();
        // The first ends the call, after which nobody reads.
        for _ in 0..100 {
            if guest.write_all(&response(stream, &empty)).is_err() {
                break;
            }
        }
    });
    answer.await.unwrap();
}

#[tokio::test]
async fn an_error_of_any_length_is_cut() {
    let answer = second_call(PATIENCE, |_, guest, stream| {
        let status = Status {
            code: Code::INTERNAL.into(),
            message: "\u{1b}[31mx".repeat(150_000),
            ..Default::default()
        };
        let answer = Response {
            status: protobuf::MessageField::some(status),
            ..Default::default()
        };
        guest.write_all(&response(stream, &answer)).unwrap();
    });
    let AgentError::Status { message, .. } = answer.await.unwrap_err() else {
        panic!("no status");
    };
    assert_eq!(message.chars().count(), MAX_MESSAGE_CHARS);
    assert!(!message.contains(char::is_control));
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    for (kind, payload) in [
        (RESPONSE, &[0xff; 9][..]),
        (1, &[]),
        (0, &[]),
        (77, &[1, 2]),
    ] {
        let answer = second_call(LIMIT, move |_, guest, stream| {
            let length = u32::try_from(payload.len()).unwrap();
            guest
                .write_all(&frame(length, stream, kind, payload))
                .unwrap();
        });
        let error = answer.await.unwrap_err();
        assert!(
            matches!(
                error,
                AgentError::Connection { .. } | AgentError::TimedOut { .. }
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_vm_that_ends_ends_the_call_with_its_reason() {
    let answer = second_call(PATIENCE, |fake, guest, _| {
        fake.end(ExitReason::Reset);
        guest.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let error = answer.await.unwrap_err();
    assert!(matches!(error, AgentError::VmEnded { .. }), "{error:?}");
    assert!(error.to_string().contains("asked for a reset"), "{error}");
}

#[tokio::test]
async fn an_agent_of_another_version_is_refused() {
    let (vm, fake) = FakeVmm::start();
    let guest = std::thread::spawn(move || {
        let mut guest = fake.accept();
        let stream = request(&mut guest);
        guest.write_all(&hello(stream, u32::MAX)).unwrap();
        (fake, guest)
    });
    let error = Agent::connect(&vm).await.unwrap_err();
    assert!(matches!(error, AgentError::Version { found: u32::MAX }));
    drop(guest.join().unwrap());
}
