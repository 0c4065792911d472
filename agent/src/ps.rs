//! The list of a container's processes, from /proc.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;

use hull_protocol::agent::ProcessInfo;
use protobuf::Message as _;

/// Clock ticks per second in /proc: fixed by the kernel's interface with user space.
const TICKS_PER_SECOND: u64 = 100;
const PAGE_BYTES: u64 = 4096;

/// Longest command line that is told, in bytes: as much as ps(1) shows.
const MAX_COMMAND_BYTES: usize = 4096;
/// Bytes of a whole list: the host takes answers of up to 1 MiB.
const MAX_LIST_BYTES: u64 = 768 << 10;

/// Processes as far as the host takes them: thousands. Where command lines are long, the last have their
/// names alone.
pub(crate) fn list(processes: impl Iterator<Item = ProcessInfo>) -> Vec<ProcessInfo> {
    let mut left = MAX_LIST_BYTES;
    let fit = processes.map_while(|mut process| {
        // Its tag and length come on top.
        let size = |process: &ProcessInfo| process.compute_size() + 8;
        if left / 2 < size(&process) {
            process.command = name_of(process.pid).unwrap_or_default();
        }
        left = left.checked_sub(size(&process))?;
        Some(process)
    });
    fit.collect()
}

fn name_of(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("[{}]", name.trim_end()))
}

/// What /proc tells of a process; `None` once it is gone.
pub(crate) fn info(pid: u32, machine: &Machine) -> Option<ProcessInfo> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut info = parse_stat(&stat, machine)?;
    info.pid = pid;
    info.uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let command = command_line(pid).unwrap_or_default();
    let command = String::from_utf8_lossy(&command);
    let command = command.trim_end_matches('\0').replace('\0', " ");
    if !command.is_empty() {
        info.command = command;
    }
    Some(info)
}

fn command_line(pid: u32) -> io::Result<Vec<u8>> {
    let mut command = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/cmdline"))?;
    file.take(MAX_COMMAND_BYTES as u64)
        .read_to_end(&mut command)?;
    Ok(command)
}

/// What processes are compared with.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// Seconds since the epoch at which it started, by today's clock.
    boot_seconds: u64,
    memory_bytes: u64,
}

impl Machine {
    /// This one, now.
    pub(crate) fn read() -> Self {
        let number = |path, word| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(word));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
        };
        Self {
            boot_seconds: number("/proc/stat", "btime "),
            memory_bytes: number("/proc/meminfo", "MemTotal:") * 1024,
        }
    }

    fn permille(&self, bytes: u64) -> u32 {
        let share = bytes.saturating_mul(1000).checked_div(self.memory_bytes);
        u32::try_from(share.unwrap_or(0)).unwrap_or(u32::MAX)
    }
}

/// By proc_pid_stat(5).
fn parse_stat(stat: &str, machine: &Machine) -> Option<ProcessInfo> {
    // The name is in parentheses and may itself hold parentheses and spaces.
    let (start, end) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(start + 1..end)?;
    let fields: Vec<&str> = stat.get(end + 1..)?.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let small = |field: usize| number(field).and_then(|number| u32::try_from(number).ok());
    let ticks = |ticks: u64| ticks * (1_000_000_000 / TICKS_PER_SECOND);
    let group = small(5).unwrap_or(0);
    let resident_bytes = number(24).unwrap_or(0) * PAGE_BYTES;
    Some(ProcessInfo {
        ppid: small(4)?,
        group,
        session: small(6).unwrap_or(0),
        // Without a terminal it is -1.
        in_foreground: small(8) == Some(group),
        nice: fields
            .get(19 - 3)
            .and_then(|nice| nice.parse().ok())
            .unwrap_or(0),
        threads: small(20).unwrap_or(0),
        virtual_bytes: number(23).unwrap_or(0),
        resident_bytes,
        memory_permille: machine.permille(resident_bytes),
        tty: tty_name(number(7).unwrap_or(0)),
        cpu_ns: ticks(number(14)? + number(15)?),
        started_at_ns: machine.boot_seconds * 1_000_000_000 + ticks(number(22)?),
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
    fn a_list_stays_below_what_the_host_takes() {
        let of = |length: usize| ProcessInfo {
            // Nobody's.
            pid: u32::MAX,
            command: "x".repeat(length),
            ..Default::default()
        };
        let size = |list: Vec<ProcessInfo>| {
            let count = list.len();
            let answer = hull_protocol::agent::ListProcessesResponse {
                processes: list,
                ..Default::default()
            };
            (count, answer.compute_size())
        };
        let (count, bytes) = size(list((0..500).map(|_| of(MAX_COMMAND_BYTES))));
        assert_eq!(count, 500);
        assert!(bytes <= MAX_LIST_BYTES, "{bytes}");
        let (count, bytes) = size(list((0..1_000_000).map(|_| of(60))));
        assert!(8000 < count && bytes <= MAX_LIST_BYTES, "{count} {bytes}");
    }

    #[test]
    fn odd_names_do_not_confuse_the_fields() {
        let stat = "7 (a) b) S 1 7 6 34817 7 0 0 0 0 0 250 50 0 0 25 5 3 0 1000 8192 2";
        let machine = Machine {
            boot_seconds: 100,
            memory_bytes: 80 << 10,
        };
        let info = parse_stat(stat, &machine).unwrap();
        assert_eq!((info.ppid, info.tty.as_str()), (1, "pts/1"));
        assert_eq!(info.cpu_ns, 3_000_000_000);
        assert_eq!(info.started_at_ns, 110_000_000_000);
        assert_eq!(
            (info.command.as_str(), info.state.as_str()),
            ("[a) b]", "S")
        );
        assert_eq!((info.group, info.session, info.in_foreground), (7, 6, true));
        assert_eq!((info.nice, info.threads), (5, 3));
        assert_eq!((info.virtual_bytes, info.resident_bytes), (8192, 8192));
        assert_eq!(info.memory_permille, 100);
    }
}
