//! System calls that neither a shim nor a program of Hull's has a use for.
//!
//! A list of what is denied, not of what is allowed: VMM and virtiofsd inherit it, each of which has a list
//! of what it may on top. A call that is denied answers `EPERM`.

use std::io;

use libc::{sock_filter, BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};

/// Number, name, and what it would open.
pub(super) const DENIED: [(libc::c_long, &str, &str); 35] = [
    (libc::SYS_bpf, "bpf", "programs in the kernel"),
    (
        libc::SYS_perf_event_open,
        "perf_event_open",
        "counters and probes",
    ),
    (
        libc::SYS_userfaultfd,
        "userfaultfd",
        "holds the kernel up where it reads memory",
    ),
    (libc::SYS_init_module, "init_module", "code in the kernel"),
    (libc::SYS_finit_module, "finit_module", "code in the kernel"),
    (
        libc::SYS_delete_module,
        "delete_module",
        "the kernel's modules",
    ),
    (libc::SYS_kexec_load, "kexec_load", "another kernel"),
    (
        libc::SYS_kexec_file_load,
        "kexec_file_load",
        "another kernel",
    ),
    (libc::SYS_reboot, "reboot", "the host's end"),
    (libc::SYS_swapon, "swapon", "others' memory on a disk"),
    (libc::SYS_swapoff, "swapoff", "the host's memory"),
    (libc::SYS_iopl, "iopl", "the host's devices"),
    (libc::SYS_ioperm, "ioperm", "the host's devices"),
    (libc::SYS_acct, "acct", "a file that the kernel writes"),
    (libc::SYS_quotactl, "quotactl", "the host's quotas"),
    (libc::SYS_quotactl_fd, "quotactl_fd", "the host's quotas"),
    (libc::SYS_settimeofday, "settimeofday", "the host's clock"),
    (libc::SYS_clock_settime, "clock_settime", "the host's clock"),
    (libc::SYS_adjtimex, "adjtimex", "the host's clock"),
    (libc::SYS_clock_adjtime, "clock_adjtime", "the host's clock"),
    (libc::SYS_ptrace, "ptrace", "other processes"),
    (
        libc::SYS_process_vm_readv,
        "process_vm_readv",
        "memory of other processes",
    ),
    (
        libc::SYS_process_vm_writev,
        "process_vm_writev",
        "memory of other processes",
    ),
    (
        libc::SYS_process_madvise,
        "process_madvise",
        "memory of other processes",
    ),
    (
        libc::SYS_pidfd_getfd,
        "pidfd_getfd",
        "open files of other processes",
    ),
    (libc::SYS_kcmp, "kcmp", "addresses of the kernel's objects"),
    (libc::SYS_add_key, "add_key", "the kernel's keys"),
    (
        libc::SYS_request_key,
        "request_key",
        "the kernel's keys, and a program that it starts",
    ),
    (libc::SYS_keyctl, "keyctl", "the kernel's keys"),
    (
        libc::SYS_open_by_handle_at,
        "open_by_handle_at",
        "files past their directories",
    ),
    (libc::SYS_syslog, "syslog", "the kernel's log"),
    (
        libc::SYS_modify_ldt,
        "modify_ldt",
        "rarely used code of the kernel",
    ),
    (libc::SYS_vhangup, "vhangup", "terminals"),
    (libc::SYS_uselib, "uselib", "rarely used code of the kernel"),
    (
        libc::SYS_lookup_dcookie,
        "lookup_dcookie",
        "rarely used code of the kernel",
    ),
];

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;
/// Numbers from here on are those of x32.
const X32: u32 = 0x4000_0000;
/// Where `struct seccomp_data` has the call's number and its architecture, in bytes.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// Gives it to the calling thread and what it starts. It takes `no_new_privs`.
pub(super) fn install() -> io::Result<()> {
    crate::sys::install_filter(&program()?)
}

fn program() -> io::Result<Vec<sock_filter>> {
    // From the first comparison of numbers to the denial behind the last.
    let length = u8::try_from(DENIED.len()).map_err(io::Error::other)?;
    let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    let answer = |value| instruction(BPF_RET | BPF_K, value, 0, 0);
    let mut program = vec![
        load(ARCHITECTURE_AT),
        // Otherwise past the load, x32's line, the list and the permission.
        instruction(BPF_JMP | BPF_JEQ | BPF_K, X86_64, 0, length + 3),
        load(NUMBER_AT),
        instruction(BPF_JMP | BPF_JGE | BPF_K, X32, length + 1, 0),
    ];
    for ((number, _, _), left) in DENIED.iter().zip((1..=length).rev()) {
        let number = u32::try_from(*number).map_err(io::Error::other)?;
        program.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, number, left, 0));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program.push(answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()));
    Ok(program)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn run(architecture: u32, number: u32) -> u32 {
        let program = program().unwrap();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let code = u32::from(code);
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                _ if code == BPF_LD | BPF_W | BPF_ABS => {
                    loaded = match k {
                        NUMBER_AT => number,
                        _ => architecture,
                    }
                }
                _ if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(loaded == k),
                _ if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(loaded >= k),
                _ => return k,
            }
        }
    }

    #[test]
    fn each_number_and_interface_is_decided() {
        let denied = libc::SECCOMP_RET_ERRNO | 1;
        for number in 0..1024 {
            let listed = DENIED.iter().any(|(one, _, _)| *one == i64::from(number));
            let want = if listed {
                denied
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            assert_eq!(run(X86_64, number), want, "{number}");
            // By the interface of 32 bits, and by x32.
            assert_eq!(run(0x4000_0003, number), denied);
            assert_eq!(run(X86_64, X32 | number), denied);
        }
        assert_eq!(run(X86_64, u32::MAX), denied);
    }
}
