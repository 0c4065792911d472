//! The allowed calls. Each line is used by code of this crate, by the standard library or by glibc
//! below it, and says by which.

use super::ThreadKind::{self, EventLoop, Main, Vcpu};

/// An allowed system call.
pub(super) struct Rule {
    /// Its number on x86_64.
    pub(super) number: i64,
    /// Its name.
    pub(super) name: &'static str,
    /// All must hold; empty: any arguments will do.
    pub(super) when: &'static [Argument],
    /// Who may call it.
    pub(super) threads: &'static [ThreadKind],
    /// What for.
    pub(super) reason: &'static str,
}

/// A condition on one argument.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Argument {
    /// 0..=5.
    pub(super) index: u8,
    /// What must hold.
    pub(super) test: Test,
}

/// What must hold of an argument.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// The low 32 bits, all that the kernel reads of it, have this value.
    Is(u32),
    /// None of these bits is set.
    Without(u32),
    /// It is a null pointer.
    IsNull,
    /// It is the PID of this process.
    IsThisProcess,
}

const ALL: &[ThreadKind] = &[Main, EventLoop, Vcpu];
const DEVICES: &[ThreadKind] = &[EventLoop, Vcpu];

const fn is(index: u8, value: u32) -> Argument {
    let test = Test::Is(value);
    Argument { index, test }
}

const fn without(index: u8, bits: u32) -> Argument {
    let test = Test::Without(bits);
    Argument { index, test }
}

const fn is_null(index: u8) -> Argument {
    let test = Test::IsNull;
    Argument { index, test }
}

const fn is_this_process(index: u8) -> Argument {
    let test = Test::IsThisProcess;
    Argument { index, test }
}

/// `_IO(KVMIO, nr)`.
const fn kvm(nr: u32) -> u32 {
    0xae00 | nr
}

/// `_IOR(KVMIO, nr, [u8; size])`.
const fn kvm_read(nr: u32, size: u32) -> u32 {
    2 << 30 | size << 16 | kvm(nr)
}

/// `VHOST_VIRTIO`'s ioctls: `_IOC(direction, 0xaf, nr, size)`.
const fn vhost(direction: u32, nr: u32, size: u32) -> u32 {
    direction << 30 | size << 16 | 0xaf00 | nr
}

/// `_IOW`.
const WRITE: u32 = 1;
/// `_IOWR`.
const READ_WRITE: u32 = 3;

/// `_IOW(KVMIO, nr, [u8; size])`.
const fn kvm_write(nr: u32, size: u32) -> u32 {
    1 << 30 | size << 16 | kvm(nr)
}

macro_rules! rules {
    ($($name:ident($($when:expr),*) $threads:ident: $reason:literal;)*) => {
        &[$(Rule {
            number: libc::$name,
            name: stringify!($name),
            when: &[$($when),*],
            threads: $threads,
            reason: $reason,
        }),*]
    };
}

/// A vCPU gets its work from KVM_RUN alone.
const WAITING: &[ThreadKind] = &[Main, EventLoop];
const EVENT_LOOP: &[ThreadKind] = &[EventLoop];
const VCPU: &[ThreadKind] = &[Vcpu];
const NO_EXEC: Argument = without(2, libc::PROT_EXEC as u32);

pub(super) const RULES: &[Rule] = rules! {
    // Threads and their end.
    SYS_futex() ALL: "locks, channels and joins of the standard library";
    SYS_sched_yield() ALL: "the standard library's locks yield under contention";
    SYS_exit() ALL: "a thread returns";
    SYS_exit_group() ALL: "the process ends";
    SYS_rt_sigreturn() ALL: "return from the handler of the vCPU kick and of a stack overflow";
    SYS_rt_sigprocmask() ALL: "glibc blocks signals around thread exit, abort and raise";
    SYS_rt_sigaction() ALL: "abort resets SIGABRT; the stack overflow handler resets SIGSEGV";
    SYS_sigaltstack() ALL: "the standard library frees a thread's signal stack";
    SYS_restart_syscall() ALL: "a wait goes on after SIGSTOP and SIGCONT";
    SYS_gettid() ALL: "abort and panic messages name their thread";
    SYS_getpid() ALL: "abort signals its own process";
    SYS_tgkill(is_this_process(0), is(2, libc::SIGABRT as u32)) ALL: "abort ends the process";
    SYS_clock_nanosleep() WAITING: "bounded waits of the standard library";
    SYS_clock_gettime() ALL: "time, where the vDSO can't tell it";
    SYS_getrandom() ALL: "keys of hash maps; the entropy device";

    // Memory of the allocator and of thread stacks: never executable.
    SYS_mmap(NO_EXEC) ALL: "the allocator takes large blocks and arenas";
    SYS_mprotect(NO_EXEC) ALL: "the allocator grows a thread's arena";
    SYS_munmap() ALL: "the allocator gives memory back";
    SYS_mremap() ALL: "the allocator resizes large blocks";
    SYS_brk() ALL: "the allocator's heap";
    SYS_madvise(is(2, libc::MADV_DONTNEED as u32)) ALL: "the allocator trims; the balloon takes pages";

    // Open descriptors.
    SYS_read() WAITING: "eventfds, taps, sockets";
    SYS_write() ALL: "eventfds, taps, sockets, messages on stderr";
    SYS_close() ALL: "connections and files end";
    SYS_fcntl(is(1, libc::F_GETFD as u32)) ALL: "debug builds check that a descriptor is open as they close it";

    // What a jail request reads back, and what a filter needs to install the next thread's.
    SYS_prctl(is(0, libc::PR_GET_SECCOMP as u32)) EVENT_LOOP: "the jail report";

    // Virtual CPUs.
    SYS_ioctl(is(1, kvm(0x80))) VCPU: "KVM_RUN: the guest runs";
    SYS_ioctl(is(1, kvm_read(0x81, 144))) VCPU: "KVM_GET_REGS: the report of a triple fault";
    SYS_ioctl(is(1, kvm(0xad))) VCPU: "KVM_KVMCLOCK_CTRL: a paused guest's watchdog is told";
    SYS_tgkill(is_this_process(0), is(2, KICK_SIGNAL)) DEVICES: "kicks a vCPU out of KVM_RUN";

    // Waiting for descriptors.
    SYS_epoll_wait() EVENT_LOOP: "the event loop (glibc's epoll_wait)";
    SYS_epoll_pwait() EVENT_LOOP: "the event loop";
    SYS_epoll_ctl() EVENT_LOOP: "connections come and go";
    SYS_poll() EVENT_LOOP: "asks a socket whether it takes more";
    SYS_ppoll() EVENT_LOOP: "asks a socket whether it takes more";

    // Disks.
    SYS_readv() EVENT_LOOP: "frames of a tap, bytes of a connection";
    SYS_writev() EVENT_LOOP: "frames of a tap, bytes of a connection";
    SYS_pread64() EVENT_LOOP: "disk reads";
    SYS_preadv() EVENT_LOOP: "disk reads";
    SYS_pwrite64() EVENT_LOOP: "disk writes";
    SYS_pwritev() EVENT_LOOP: "disk writes";
    SYS_fdatasync() EVENT_LOOP: "flushes of a disk";
    SYS_fallocate(is(1, PUNCH_HOLE)) EVENT_LOOP: "disk discard";
    SYS_fallocate(is(1, ZERO_RANGE)) EVENT_LOOP: "disk write-zeroes";

    SYS_io_uring_enter(without(3, !GETEVENTS), is_null(4)) EVENT_LOOP: "operations of a disk go to the kernel through its ring, made before the jail";
    SYS_io_uring_enter(is(1, 0), is(3, GETEVENTS), is_null(4)) VCPU: "a guest's reset of a disk waits for what is under way; nothing is submitted";

    // Sockets that are open already: the control socket, vsock connections, virtiofsd's.
    SYS_recvmsg() EVENT_LOOP: "control requests and the descriptors beside them";
    SYS_sendmsg() EVENT_LOOP: "control events; vhost-user messages";
    SYS_recvfrom() EVENT_LOOP: "bytes of a connection";
    SYS_sendto(is_null(4)) EVENT_LOOP: "bytes of a connection, to its peer only";
    SYS_shutdown() EVENT_LOOP: "half-close of a connection";
    SYS_ioctl(is(1, libc::TUNSETOFFLOAD as u32)) EVENT_LOOP: "a tap hands over frames as unfinished as the guest's driver takes them";
    SYS_ioctl(is(1, kvm_write(0x79, 64))) EVENT_LOOP: "KVM_IOEVENTFD: kicks of an interface that is plugged in later go to the kernel";
    SYS_eventfd2(is(0, 0)) EVENT_LOOP: "kicks and errors of an interface that vhost-net is to serve, plugged in later";
    SYS_ioctl(is(1, libc::TUNSETQUEUE as u32)) EVENT_LOOP: "a tap sends to as many queues as the guest's driver uses";
    SYS_ioctl(is(1, vhost(0, 0x01, 0))) EVENT_LOOP: "VHOST_SET_OWNER: the kernel serves a tap for this process";
    SYS_ioctl(is(1, vhost(WRITE, 0x00, 8))) EVENT_LOOP: "VHOST_SET_FEATURES: what the guest's driver accepted";
    SYS_ioctl(is(1, vhost(WRITE, 0x03, 8))) EVENT_LOOP: "VHOST_SET_MEM_TABLE: where the guest's memory is";
    SYS_ioctl(is(1, vhost(WRITE, 0x10, 8))) EVENT_LOOP: "VHOST_SET_VRING_NUM: the size of a queue";
    SYS_ioctl(is(1, vhost(WRITE, 0x11, 40))) EVENT_LOOP: "VHOST_SET_VRING_ADDR: the rings of a queue";
    SYS_ioctl(is(1, vhost(WRITE, 0x12, 8))) EVENT_LOOP: "VHOST_SET_VRING_BASE: where a queue goes on";
    SYS_ioctl(is(1, vhost(READ_WRITE, 0x12, 8))) EVENT_LOOP: "VHOST_GET_VRING_BASE: where a paused queue stopped";
    SYS_ioctl(is(1, vhost(WRITE, 0x20, 8))) EVENT_LOOP: "VHOST_SET_VRING_KICK: the guest's kicks go to the kernel";
    SYS_ioctl(is(1, vhost(WRITE, 0x21, 8))) EVENT_LOOP: "VHOST_SET_VRING_CALL: the kernel interrupts the guest";
    SYS_ioctl(is(1, vhost(WRITE, 0x22, 8))) EVENT_LOOP: "VHOST_SET_VRING_ERR: the kernel tells of a broken queue";
    SYS_ioctl(is(1, vhost(WRITE, 0x30, 8))) DEVICES: "VHOST_NET_SET_BACKEND: a tap is served, or no more before a guest's reset returns";
    SYS_ioctl(is(1, libc::FIONBIO as u32)) EVENT_LOOP: "makes a received connection non-blocking";
    SYS_fcntl(is(1, libc::F_GETFL as u32)) EVENT_LOOP: "makes a received connection non-blocking";
    SYS_fcntl(is(1, libc::F_SETFL as u32)) EVENT_LOOP: "makes a received connection non-blocking";
};

/// `IORING_ENTER_GETEVENTS`.
const GETEVENTS: u32 = 1;
const KICK_SIGNAL: u32 = 34; // SIGRTMIN of glibc
const PUNCH_HOLE: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
const ZERO_RANGE: u32 = (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE) as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_kernel() {
        assert_eq!(kvm(0x80), 0xae80); // KVM_RUN
        assert_eq!(kvm_read(0x81, 144), 0x8090_ae81); // KVM_GET_REGS
        assert_eq!(kvm_write(0x79, 64), 0x4040_ae79); // KVM_IOEVENTFD
    }

    #[test]
    fn vhosts_ioctl_numbers_are_those_that_are_called() {
        use ::vhost::vhost_kern::vhost_binding as called;
        let named = [
            (vhost(0, 0x01, 0), called::VHOST_SET_OWNER()),
            (vhost(WRITE, 0x00, 8), called::VHOST_SET_FEATURES()),
            (vhost(WRITE, 0x03, 8), called::VHOST_SET_MEM_TABLE()),
            (vhost(WRITE, 0x10, 8), called::VHOST_SET_VRING_NUM()),
            (vhost(WRITE, 0x11, 40), called::VHOST_SET_VRING_ADDR()),
            (vhost(WRITE, 0x12, 8), called::VHOST_SET_VRING_BASE()),
            (vhost(READ_WRITE, 0x12, 8), called::VHOST_GET_VRING_BASE()),
            (vhost(WRITE, 0x20, 8), called::VHOST_SET_VRING_KICK()),
            (vhost(WRITE, 0x21, 8), called::VHOST_SET_VRING_CALL()),
            (vhost(WRITE, 0x22, 8), called::VHOST_SET_VRING_ERR()),
            (vhost(WRITE, 0x30, 8), called::VHOST_NET_SET_BACKEND()),
        ];
        for (ours, theirs) in named {
            assert_eq!(u64::from(ours), theirs);
        }
    }
}
