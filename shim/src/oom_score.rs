//! Whom the host's OOM killer takes first: what holds a container's memory is its VM's processes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the processes of a VM are to have as their `oom_score_adj`.
///
/// A VM that several containers share is as easy to kill as the easiest of them. What the first of
/// a pod has says nothing then: it holds no memory, and kubelets protect it.
#[derive(Debug)]
pub(crate) struct OomScore {
    first: i32,
    /// Of the further containers, by their ids.
    members: Mutex<BTreeMap<String, i32>>,
}

impl OomScore {
    /// Of a VM whose first container asks for this; without a wish no less than nothing, since
    /// engines protect themselves, not what they run.
    pub(crate) fn new(wanted: Option<i32>) -> Self {
        Self {
            first: wanted.unwrap_or_else(usual),
            members: Mutex::default(),
        }
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<String, i32>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A further container comes.
    pub(crate) fn join(&self, id: &str, wanted: Option<i32>) {
        let wanted = wanted.unwrap_or_else(usual);
        self.members().insert(id.to_owned(), wanted);
    }

    /// It goes.
    pub(crate) fn leave(&self, id: &str) {
        self.members().remove(id);
    }

    /// The value.
    pub(crate) fn value(&self) -> i32 {
        let highest = self.members().values().max().copied();
        highest.unwrap_or(self.first)
    }

    /// Gives it to processes.
    pub(crate) fn give(&self, pids: impl IntoIterator<Item = u32>) {
        let value = self.value();
        for pid in pids {
            let file = format!("/proc/{pid}/oom_score_adj");
            if let Err(error) = std::fs::write(&file, value.to_string()) {
                tracing::warn!(file, value, %error, "the host's OOM killer is not told");
            }
        }
    }
}

/// What a process has that nobody said anything about.
fn usual() -> i32 {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    let own = own.ok().and_then(|text| text.trim().parse().ok());
    own.unwrap_or(0).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_killed_as_easily_as_its_easiest_container() {
        let score = OomScore::new(Some(-998));
        assert_eq!(score.value(), -998);
        score.join("one", Some(5));
        assert_eq!(score.value(), 5);
        score.join("two", Some(-997));
        assert_eq!(score.value(), 5);
        // Who has gone counts no more.
        score.leave("one");
        assert_eq!(score.value(), -997);
        score.leave("two");
        assert_eq!(score.value(), -998);
        assert!(0 <= OomScore::new(None).value());
    }

    #[test]
    fn processes_get_it() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        OomScore::new(Some(321)).give([child.id()]);
        let has = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(has.unwrap().trim(), "321");
    }
}
