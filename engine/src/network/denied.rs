//! Packets that containers were denied: counted while their ends are there, and told of.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hull_network::rules::Denied;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::manage::{Networks, State};
use crate::engine::Engine;

/// How often it is looked for packets that were denied; so a container is told of once in this time.
const INTERVAL: Duration = Duration::from_secs(3);
/// What happened, in the engine's events.
const ACTION: &str = "egress-denied";

/// Packets of a container that were denied since this was last said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The container's id.
    pub(crate) container: String,
    /// The network's name.
    pub(crate) network: String,
    pub(crate) packets: u64,
}

/// What is to be told.
#[derive(Debug)]
pub(super) struct Denials {
    sender: mpsc::UnboundedSender<Denial>,
    /// Taken by the task that tells.
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Denial>>>,
}

impl Default for Denials {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
        }
    }
}

impl State {
    /// What was denied and not told yet, which counts as told from here on.
    fn untold(&mut self) -> Vec<Denial> {
        let mut all = Vec::new();
        for (id, live) in &self.live {
            for end in &live.endpoints {
                let count = self.denied.of(&end.tap);
                let told = self.told.insert(end.tap.clone(), count).unwrap_or(0);
                if told < count {
                    all.push(Denial {
                        container: id.clone(),
                        network: end.network_name.clone(),
                        packets: count - told,
                    });
                }
            }
        }
        all
    }

    pub(super) fn forget_denied(&mut self, tap: &str) {
        self.denied.forget(tap);
        self.told.remove(tap);
    }
}

impl Networks {
    /// Packets that containers were denied, by their taps.
    pub(crate) fn denied(&self) -> Denied {
        let mut state = self.lock();
        self.count_denied(&mut state);
        state.denied.clone()
    }

    /// Takes over what the kernel has counted.
    pub(super) fn count_denied(&self, state: &mut State) {
        if !state.live.is_empty() {
            state.denied.observe(Denied::read(&self.tag.table()));
        }
    }

    /// Lets the one who tells know what was denied.
    pub(super) fn note_denied(&self, state: &mut State) {
        self.count_denied(state);
        for denial in state.untold() {
            // Nobody is told while an engine ends.
            let _ = self.denials.sender.send(denial);
        }
    }

    /// Calls `tell` for what containers were denied, for as long as the engine runs.
    pub(crate) async fn watch_denied(&self, tell: impl Fn(Denial)) {
        let receiver = {
            let receiver = self.denials.receiver.lock();
            receiver.unwrap_or_else(PoisonError::into_inner).take()
        };
        let Some(mut receiver) = receiver else {
            return;
        };
        {
            // What an earlier engine has seen.
            let mut state = self.lock();
            self.count_denied(&mut state);
            state.untold();
        }
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                denial = receiver.recv() => match denial {
                    Some(denial) => tell(denial),
                    None => return,
                },
                _ = interval.tick() => self.note_denied(&mut self.lock()),
            }
        }
    }
}

impl Engine {
    /// Publishes that a container was denied something. One that was removed meanwhile is passed
    /// over.
    pub(crate) fn tell_denied(&self, denial: &Denial) {
        let Ok(container) = self.container(&denial.container) else {
            return;
        };
        let more = [
            ("network", denial.network.clone()),
            ("packets", denial.packets.to_string()),
        ];
        self.publish(&container, ACTION, more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_is_told_of_once() {
        let mut state = State::default();
        let end = crate::network::attach::tests::endpoint(0, "n", true);
        let live = state.live.entry("c".to_owned()).or_default();
        live.endpoints.push(end.clone());
        let packets = |state: &mut State| -> Vec<u64> {
            state.untold().iter().map(|denial| denial.packets).collect()
        };
        assert!(packets(&mut state).is_empty());
        state.denied.guards.insert(end.tap.clone(), 5);
        assert_eq!(packets(&mut state), [5]);
        state.denied.between.insert(end.tap.clone(), 2);
        assert_eq!(packets(&mut state), [2]);
        assert!(packets(&mut state).is_empty());
        // The next tap of this name begins anew.
        state.forget_denied(&end.tap);
        state.denied.guards.insert(end.tap.clone(), 1);
        assert_eq!(packets(&mut state), [1]);
    }
}
