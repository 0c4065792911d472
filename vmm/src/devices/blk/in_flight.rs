//! The requests of a driver that are not answered yet: each is answered when the last of its
//! operations is over, and none after the driver took its memory back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::GuestMemoryMmap;

use super::disk::Disk;
use super::engine::{Engine, Finished};
use super::operation::{lower, sync, Operation, Step};
use super::request::{Completed, Reply, Status, Work};
use crate::devices::virtio::Pending;

/// What operations are carried out on.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) memory: &'a GuestMemoryMmap,
}

/// Requests, and who carries their operations out. The event loop works on it; a vCPU's thread that
/// resets the device waits by it until nothing is under way.
pub(crate) struct InFlight(Mutex<Requests>);

impl InFlight {
    pub(crate) fn new(engine: Engine, most: usize) -> Self {
        Self(Mutex::new(Requests {
            engine,
            requests: (0..most).map(|_| None).collect(),
            free: (0..most).rev().collect(),
            waiting: VecDeque::new(),
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending for InFlight {
    fn abandon(&self) {
        self.lock().abandon();
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

pub(crate) struct Requests {
    engine: Engine,
    requests: Vec<Option<Request>>,
    /// Places in `requests`.
    free: Vec<usize>,
    /// Operations for which the engine had no room, and of which request.
    waiting: VecDeque<(usize, Operation)>,
}

struct Request {
    reply: Reply,
    gives_data: bool,
    /// Each change must reach stable storage before it is answered.
    then_sync: bool,
    /// Operations that are not over.
    left: usize,
    /// What went wrong first.
    failure: Option<Status>,
}

impl Requests {
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.requests.len()
    }

    /// Takes a request on; there must be room.
    pub(crate) fn take_on(
        &mut self,
        reply: Reply,
        work: Work,
        target: Target<'_>,
        write_through: bool,
    ) -> Option<Completed> {
        let Some(ticket) = self.free.pop() else {
            return Some(reply.give(target.memory, Status::IoErr, false));
        };
        let request = Request {
            reply,
            gives_data: work.gives_data(),
            then_sync: write_through && work.changes_the_disk(),
            left: 0,
            failure: None,
        };
        self.requests[ticket] = Some(request);
        let operations = lower(work, target.disk);
        self.next_stage(ticket, operations, target)
    }

    /// Carries out what can be, and returns what is answered now.
    pub(crate) fn run(&mut self, target: Target<'_>) -> Vec<Completed> {
        let mut completed = Vec::new();
        loop {
            self.start_waiting(target);
            while let Some(finished) = self.engine.next() {
                completed.extend(self.finish(finished, target));
            }
            let stuck = self.waiting.is_empty() || !self.engine.has_room();
            if stuck && self.engine.watch() {
                return completed;
            }
        }
    }

    /// Waits until all are answered.
    pub(crate) fn settle(&mut self, target: Target<'_>) -> Vec<Completed> {
        let mut completed = self.run(target);
        while !self.is_empty() {
            self.engine.wait();
            completed.extend(self.run(target));
        }
        completed
    }

    /// Waits until nothing is under way, and forgets all requests.
    pub(crate) fn abandon(&mut self) {
        self.waiting.clear();
        while self.engine.under_way() > 0 {
            self.engine.wait();
            while self.engine.next().is_some() {}
        }
        let all = self.requests.len();
        self.requests.fill_with(|| None);
        self.free = (0..all).rev().collect();
    }

    fn start_waiting(&mut self, target: Target<'_>) {
        loop {
            while self.engine.has_room() {
                let Some((ticket, operation)) = self.waiting.pop_front() else {
                    break;
                };
                self.engine
                    .start(ticket, operation, target.disk, target.memory);
            }
            let left = self.engine.submit();
            if left.is_empty() {
                return;
            }
            self.waiting.extend(left);
        }
    }

    /// Takes the end of an operation, which may be the end of its request.
    fn finish(&mut self, finished: Finished, target: Target<'_>) -> Option<Completed> {
        let Finished {
            ticket,
            mut operation,
            answer,
        } = finished;
        let request = self.requests.get_mut(ticket)?.as_mut()?;
        match operation.answered(target.memory, answer) {
            Step::Again => {
                self.waiting.push_back((ticket, operation));
                return None;
            }
            Step::Done => {}
            Step::Failed(status) => request.failure = request.failure.or(Some(status)),
        }
        request.left -= 1;
        match request.left {
            0 => self.next_stage(ticket, Vec::new(), target),
            _ => None,
        }
    }

    /// Goes on with these operations, or with what is to follow when there are none.
    fn next_stage(
        &mut self,
        ticket: usize,
        mut operations: Vec<Operation>,
        target: Target<'_>,
    ) -> Option<Completed> {
        let request = self.requests.get_mut(ticket)?.as_mut()?;
        if operations.is_empty() && request.then_sync && request.failure.is_none() {
            request.then_sync = false;
            operations = sync(target.disk);
        }
        request.left = operations.len();
        if request.left > 0 {
            let all = operations.into_iter().map(|operation| (ticket, operation));
            self.waiting.extend(all);
            return None;
        }
        let request = self.requests[ticket].take()?;
        self.free.push(ticket);
        let status = request.failure.unwrap_or(Status::Ok);
        Some(
            request
                .reply
                .give(target.memory, status, request.gives_data),
        )
    }
}
