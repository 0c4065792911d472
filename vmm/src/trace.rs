//! The boot trace: what happened when, since the VMM's `main` began.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hull_protocol::TraceMark;
use hull_vm_config::control::Mark;

/// The guest can write marks as often as it likes; this bounds what they cost the host.
const MAX_MARKS: usize = 64;

/// Collects marks from all threads.
#[derive(Debug)]
pub struct BootTrace {
    began: Instant,
    marks: Mutex<Vec<Mark>>,
}

impl BootTrace {
    /// Starts the clock.
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            marks: Mutex::new(Vec::with_capacity(MAX_MARKS)),
        }
    }

    /// Records a mark; only the first of each name counts, and no more than 64 in all.
    pub fn mark(&self, name: &str) {
        let at_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() < MAX_MARKS && marks.iter().all(|mark| mark.name != name) {
            marks.push(Mark {
                name: name.to_owned(),
                at_ns,
            });
        }
    }

    /// Records a mark that the guest wrote; a byte that is no mark is ignored.
    pub fn guest_mark(&self, byte: u8) {
        if let Some(mark) = TraceMark::from_byte(byte) {
            self.mark(mark.name());
        }
    }

    /// The marks so far, in order of time.
    pub fn marks(&self) -> Vec<Mark> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut marks = marks.clone();
        marks.sort_by_key(|mark| mark.at_ns);
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_mark_of_a_name_counts() {
        let trace = BootTrace::start();
        for _ in 0..1000 {
            trace.guest_mark(TraceMark::AgentStart as u8);
        }
        trace.guest_mark(0xee);
        let names: Vec<_> = trace.marks().into_iter().map(|mark| mark.name).collect();
        assert_eq!(names, ["agent-start"]);
    }

    #[test]
    fn marks_are_in_order_of_time() {
        let trace = BootTrace::start();
        trace.mark("first");
        trace.mark("second");
        let marks = trace.marks();
        assert_eq!(marks[0].name, "first");
        assert!(marks[0].at_ns <= marks[1].at_ns);
    }
}
