//! The host's end of a VMM's control socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hull_vm_config::control::{Event, Request, MAX_DISK_FILES, MAX_MESSAGE_BYTES};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::VmmError;
use crate::sys;

/// How long the VMM has to answer a request; it answers from its event loop.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Descriptors beside a request.
const MAX_FDS: usize = MAX_DISK_FILES;

/// The socket. Requests that have an answer are answered in their order.
#[derive(Debug)]
pub(super) struct Control {
    socket: AsyncFd<OwnedFd>,
    waiting: Mutex<VecDeque<oneshot::Sender<Event>>>,
}

impl Control {
    /// `socket` is non-blocking.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: sys::async_fd(socket)?,
            waiting: Mutex::default(),
        })
    }

    /// Sends a request, with descriptors for the VMM beside it.
    pub(super) async fn send(&self, request: &Request, fds: &[OwnedFd]) -> io::Result<()> {
        let packet = serde_json::to_vec(request)?;
        loop {
            let mut guard = self.socket.writable().await?;
            match guard.try_io(|socket| send_now(socket.get_ref(), &packet, fds)) {
                Ok(sent) => return sent,
                Err(_would_block) => {}
            }
        }
    }

    /// Sends a request, with descriptors for the VMM beside it, and waits for its answer.
    pub(super) async fn ask(&self, request: &Request, fds: &[OwnedFd]) -> Result<Event, VmmError> {
        let (answer, answered) = oneshot::channel();
        // Queue and send in one step, or two requests could get each other's answer. The send
        // does not wait: requests are small and the VMM reads them at once.
        {
            let mut waiting = self.waiting();
            let packet = serde_json::to_vec(request).map_err(|error| VmmError::Send {
                source: error.into(),
            })?;
            send_now(self.socket.get_ref(), &packet, fds)
                .map_err(|source| VmmError::Send { source })?;
            waiting.push_back(answer);
        }
        match tokio::time::timeout(ANSWER_LIMIT, answered).await {
            Ok(Ok(event)) => Ok(event),
            _ => Err(VmmError::NoAnswer {
                limit: ANSWER_LIMIT,
            }),
        }
    }

    /// The next unasked event; answers are handed to who waits for them. `None` when the VMM has
    /// closed the socket or sends what is no event.
    pub(super) async fn next(&self) -> Option<Event> {
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        loop {
            let event = self.receive(&mut buffer).await?;
            match event {
                Event::Started | Event::Ready | Event::Exited { .. } => return Some(event),
                answer => {
                    // Nobody may wait any more.
                    if let Some(waiter) = self.waiting().pop_front() {
                        let _ = waiter.send(answer);
                    }
                }
            }
        }
    }

    async fn receive(&self, buffer: &mut [u8]) -> Option<Event> {
        loop {
            let mut guard = self.socket.readable().await.ok()?;
            let received = guard.try_io(|socket| {
                let (_, length) = rustix::net::recv(
                    socket.get_ref(),
                    &mut *buffer,
                    RecvFlags::DONTWAIT | RecvFlags::TRUNC,
                )?;
                Ok(length)
            });
            match received {
                Ok(Ok(0)) => return None,
                Ok(Ok(length)) => return serde_json::from_slice(buffer.get(..length)?).ok(),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => return None,
                Err(_would_block) => {}
            }
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<oneshot::Sender<Event>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send_now(socket: &OwnedFd, packet: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, flags)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use hull_vm_config::control::ExitReason;
    use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};

    use super::*;

    fn pair() -> (Control, OwnedFd) {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        (Control::new(ours).unwrap(), theirs)
    }

    fn say(vmm: &OwnedFd, event: &Event) {
        send_now(vmm, &serde_json::to_vec(event).unwrap(), &[]).unwrap();
    }

    #[tokio::test]
    async fn an_answer_goes_to_its_asker_and_events_go_to_the_reader() {
        let (control, vmm) = pair();
        say(&vmm, &Event::Started);
        say(&vmm, &Event::Paused);
        say(&vmm, &Event::Ready);
        let asked = control.ask(&Request::Pause, &[]);
        let events = async { (control.next().await, control.next().await) };
        let (answer, events) = tokio::join!(asked, events);
        assert_eq!(answer.unwrap(), Event::Paused);
        assert_eq!(events, (Some(Event::Started), Some(Event::Ready)));
    }

    #[tokio::test]
    async fn garbage_and_a_closed_socket_end_the_stream() {
        let (control, vmm) = pair();
        let end = Event::Exited {
            reason: ExitReason::PowerOff,
        };
        say(&vmm, &end);
        assert_eq!(control.next().await, Some(end));
        send_now(&vmm, b"no event", &[]).unwrap();
        assert_eq!(control.next().await, None);
        drop(vmm);
        assert_eq!(control.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_an_error() {
        let (control, _vmm) = pair();
        let answer = control.ask(&Request::Trace, &[]).await;
        assert!(matches!(answer, Err(VmmError::NoAnswer { .. })));
    }
}
