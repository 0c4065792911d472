//! What the guest's kernel and this process cost.

use hull_protocol::agent::DiagnoseResponse;

use crate::error::{AgentError, Kind, Result};

/// Reads `/proc`.
pub(crate) fn diagnose() -> Result<DiagnoseResponse> {
    let meminfo = read("/proc/meminfo")?;
    let statm = read("/proc/self/statm")?;
    Ok(DiagnoseResponse {
        agent_resident_bytes: resident(&statm) * rustix::param::page_size() as u64,
        memory_total_bytes: kibibytes(&meminfo, "MemTotal:") << 10,
        memory_available_bytes: kibibytes(&meminfo, "MemAvailable:") << 10,
        ..Default::default()
    })
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| AgentError::new(Kind::Internal, format!("failed to read {path}: {error}")))
}

/// Resident pages: the second field of `statm`.
fn resident(statm: &str) -> u64 {
    let field = statm.split_ascii_whitespace().nth(1);
    field
        .and_then(|field| field.parse().ok())
        .unwrap_or_default()
}

fn kibibytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found() {
        let meminfo = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    700 kB\n";
        assert_eq!(kibibytes(meminfo, "MemAvailable:"), 700);
        assert_eq!(kibibytes(meminfo, "Missing:"), 0);
        assert_eq!(resident("100 42 7 1 0 2 0\n"), 42);
    }

    #[test]
    fn this_process_is_resident() {
        let found = diagnose().unwrap();
        assert!(found.agent_resident_bytes > 0);
        assert!(found.memory_available_bytes <= found.memory_total_bytes);
    }
}
