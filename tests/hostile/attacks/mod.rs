//! What a hostile guest does, one function for each.

pub(crate) mod files;
mod frames;
mod machine;
mod requests;
mod rings;
mod transport;

use crate::code::Code;

/// How an attack has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every step is answered, and the VM goes on.
    Served,
    /// It goes on, stands still or ends, as the host's KVM has it; while it is there it obeys.
    Contained,
    /// The VM ends, and the reason that is told begins so.
    Ends(&'static str),
}

/// An attack from inside of a guest.
pub(crate) struct Attack {
    /// In words that a function could have.
    pub(crate) name: &'static str,
    /// For the table: what the guest does.
    pub(crate) what: &'static str,
    /// What stops it.
    pub(crate) layer: &'static str,
    pub(crate) outcome: Outcome,
    /// It has a shared directory.
    pub(crate) share: bool,
    /// It has a network.
    pub(crate) tap: bool,
    /// The host's kernel serves that.
    pub(crate) vhost: bool,
    /// Its instructions.
    pub(crate) write: fn(&mut Code),
}

const fn served(
    name: &'static str,
    layer: &'static str,
    what: &'static str,
    write: fn(&mut Code),
) -> Attack {
    Attack {
        name,
        what,
        layer,
        share: false,
        tap: false,
        vhost: false,
        outcome: Outcome::Served,
        write,
    }
}

const fn with_share(
    name: &'static str,
    layer: &'static str,
    what: &'static str,
    write: fn(&mut Code),
) -> Attack {
    Attack {
        share: true,
        ..served(name, layer, what, write)
    }
}

const fn with_tap(
    name: &'static str,
    layer: &'static str,
    what: &'static str,
    write: fn(&mut Code),
) -> Attack {
    Attack {
        tap: true,
        ..served(name, layer, what, write)
    }
}

const fn with_vhost(
    name: &'static str,
    layer: &'static str,
    what: &'static str,
    write: fn(&mut Code),
) -> Attack {
    Attack {
        vhost: true,
        ..with_tap(name, layer, what, write)
    }
}

const fn contained(
    name: &'static str,
    layer: &'static str,
    what: &'static str,
    write: fn(&mut Code),
) -> Attack {
    Attack {
        outcome: Outcome::Contained,
        ..served(name, layer, what, write)
    }
}

const fn ends(
    name: &'static str,
    reason: &'static str,
    layer: &'static str,
    what: &'static str,
    write: fn(&mut Code),
) -> Attack {
    Attack {
        outcome: Outcome::Ends(reason),
        ..served(name, layer, what, write)
    }
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Attack> {
    [
        transport::ATTACKS,
        rings::ATTACKS,
        requests::ATTACKS,
        frames::ATTACKS,
        files::ATTACKS,
        machine::ATTACKS,
    ]
    .into_iter()
    .flatten()
}
