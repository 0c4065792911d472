//! `hull-vmm` itself, run with payloads of a few instructions: these run on every KVM. Skipped, with
//! a printed reason, where there is none.

mod common;

use common::{code, config, elf, file_of, kernel, kvm, Vmm};
use hull_protocol::{TraceMark, POWER_OFF_BYTE, TRACE_IO_PORT};
use hull_vm_config::control::{Event, ExitReason, Request};
use hull_vm_config::MAX_VCPUS;

const SERIAL: u16 = 0x3f8;
const KEYBOARD: u16 = 0x64;
const RESET: u8 = 0xfe;

fn power_off() -> Vec<u8> {
    [
        code::out(TRACE_IO_PORT, POWER_OFF_BYTE),
        code::out(KEYBOARD, RESET),
    ]
    .concat()
}

fn print(text: &str) -> Vec<u8> {
    text.bytes()
        .flat_map(|byte| code::out(SERIAL, byte))
        .collect()
}

#[test]
fn announced_reset_is_a_power_off_with_status_0() {
    let Some(kvm) = kvm() else { return };
    let vmm = Vmm::start(kvm, &config(), &kernel(&[power_off()]));
    assert_eq!(vmm.event(), Event::Started);
    assert_eq!(vmm.ended(), (ExitReason::PowerOff, Some(0)));
}

#[test]
fn reset_without_a_word_is_a_reset() {
    let Some(kvm) = kvm() else { return };
    let vmm = Vmm::start(kvm, &config(), &kernel(&[code::out(KEYBOARD, RESET)]));
    assert_eq!(vmm.ended(), (ExitReason::Reset, Some(0)));
}

#[test]
fn triple_fault_reports_the_end_of_the_console() {
    let Some(kvm) = kvm() else { return };
    let payload = kernel(&[print("last words"), code::triple_fault()]);
    let (reason, status) = Vmm::start(kvm, &config(), &payload).ended();
    let text = "last words".to_owned();
    assert_eq!(
        (reason, status),
        (ExitReason::TripleFault { text }, Some(1))
    );
}

#[test]
fn panic_before_any_driver_is_reported_as_one() {
    let Some(kvm) = kvm() else { return };
    let payload = kernel(&[
        print("Kernel panic - not syncing: no memory\n"),
        code::triple_fault(),
    ]);
    let (reason, status) = Vmm::start(kvm, &config(), &payload).ended();
    assert!(matches!(reason, ExitReason::Panic { text } if text.contains("no memory")));
    assert_eq!(status, Some(1));
}

#[test]
fn entry_state_and_device_windows_are_as_promised() {
    let Some(kvm) = kvm() else { return };
    let payload = kernel(&[
        code::load_ebx(), // the start information's magic number
        code::out_eax(SERIAL),
        code::load(0xd000_0000), // the magic number of virtio-mmio
        code::out_eax(SERIAL),
        code::triple_fault(),
    ]);
    let (reason, _) = Vmm::start(kvm, &config(), &payload).ended();
    let ExitReason::TripleFault { text } = reason else {
        panic!("{reason}");
    };
    assert!(text.starts_with('x') && text.contains("n3"), "{text:?}"); // 0x336e_c578
    assert!(text.ends_with("virt"), "{text:?}");
}

#[test]
fn guest_marks_are_in_the_trace() {
    let Some(kvm) = kvm() else { return };
    let payload = kernel(&[
        code::out(TRACE_IO_PORT, TraceMark::AgentStart as u8),
        code::spin(),
    ]);
    let vmm = Vmm::start(kvm, &config(), &payload);
    assert_eq!(vmm.event(), Event::Started);
    let names = loop {
        vmm.send(&Request::Trace);
        let Event::Trace { marks } = vmm.event() else {
            panic!("no trace");
        };
        assert!(marks.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
        let names: Vec<_> = marks.into_iter().map(|mark| mark.name).collect();
        if names.iter().any(|name| name == "agent-start") {
            break names;
        }
    };
    for name in ["config-read", "kernel-loaded", "jailed", "vcpus-started"] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}

#[test]
fn paused_guest_stands_still_and_goes_on() {
    let Some(kvm) = kvm() else { return };
    let mut config = config();
    config.vcpus = 2; // the second waits for the first to start it, which must not matter
    let vmm = Vmm::start(kvm, &config, &kernel(&[code::spin()]));
    assert_eq!(vmm.event(), Event::Started);
    for _ in 0..20 {
        vmm.send(&Request::Pause);
        assert_eq!(vmm.event(), Event::Paused);
        vmm.send(&Request::Pause);
        assert_eq!(vmm.event(), Event::Paused);
        vmm.send(&Request::Resume);
        assert_eq!(vmm.event(), Event::Resumed);
    }
}

#[test]
fn largest_vm_starts_stops_and_goes_on() {
    let Some(kvm) = kvm() else { return };
    let mut config = config();
    config.vcpus = MAX_VCPUS;
    config.memory_bytes = 8 << 30; // more than fits below the device windows
    let vmm = Vmm::start(kvm, &config, &kernel(&[code::spin()]));
    assert_eq!(vmm.event(), Event::Started);
    vmm.send(&Request::Pause);
    assert_eq!(vmm.event(), Event::Paused);
    vmm.send(&Request::Resume);
    assert_eq!(vmm.event(), Event::Resumed);
    assert_eq!(vmm.abandon(), Some(1));
}

#[test]
fn jail_tells_what_it_holds() {
    let Some(kvm) = kvm() else { return };
    let vmm = Vmm::start(kvm, &config(), &kernel(&[code::spin()]));
    assert_eq!(vmm.event(), Event::Started);
    vmm.send(&Request::Jail);
    let Event::Jail { holds } = vmm.event() else {
        panic!("no answer");
    };
    assert!(holds.iter().any(|(name, _)| name == "seccomp"), "{holds:?}");
}

#[test]
fn packet_that_is_no_request_is_refused_and_the_vm_goes_on() {
    let Some(kvm) = kvm() else { return };
    let vmm = Vmm::start(kvm, &config(), &kernel(&[code::spin()]));
    assert_eq!(vmm.event(), Event::Started);
    vmm.send_raw(b"{\"stop\":1}");
    assert!(matches!(vmm.event(), Event::Refused { .. }));
    vmm.send(&Request::Connect { port: 1024 }); // without its descriptor
    assert!(matches!(vmm.event(), Event::Refused { .. }));
    vmm.send(&Request::Pause);
    assert_eq!(vmm.event(), Event::Paused);
}

#[test]
fn vm_ends_with_its_control_socket() {
    let Some(kvm) = kvm() else { return };
    let vmm = Vmm::start(kvm, &config(), &kernel(&[code::spin()]));
    assert_eq!(vmm.event(), Event::Started);
    assert_eq!(vmm.abandon(), Some(1));
}

#[test]
fn kernel_without_pvh_note_is_refused() {
    let Some(kvm) = kvm() else { return };
    let (reason, status) = Vmm::start(kvm, &config(), &elf(&code::spin(), false)).ended();
    assert!(reason.to_string().contains("CONFIG_PVH"), "{reason}");
    assert_eq!(status, Some(1));
}

#[test]
fn bad_configuration_is_reported_before_anything_is_made() {
    let mut config = config();
    config.vcpus = 0;
    let json = serde_json::to_vec(&config).unwrap();
    let (reason, status) = Vmm::start_with(vec![("config", file_of(&json))]).ended();
    assert!(reason.to_string().contains("vcpus"), "{reason}");
    assert_eq!(status, Some(1));
}

#[test]
fn missing_descriptor_is_named() {
    let json = serde_json::to_vec(&config()).unwrap();
    let (reason, _) = Vmm::start_with(vec![("config", file_of(&json))]).ended();
    assert!(reason.to_string().contains("kvm"), "{reason}");
}

#[test]
fn file_that_is_not_kvm_is_named() {
    let json = serde_json::to_vec(&config()).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = vec![("config", file_of(&json)), ("kvm", null.into())];
    let (reason, _) = Vmm::start_with(fds).ended();
    assert!(reason.to_string().contains("not /dev/kvm"), "{reason}");
}
