//! Addresses that containers whose policy names domains may reach: what the name server told them,
//! for as long as it said.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hull_network::egress::{may_be_named, Egress, Pattern};
use tokio::sync::{mpsc, oneshot};

use super::manage::Networks;

/// Shortest time that an address may be reached: programs keep what they were told a little longer
/// than they should.
const LEAST: Duration = Duration::from_secs(60);
/// Longest time.
const MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// Most addresses of a container: each is a packet rule, or two.
const MAX_ADDRESSES: usize = 128;
/// Of these, of one name: what its owner answers leaves room for other names.
const MAX_OF_NAME: usize = 64;
/// Answers that wait to be learned.
const WAITING: usize = 64;

/// An answer that a container is about to get.
#[derive(Debug)]
pub(super) struct Lesson {
    /// Id of the container.
    pub(super) owner: String,
    /// What it asked for, in lower case and without a last dot.
    pub(super) name: String,
    /// With their times to live.
    pub(super) addresses: Vec<(IpAddr, Duration)>,
    /// Told when the addresses may be reached.
    pub(super) done: oneshot::Sender<()>,
}

/// Where lessons come in.
pub(super) type Lessons = mpsc::Receiver<Lesson>;

/// A way for lessons.
pub(super) fn channel() -> (mpsc::Sender<Lesson>, Lessons) {
    mpsc::channel(WAITING)
}

/// What all containers learned, by their ids.
#[derive(Debug, Default)]
pub(super) struct Learned(HashMap<String, Vec<Known>>);

#[derive(Debug)]
struct Known {
    name: String,
    address: IpAddr,
    until: Instant,
}

impl Learned {
    /// Adds what a container is told; `true`: something is new.
    fn add(&mut self, owner: &str, name: &str, address: IpAddr, until: Instant) -> bool {
        let all = self.0.entry(owner.to_owned()).or_default();
        let known = all
            .iter_mut()
            .find(|known| known.name == name && known.address == address);
        if let Some(known) = known {
            known.until = known.until.max(until);
            return false;
        }
        let oldest_of_name = all.iter().position(|known| known.name == name);
        let of_name = all.iter().filter(|known| known.name == name).count();
        match oldest_of_name {
            Some(oldest) if MAX_OF_NAME <= of_name => drop(all.remove(oldest)),
            _ if MAX_ADDRESSES <= all.len() => drop(all.remove(0)),
            _ => {}
        }
        all.push(Known {
            name: name.to_owned(),
            address,
            until,
        });
        true
    }

    /// Removes what is no longer true; `true`: there was some.
    fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for all in self.0.values_mut() {
            let before = all.len();
            all.retain(|known| now < known.until);
            any |= all.len() < before;
        }
        any
    }

    fn next_end(&self) -> Option<Instant> {
        self.0.values().flatten().map(|known| known.until).min()
    }

    /// Forgets a container.
    pub(super) fn forget(&mut self, owner: &str) {
        self.0.remove(owner);
    }

    /// A container's policy with addresses in the place of names.
    pub(super) fn resolve(&self, owner: &str, egress: &Egress) -> Egress {
        egress.resolve(&|pattern: &Pattern| {
            let all = self.0.get(owner).into_iter().flatten();
            all.filter(|known| pattern.matches(&known.name))
                .map(|known| known.address)
                .collect()
        })
    }
}

impl Networks {
    /// Opens what containers were told, and closes it again, for as long as the engine runs.
    pub(crate) async fn keep_lessons(&self) {
        let Some(mut lessons) = self.take_lessons() else {
            return;
        };
        loop {
            let end = self.lock().learned.next_end();
            let end = end.unwrap_or_else(|| Instant::now() + MOST);
            tokio::select! {
                lesson = lessons.recv() => match lesson {
                    Some(lesson) => self.learn(lesson),
                    None => return,
                },
                () = tokio::time::sleep_until(end.into()) => {
                    let mut state = self.lock();
                    if state.learned.expire(Instant::now()) {
                        self.apply_or_warn(&mut state);
                    }
                }
            }
        }
    }

    fn learn(&self, lesson: Lesson) {
        let mut state = self.lock();
        // It may have ended meanwhile.
        if state.live.contains_key(&lesson.owner) {
            let mut new = false;
            let told = lesson.addresses.iter();
            for (address, lifetime) in told.filter(|(address, _)| may_be_named(*address)) {
                let until = Instant::now() + (*lifetime).clamp(LEAST, MOST);
                new |= state
                    .learned
                    .add(&lesson.owner, &lesson.name, *address, until);
            }
            if new {
                self.apply_or_warn(&mut state);
            }
        }
        // Who asked may have gone.
        let _ = lesson.done.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_for_its_time() {
        let mut learned = Learned::default();
        let address: IpAddr = [192, 0, 2, 1].into();
        let now = Instant::now();
        let policy: Egress = "allow:example.org:443".parse().unwrap();
        assert!(learned.add("c", "example.org", address, now + LEAST));
        assert!(!learned.add("c", "example.org", address, now + LEAST * 2));
        let text = |learned: &Learned| learned.resolve("c", &policy).to_string();
        assert_eq!(text(&learned), "allow:192.0.2.1/32:443");
        assert!(!learned.expire(now + LEAST));
        assert!(learned.expire(now + LEAST * 2));
        assert_eq!(text(&learned), "allow:");
        assert_eq!(learned.next_end(), None);
        let mut add_many = |name: &str| {
            for host in 0..MAX_ADDRESSES as u32 + 10 {
                learned.add("c", name, std::net::Ipv4Addr::from(host).into(), now);
            }
            learned.0["c"].len()
        };
        assert_eq!(add_many("example.org"), MAX_OF_NAME);
        assert_eq!(add_many("example.net"), 2 * MAX_OF_NAME);
        assert_eq!(add_many("example.com"), MAX_ADDRESSES);
    }
}
