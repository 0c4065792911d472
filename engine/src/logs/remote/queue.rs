//! What waits for a server: bounded, so that one that is down costs messages and no memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Message;

/// What a message takes beside its text.
const OVERHEAD_BYTES: usize = 64;

/// Messages on their way from a container to the task that delivers them.
#[derive(Debug)]
pub(super) struct Queue {
    max_bytes: usize,
    state: Mutex<State>,
    /// There is a message, or there will be no more.
    news: Notify,
    /// The same, for who waits for the last one to go.
    idle: Notify,
    closed: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    lost: u64,
    closed: bool,
    /// One has been taken and not been delivered yet.
    delivering: bool,
}

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            state: Mutex::default(),
            news: Notify::new(),
            idle: Notify::new(),
            closed: Notify::new(),
        }
    }

    /// Puts a message at the end. One for which there is no room is lost, and counted; a queue that
    /// is empty takes any.
    pub(super) fn push(&self, message: Message) {
        let mut state = self.lock();
        let bytes = message.text.len() + OVERHEAD_BYTES;
        if state.closed || (!state.messages.is_empty() && self.max_bytes < state.bytes + bytes) {
            state.lost += 1;
            return;
        }
        state.bytes += bytes;
        state.messages.push_back(message);
        drop(state);
        self.news.notify_one();
    }

    /// The first message, as soon as there is one; the one before is then delivered. `None`: there
    /// will be no more.
    pub(super) async fn next(&self) -> Option<Message> {
        loop {
            {
                let mut state = self.lock();
                state.delivering = false;
                if let Some(message) = state.messages.pop_front() {
                    state.bytes -= message.text.len() + OVERHEAD_BYTES;
                    state.delivering = true;
                    return Some(message);
                }
                self.idle.notify_waiters();
                if state.closed {
                    return None;
                }
            }
            self.news.notified().await;
        }
    }

    /// No more messages come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
        self.closed.notify_one();
    }

    /// Waits until no more messages come.
    pub(super) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// Waits until everything has been delivered.
    pub(super) async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Before the look: what happens after it is not missed.
            idle.as_mut().enable();
            {
                let state = self.lock();
                if state.messages.is_empty() && !state.delivering {
                    return;
                }
            }
            idle.await;
        }
    }

    /// How many were lost since the last look.
    pub(super) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.lock().lost)
    }

    /// Gives up what is still there.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.lost += state.messages.len() as u64 + u64::from(state.delivering);
        state.messages.clear();
        state.bytes = 0;
        state.delivering = false;
        self.idle.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[tokio::test]
    async fn what_has_no_room_is_lost_and_counted() {
        let queue = Queue::new(2 * (10 + OVERHEAD_BYTES));
        queue.push(message(&"a".repeat(1000)));
        assert!(queue.next().await.is_some(), "an empty one takes any");
        for text in ["1234567890", "abcdefghij", "x"] {
            queue.push(message(text));
        }
        queue.close();
        queue.push(message("late"));
        assert_eq!(queue.take_lost(), 2);
        let mut texts = Vec::new();
        while let Some(message) = queue.next().await {
            texts.push(String::from_utf8(message.text).unwrap());
        }
        assert_eq!(texts, ["1234567890", "abcdefghij"]);
        queue.drained().await;
    }

    #[tokio::test]
    async fn empty_lines_take_room_as_well() {
        let queue = Queue::new(1000);
        for _ in 0..100 {
            queue.push(message(""));
        }
        assert!(80 < queue.take_lost());
        queue.abandon();
        queue.drained().await;
        assert!(0 < queue.take_lost());
    }
}
