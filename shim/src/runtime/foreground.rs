//! What `run` and `exec` do while their process runs: signals and the terminal go to it.

use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::mpsc;

use super::client::Task;
use super::error::{system, Result};
use super::streams::{own_size, RawTerminal};

/// Exit status of a process whose shim ended first.
const LOST_STATUS: u32 = 137;

/// Signals that stay here: of this program's children, sockets, output and terminal, or of what it does
/// itself wrong; and the two that nobody can catch.
const OWN: &[i32] = &[
    libc::SIGCHLD,
    libc::SIGURG,
    libc::SIGPIPE,
    libc::SIGWINCH,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGKILL,
    libc::SIGSTOP,
];

/// All signals are passed on, but these; the two between the others and the real-time ones are the C
/// library's.
fn all_passed_on() -> impl Iterator<Item = i32> {
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    let others = (libc::SIGHUP..=libc::SIGSYS).filter(|number| !OWN.contains(number));
    others.chain(real_time)
}

/// Signals of this program, caught from the making of this on: those that come before the process has
/// begun are its own too, and are passed on then.
pub(super) struct Signals {
    passed_on: mpsc::UnboundedReceiver<u32>,
    resized: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Self> {
        let (sender, passed_on) = mpsc::unbounded_channel();
        for number in all_passed_on() {
            let stream = caught(SignalKind::from_raw(number))?;
            let number = u32::try_from(number).unwrap_or_default();
            tokio::spawn(forward(stream, number, sender.clone()));
        }
        Ok(Self {
            passed_on,
            resized: caught(SignalKind::window_change())?,
        })
    }
}

fn caught(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(system("catch signals"))
}

async fn forward(mut stream: Signal, number: u32, sender: mpsc::UnboundedSender<u32>) {
    while stream.recv().await.is_some() {
        if sender.send(number).is_err() {
            return;
        }
    }
}

/// Waits for the end of a process that has been started. Returns its exit status.
pub(super) async fn attend(
    task: &Task,
    exec_id: &str,
    terminal: bool,
    mut signals: Signals,
) -> Result<u8> {
    let _raw = match terminal {
        true => RawTerminal::enter()?,
        false => None,
    };
    if terminal {
        resize(task, exec_id).await;
    }
    let ended = task.wait(exec_id);
    tokio::pin!(ended);
    let status = loop {
        tokio::select! {
            status = &mut ended => break status,
            _ = signals.resized.recv() => {
                if terminal {
                    resize(task, exec_id).await;
                }
            }
            Some(number) = signals.passed_on.recv() => {
                // The process may be gone by now.
                let _ = task.kill(exec_id, number, false).await;
            }
        }
    };
    Ok(u8::try_from(status.unwrap_or(LOST_STATUS)).unwrap_or(u8::MAX))
}

async fn resize(task: &Task, exec_id: &str) {
    if let Some(size) = own_size().filter(|size| 0 < size.width && 0 < size.height) {
        let _ = task.resize(exec_id, size.width, size.height).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whatever_can_be_caught_is_passed_on() {
        let mut signals = Signals::catch().unwrap();
        for number in [libc::SIGTERM, libc::SIGIO, libc::SIGRTMIN() + 3] {
            let own = std::process::id();
            let sent = std::process::Command::new("kill")
                .args([format!("-{number}"), own.to_string()])
                .status();
            // Nobody waits for them yet: the process is still being made.
            assert!(sent.unwrap().success());
            let got = signals.passed_on.recv().await;
            assert_eq!(got, u32::try_from(number).ok());
        }
    }
}
