use super::error::Attempt;
use super::sys::{self, LandlockAccess};
use super::JailError;

/// What each ABI added (linux/landlock.h), oldest first.
struct Generation {
    abi: u32,
    /// All file-system access rights known so far.
    fs: u64,
    /// All network access rights known so far.
    net: u64,
    /// All scopes known so far.
    scoped: u64,
    /// Bytes of the attribute structure that the kernel knows.
    length: usize,
}

const GENERATIONS: [Generation; 5] = [
    // execute .. make_sym
    generation(1, 13, 0, 0, 8),
    // + refer
    generation(2, 14, 0, 0, 8),
    // + truncate
    generation(3, 15, 0, 0, 8),
    // + bind and connect of TCP
    generation(4, 15, 2, 0, 16),
    // + ioctl of devices, and (6) abstract sockets and signals
    generation(6, 16, 2, 2, 24),
];

const fn generation(abi: u32, fs: u32, net: u32, scoped: u32, length: usize) -> Generation {
    Generation {
        abi,
        fs: (1 << fs) - 1,
        net: (1 << net) - 1,
        scoped: (1 << scoped) - 1,
        length,
    }
}

/// What [`deny_all`] reached.
pub(super) struct Denied {
    /// The kernel's ABI; `None`: it has no Landlock.
    pub(super) abi: Option<u32>,
    /// TCP is denied (ABI 4).
    pub(super) network: bool,
    /// Abstract sockets and signals out of the jail are denied (ABI 6).
    pub(super) scoped: bool,
}

/// Denies all access to files, TCP, and to abstract sockets and processes outside, as far as the
/// kernel's ABI goes. Open descriptors keep what they allow.
pub(super) fn deny_all() -> Result<Denied, JailError> {
    let abi = sys::landlock_abi().attempt("ask for the Landlock ABI")?;
    let best = GENERATIONS
        .iter()
        .rev()
        .find(|generation| abi.is_some_and(|abi| generation.abi <= abi));
    let Some(best) = best else {
        return Ok(Denied {
            abi: None,
            network: false,
            scoped: false,
        });
    };
    let access = LandlockAccess {
        fs: best.fs,
        net: best.net,
        scoped: best.scoped,
    };
    sys::landlock_restrict(&access, best.length).attempt("enter the Landlock domain")?;
    Ok(Denied {
        abi,
        network: best.net != 0,
        scoped: best.scoped != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_denies_more_than_the_one_before() {
        for pair in GENERATIONS.windows(2) {
            assert!(pair[0].abi < pair[1].abi && pair[0].length <= pair[1].length);
            assert!(
                pair[0].fs | pair[0].net << 32 | pair[0].scoped << 48
                    < pair[1].fs | pair[1].net << 32 | pair[1].scoped << 48
            );
        }
        let newest = &GENERATIONS[GENERATIONS.len() - 1];
        assert_eq!((newest.fs, newest.net, newest.scoped), (0xffff, 3, 3));
        assert_eq!(newest.length, std::mem::size_of::<LandlockAccess>());
    }
}
