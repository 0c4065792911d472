//! The list of a container's processes, from /proc.

use std::fs;
use std::os::unix::fs::MetadataExt;

use hull_protocol::agent::ProcessInfo;

/// Clock ticks per second in /proc: fixed by the kernel's interface with user space.
const TICKS_PER_SECOND: u64 = 100;

/// What /proc tells of a process; `None` once it is gone.
pub(crate) fn info(pid: u32, boot_seconds: u64) -> Option<ProcessInfo> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut info = parse_stat(&stat, boot_seconds)?;
    info.pid = pid;
    info.uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command);
    let command = command.trim_end_matches('\0').replace('\0', " ");
    if !command.is_empty() {
        info.command = command;
    }
    Some(info)
}

/// Seconds since the epoch at which the machine started, by today's clock.
pub(crate) fn boot_seconds() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

fn parse_stat(stat: &str, boot_seconds: u64) -> Option<ProcessInfo> {
    // The name is in parentheses and may itself hold parentheses and spaces.
    let (start, end) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(start + 1..end)?;
    let fields: Vec<&str> = stat.get(end + 1..)?.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = |ticks: u64| ticks * (1_000_000_000 / TICKS_PER_SECOND);
    Some(ProcessInfo {
        ppid: u32::try_from(number(4)?).ok()?,
        tty: tty_name(number(7).unwrap_or(0)),
        cpu_ns: ticks(number(14)? + number(15)?),
        started_at_ns: boot_seconds * 1_000_000_000 + ticks(number(22)?),
        command: format!("[{name}]"),
        state: (*fields.first()?).to_string(),
        ..Default::default()
    })
}

/// A terminal's name from its device number, as ps shows it.
fn tty_name(device: u64) -> String {
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xfff00),
    );
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => "?".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_do_not_confuse_the_fields() {
        let stat = "7 (a) b) S 1 7 7 34817 7 0 0 0 0 0 250 50 0 0 20 0 1 0 1000 0 0";
        let info = parse_stat(stat, 100).unwrap();
        assert_eq!((info.ppid, info.tty.as_str()), (1, "pts/1"));
        assert_eq!(info.cpu_ns, 3_000_000_000);
        assert_eq!(info.started_at_ns, 110_000_000_000);
        assert_eq!(
            (info.command.as_str(), info.state.as_str()),
            ("[a) b]", "S")
        );
    }
}
