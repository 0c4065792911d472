//! The main thread while the VM runs: devices, control socket, and the end of a vCPU.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use hull_vm_config::control::{Event, ExitReason, Request};
use hull_vm_config::Slot;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::control::{Control, ControlError, Received};
use crate::devices::{DeviceError, NetEnds, SourceChange, SourceId};
use crate::exit::{self, VcpuEnd};
use crate::jail::JailReport;
use crate::seccomp::{self, SeccompError, ThreadKind};
use crate::vcpu::{describe, VcpuError, Vcpus};
use crate::vm::Vm;

/// Marks of events that are not a device's; those lie below 2^48.
const CONTROL: u64 = 1 << 63;
const VCPU_ENDED: u64 = CONTROL + 1;

/// Events taken from the kernel at once.
const BATCH: usize = 32;
/// Rounds in which devices may finish what the guest asked for before it ended. A bound: a guest
/// cannot keep its VMM alive.
const LAST_ROUNDS: usize = 16;

/// The VM could not go on.
#[derive(Debug, thiserror::Error)]
pub enum EventLoopError {
    /// epoll failed.
    #[error("failed to {attempt}")]
    Epoll {
        /// What was attempted.
        attempt: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The control socket failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// vCPU threads failed.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// This thread has no filter.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// Runs the VM to its end. The jail has been entered before.
pub fn run(vm: Vm, control: Control, jail: JailReport) -> Ended {
    let mut event_loop = match EventLoop::start(vm, control, jail) {
        Ok(event_loop) => event_loop,
        Err((error, control)) => return Ended::early(failure(&error), control),
    };
    let reason = loop {
        match event_loop.turn(-1) {
            Ok(Turn::GoOn) => {}
            Ok(Turn::Ended(end)) => break event_loop.finish(end),
            Ok(Turn::Alone) => {
                let message = "the control socket was closed by the other side".to_owned();
                break ExitReason::Error { message };
            }
            Err(error) => break failure(&error),
        }
    };
    Ended {
        reason,
        rest: Rest::All(Box::new(event_loop)),
    }
}

/// A VM that is over.
///
/// It still owns everything, so that the reason can be told before the time that it takes to give
/// guest memory back; a process that ends right after need not even drop it.
pub struct Ended {
    reason: ExitReason,
    rest: Rest,
}

enum Rest {
    Control(Control),
    All(Box<EventLoop>),
}

impl Ended {
    /// One that never ran.
    pub fn early(reason: ExitReason, control: Control) -> Self {
        let rest = Rest::Control(control);
        Self { reason, rest }
    }

    /// Why it ended.
    pub fn reason(&self) -> &ExitReason {
        &self.reason
    }

    /// Tells the other side of the control socket, if there is one still.
    pub fn report(&self) -> Result<(), ControlError> {
        let control = match &self.rest {
            Rest::Control(control) => control,
            Rest::All(event_loop) => &event_loop.control,
        };
        control.send(&Event::Exited {
            reason: self.reason.clone(),
        })
    }
}

fn failure(error: &EventLoopError) -> ExitReason {
    ExitReason::Error {
        message: describe(error),
    }
}

/// What one turn found.
enum Turn {
    GoOn,
    Ended(VcpuEnd),
    /// Nobody is there to run the VM for.
    Alone,
}

struct EventLoop {
    epoll: Epoll,
    vm: Vm,
    vcpus: Vcpus,
    control: Control,
    jail: JailReport,
    paused: bool,
    announced_ready: bool,
}

impl EventLoop {
    fn start(
        mut vm: Vm,
        control: Control,
        jail: JailReport,
    ) -> Result<Self, (EventLoopError, Control)> {
        let prepare = |vm: &mut Vm, control: &Control| -> Result<_, EventLoopError> {
            let epoll = watch_all(vm, control)?;
            let machine = vm.machine();
            let vcpus = Vcpus::start(std::mem::take(&mut vm.vcpus), &machine)?;
            add(&epoll, vcpus.ended(), VCPU_ENDED)?;
            // Last: the filter allows no new thread.
            seccomp::install(ThreadKind::EventLoop)?;
            vm.trace.mark("vcpus-started");
            control.send(&Event::Started)?;
            Ok((epoll, vcpus))
        };
        match prepare(&mut vm, &control) {
            Ok((epoll, vcpus)) => Ok(Self {
                epoll,
                vm,
                vcpus,
                control,
                jail,
                paused: false,
                announced_ready: false,
            }),
            Err(error) => Err((error, control)),
        }
    }

    /// Waits for events, at most `timeout` milliseconds (-1: without limit), and serves them.
    fn turn(&mut self, timeout: i32) -> Result<Turn, EventLoopError> {
        let mut events = [EpollEvent::default(); BATCH];
        let timeout = sooner(timeout, self.vm.devices.due());
        let count = match self.epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(source) => {
                let attempt = "wait for events";
                return Err(EventLoopError::Epoll { attempt, source });
            }
        };
        for event in &events[..count] {
            match event.data() {
                CONTROL => {
                    if !self.serve_control()? {
                        return Ok(Turn::Alone);
                    }
                }
                VCPU_ENDED => {
                    if let Some(end) = self.vcpus.end() {
                        return Ok(Turn::Ended(end));
                    }
                }
                data => {
                    let source = SourceId::from_u64(data);
                    let changes = self.vm.devices.handle(source, event.event_set());
                    self.apply(changes)?;
                }
            }
        }
        self.vm.devices.go_on();
        self.announce_ready()?;
        Ok(Turn::GoOn)
    }

    /// Lets the devices finish, then names the reason.
    fn finish(&mut self, end: VcpuEnd) -> ExitReason {
        // The other vCPUs must not feed the devices any more. One that does not stop is ended
        // with the process.
        drop(self.vcpus.pause());
        for _ in 0..LAST_ROUNDS {
            if !matches!(self.turn(0), Ok(Turn::GoOn)) {
                break;
            }
        }
        self.vm.devices.pause();
        let console = self.vm.devices.console_tail().text();
        exit::reason(end, self.vm.ports.power_off_announced(), console)
    }

    /// Serves one packet; `false` when the peer has gone.
    fn serve_control(&mut self) -> Result<bool, EventLoopError> {
        match self.control.receive()? {
            Received::Closed => return Ok(false),
            Received::Nothing => {}
            Received::Bad(bad) => self.refuse(describe(&bad))?,
            Received::Request(request, fds) => self.serve(request, fds)?,
        }
        Ok(true)
    }

    fn serve(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<(), EventLoopError> {
        // `Control` lets no request through without its descriptors.
        let mut fds = fds.into_iter();
        let answer = match request {
            Request::Connect { port } => {
                if let Some(fd) = fds.next() {
                    let changes = self.vm.devices.connect(port, UnixStream::from(fd));
                    self.apply(changes)?;
                }
                return Ok(());
            }
            Request::AttachNet {
                slot,
                pairs,
                mac,
                mtu,
                ..
            } => {
                let taps = fds.by_ref().take(pairs.into()).collect();
                let ends = NetEnds {
                    taps,
                    vhosts: fds.collect(),
                };
                let changed = self.vm.devices.attach_net(slot, ends, mac, mtu);
                self.vm.register_plugged(slot);
                return self.replugged(changed, Event::NetAttached);
            }
            Request::DetachNet { slot } => {
                let changed = self.vm.devices.detach_net(slot);
                return self.replugged(changed, Event::NetDetached);
            }
            Request::AttachBlock { slot, disk } => {
                let changed = self.vm.devices.attach_block(slot, &disk, fds.collect());
                self.vm.register_plugged(slot);
                return self.replugged(changed, Event::BlockAttached);
            }
            Request::DetachBlock { slot } => {
                let changed = self.vm.devices.detach_block(slot);
                return self.replugged(changed, Event::BlockDetached);
            }
            Request::AttachFs { tag } => {
                let Some(socket) = fds.next() else {
                    return Ok(());
                };
                let changed = self.vm.devices.attach_fs(&tag, socket);
                self.vm.register_plugged(Slot::FS);
                return self.replugged(changed, Event::FsAttached);
            }
            Request::Pause => return self.pause(),
            Request::Resume => {
                if self.paused {
                    self.vm.devices.resume();
                    self.vcpus.resume();
                    self.paused = false;
                }
                Event::Resumed
            }
            Request::Trace => Event::Trace {
                marks: self.vm.trace.marks(),
            },
            Request::Jail => Event::Jail {
                holds: self.jail.holds(),
            },
            Request::Nets => Event::Nets {
                interfaces: self.vm.devices.nets(),
            },
            Request::Disks => Event::Disks {
                disks: self.vm.devices.disks(),
            },
        };
        Ok(self.control.send(&answer)?)
    }

    fn replugged(
        &mut self,
        changed: Result<Vec<SourceChange>, DeviceError>,
        answer: Event,
    ) -> Result<(), EventLoopError> {
        match changed {
            Ok(changes) => {
                self.apply(changes)?;
                Ok(self.control.send(&answer)?)
            }
            Err(error) => self.refuse(describe(&error)),
        }
    }

    fn pause(&mut self) -> Result<(), EventLoopError> {
        if !self.paused {
            if let Err(error) = self.vcpus.pause() {
                self.vcpus.resume();
                return self.refuse(describe(&error));
            }
            self.vm.devices.pause();
            self.paused = true;
        }
        Ok(self.control.send(&Event::Paused)?)
    }

    fn refuse(&mut self, message: String) -> Result<(), EventLoopError> {
        Ok(self.control.send(&Event::Refused { message })?)
    }

    fn announce_ready(&mut self) -> Result<(), EventLoopError> {
        if !self.announced_ready && self.vm.devices.ready() {
            self.announced_ready = true;
            self.vm.trace.mark("agent-ready");
            self.control.send(&Event::Ready)?;
        }
        Ok(())
    }

    fn apply(&self, changes: Vec<SourceChange>) -> Result<(), EventLoopError> {
        apply(&self.epoll, changes)
    }
}

/// The sooner of a timeout in milliseconds (-1: none) and a time.
fn sooner(timeout: i32, due: Option<Instant>) -> i32 {
    let Some(due) = due else { return timeout };
    // Rounded up: a wait that ends early would end again and again.
    let wait = due.saturating_duration_since(Instant::now()).as_micros();
    let wait = i32::try_from(wait.div_ceil(1000)).unwrap_or(i32::MAX);
    match timeout {
        -1 => wait,
        timeout => timeout.min(wait),
    }
}

/// Watches the control socket and what the devices have.
fn watch_all(vm: &mut Vm, control: &Control) -> Result<Epoll, EventLoopError> {
    let epoll = Epoll::new().map_err(|source| EventLoopError::Epoll {
        attempt: "create an epoll instance",
        source,
    })?;
    add(&epoll, control, CONTROL)?;
    let sources = vm.devices.sources();
    let changes = sources
        .into_iter()
        .map(|(fd, events, id)| SourceChange::Add(fd, events, id));
    apply(&epoll, changes.collect())?;
    Ok(epoll)
}

fn add(epoll: &Epoll, fd: &impl AsRawFd, mark: u64) -> Result<(), EventLoopError> {
    let event = EpollEvent::new(EventSet::IN, mark);
    let added = epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event);
    added.map_err(|source| EventLoopError::Epoll {
        attempt: "watch a descriptor",
        source,
    })
}

fn apply(epoll: &Epoll, changes: Vec<SourceChange>) -> Result<(), EventLoopError> {
    for change in changes {
        change
            .apply(epoll)
            .map_err(|source| EventLoopError::Epoll {
                attempt: "watch a device's descriptor",
                source,
            })?;
    }
    Ok(())
}
