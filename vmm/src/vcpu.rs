//! vCPU threads: each runs `KVM_RUN` in a loop, and stops in between when told to.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::devices::MmioBus;
use crate::exit::VcpuEnd;
use crate::pio::{IoPorts, Outcome};
use crate::seccomp::{self, ThreadKind};
use crate::sys::{self, VcpuThread};

/// A vCPU thread leaves the guest within microseconds of its signal; this is for a host that is
/// badly overloaded.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// vCPU threads could not be made or told something.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// No eventfd, no signal handler.
    #[error("failed to prepare the vCPU threads")]
    Prepare {
        /// The kernel's answer.
        source: io::Error,
    },
    /// No thread.
    #[error("failed to start the thread of vCPU {vcpu}")]
    Spawn {
        /// Its index.
        vcpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A vCPU did not stop in time.
    #[error("{running} of {vcpus} vCPUs still run {} seconds after they were told to stop", PAUSE_LIMIT.as_secs())]
    Stuck {
        /// How many run.
        running: usize,
        /// How many there are.
        vcpus: usize,
    },
}

/// What all vCPUs reach of the machine.
#[derive(Clone)]
pub struct Machine {
    /// Device windows.
    pub bus: Arc<MmioBus>,
    /// I/O ports.
    pub ports: Arc<IoPorts>,
}

/// All vCPU threads of a VM.
pub struct Vcpus {
    threads: Vec<JoinHandle<()>>,
    gate: Arc<Gate>,
    ended: EventFd,
    ends: Receiver<VcpuEnd>,
}

impl Vcpus {
    /// Starts one thread per vCPU; they run the guest at once.
    pub fn start(vcpus: Vec<VcpuFd>, machine: &Machine) -> Result<Self, VcpuError> {
        let prepare = |source| VcpuError::Prepare { source };
        sys::install_kick_handler().map_err(prepare)?;
        let ended = EventFd::new(EFD_NONBLOCK).map_err(prepare)?;
        let (sender, ends) = std::sync::mpsc::channel();
        let gate = Arc::new(Gate::default());
        let mut threads = Vec::with_capacity(vcpus.len());
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let runner = Runner {
                machine: machine.clone(),
                gate: Arc::clone(&gate),
                report: Report {
                    end: VcpuEnd::Failed(format!("the thread of vCPU {index} panicked")),
                    sender: sender.clone(),
                    ended: ended.try_clone().map_err(prepare)?,
                },
            };
            let thread = std::thread::Builder::new()
                .name(format!("vcpu-{index}"))
                .spawn(move || runner.run(vcpu))
                .map_err(|source| VcpuError::Spawn {
                    vcpu: index,
                    source,
                })?;
            threads.push(thread);
        }
        Ok(Self {
            threads,
            gate,
            ended,
            ends,
        })
    }

    /// Becomes readable when [`Vcpus::end`] has something.
    pub fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// How the first vCPU that ended did so; `None` while all run.
    pub fn end(&self) -> Option<VcpuEnd> {
        self.ends.try_recv().ok()
    }

    /// Stops all vCPUs between two instructions, all exits completed, and waits until they are.
    pub fn pause(&self) -> Result<(), VcpuError> {
        self.gate.order(Order::Pause);
        for thread in &self.threads {
            sys::kick(thread);
        }
        let stopped = self.gate.wait_stopped(self.threads.len(), PAUSE_LIMIT);
        if stopped == self.threads.len() {
            Ok(())
        } else {
            Err(VcpuError::Stuck {
                running: self.threads.len() - stopped,
                vcpus: self.threads.len(),
            })
        }
    }

    /// Lets them run again.
    pub fn resume(&self) {
        self.gate.order(Order::Run);
    }
}

/// What vCPU threads are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    Run = 0,
    Pause = 1,
}

/// Where vCPU threads wait while they are paused.
#[derive(Default)]
struct Gate {
    /// The order, to look at on the way into the guest without taking the lock.
    order: AtomicU8,
    stopped: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn order(&self, order: Order) {
        let _stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        self.order.store(order as u8, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.order.load(Ordering::SeqCst) == Order::Pause as u8
    }

    /// Blocks the calling vCPU thread until the order is to run.
    fn wait_open(&self) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        *stopped += 1;
        self.changed.notify_all();
        while self.is_closed() {
            stopped = self
                .changed
                .wait(stopped)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *stopped -= 1;
    }

    /// A thread that has ended counts as stopped for good.
    fn leave(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// Waits until `count` threads have stopped; returns how many have.
    fn wait_stopped(&self, count: usize, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while *stopped < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (stopped, _) = self
                .changed
                .wait_timeout(stopped, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *stopped
    }
}

/// Tells the main thread how a vCPU ended, also if its thread panics.
struct Report {
    end: VcpuEnd,
    sender: Sender<VcpuEnd>,
    ended: EventFd,
}

impl Drop for Report {
    fn drop(&mut self) {
        // The receiver is gone only when the VM has ended already.
        drop(self.sender.send(self.end.clone()));
        drop(self.ended.write(1));
    }
}

struct Runner {
    machine: Machine,
    gate: Arc<Gate>,
    report: Report,
}

impl Runner {
    fn run(mut self, vcpu: VcpuFd) {
        self.report.end = match seccomp::install(ThreadKind::Vcpu) {
            Ok(()) => self.run_guest(vcpu),
            Err(error) => VcpuEnd::Failed(describe(&error)),
        };
        self.gate.leave();
    }

    fn run_guest(&self, vcpu: VcpuFd) -> VcpuEnd {
        let mut thread = VcpuThread::enter(vcpu);
        loop {
            // In this order: a kick that comes after the gate was looked at is not lost, because
            // its handler makes KVM_RUN return at once.
            thread.set_immediate_exit(false);
            if self.gate.is_closed() {
                if let Some(end) = self.finish_exit(&mut thread) {
                    return end;
                }
                self.gate.wait_open();
                // So that the guest's watchdogs do not count the pause; a guest without kvmclock
                // has none to tell.
                let _ = thread.vcpu().kvmclock_ctrl();
                continue;
            }
            if let Step::Ended(end) = self.step(&mut thread) {
                return end;
            }
        }
    }

    /// The state of a vCPU that left the guest for an access of a port or a device is whole only
    /// after it has entered KVM_RUN again, several times if the access was in pieces.
    fn finish_exit(&self, thread: &mut VcpuThread) -> Option<VcpuEnd> {
        loop {
            thread.set_immediate_exit(true);
            match self.step(thread) {
                Step::Served => {}
                Step::Interrupted => return None,
                Step::Ended(end) => return Some(end),
            }
        }
    }

    /// One `KVM_RUN` and what comes of it.
    fn step(&self, thread: &mut VcpuThread) -> Step {
        match thread.vcpu().run() {
            Ok(VcpuExit::MmioRead(gpa, data)) => self.machine.bus.read(gpa, data),
            Ok(VcpuExit::MmioWrite(gpa, data)) => self.machine.bus.write(gpa, data),
            Ok(VcpuExit::IoIn(port, data)) => self.machine.ports.read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if self.machine.ports.write(port, data) == Outcome::Reset {
                    return Step::Ended(VcpuEnd::Reset);
                }
            }
            Ok(VcpuExit::Shutdown) => return Step::Ended(VcpuEnd::TripleFault),
            // Only a vCPU without an in-kernel APIC leaves on HLT; harmless.
            Ok(VcpuExit::Hlt | VcpuExit::Intr) => {}
            Ok(VcpuExit::InternalError) => {
                let (kind, data) = sys::internal_error_details(thread.vcpu().get_kvm_run());
                let state = registers(thread.vcpu());
                return Step::failed(format!(
                    "KVM internal error {kind}, data {data:x?}, {state}"
                ));
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Step::failed(format!(
                    "the CPU refused to enter the guest: reason {reason:#x} on CPU {cpu}"
                ));
            }
            Ok(other) => return Step::failed(format!("unexpected VM exit {other:?}")),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                return Step::Interrupted;
            }
            Err(error) => return Step::failed(format!("KVM_RUN failed: {error}")),
        }
        Step::Served
    }
}

/// What came of one `KVM_RUN`.
enum Step {
    /// The guest left for something, and got it.
    Served,
    /// A signal, or an immediate exit: no access is half done.
    Interrupted,
    /// The VM is over.
    Ended(VcpuEnd),
}

impl Step {
    fn failed(message: String) -> Self {
        Self::Ended(VcpuEnd::Failed(message))
    }
}

fn registers(vcpu: &VcpuFd) -> String {
    match vcpu.get_regs() {
        Ok(regs) => format!("rip {:#x}, rsp {:#x}", regs.rip, regs.rsp),
        Err(error) => format!("registers unknown ({error})"),
    }
}

/// An error and its causes, on one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_counts_those_that_stopped() {
        let gate = Arc::new(Gate::default());
        gate.order(Order::Pause);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let gate = Arc::clone(&gate);
                std::thread::spawn(move || gate.wait_open())
            })
            .collect();
        assert_eq!(gate.wait_stopped(2, PAUSE_LIMIT), 2);
        gate.order(Order::Run);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*gate.stopped.lock().unwrap(), 0);
    }

    #[test]
    fn thread_that_does_not_stop_is_reported_and_not_waited_for() {
        let gate = Gate::default();
        gate.order(Order::Pause);
        gate.leave();
        assert_eq!(gate.wait_stopped(2, Duration::from_millis(1)), 1);
    }
}
