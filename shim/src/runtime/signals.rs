//! Signals by name and number.

use nix::sys::signal::Signal;

/// First and last real-time signal, as C libraries number them for programs.
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// The number of a signal: "9", "KILL", "SIGKILL", "rtmin+1".
pub(super) fn parse(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (number <= RTMAX).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(RTMIN, offset, '+', |base, by| base.checked_add(by));
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(RTMAX, offset, '-', |base, by| base.checked_sub(by));
    }
    let name = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    let signal: Signal = format!("SIG{name}").parse().ok()?;
    u32::try_from(signal as i32).ok()
}

fn real_time(
    base: u32,
    offset: &str,
    sign: char,
    shift: impl Fn(u32, u32) -> Option<u32>,
) -> Option<u32> {
    if offset.is_empty() {
        return Some(base);
    }
    let by = offset.strip_prefix(sign)?.parse().ok()?;
    shift(base, by).filter(|number| (RTMIN..=RTMAX).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_known_and_others_not() {
        let cases = [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("SIGKILL", Some(9)),
            ("sigterm", Some(15)),
            ("POLL", Some(29)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX-99", None),
            ("FOO", None),
            ("65", None),
            ("-1", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
