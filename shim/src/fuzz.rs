//! Entry points for fuzzing: any bytes must end in a result, in bounded time and memory.

use hull_protocol::agent::{ListProcessesResponse, StatsContainerResponse};
use protobuf::Message as _;

use crate::agent::MAX_PROCESSES;
use crate::ps::{columns, Viewer};

/// What becomes of an agent's lists.
pub fn agent(data: &[u8]) {
    if let Ok(stats) = StatsContainerResponse::parse_from_bytes(data) {
        let _ = crate::task::fuzz_metrics(stats);
    }
    let Ok(list) = ListProcessesResponse::parse_from_bytes(data) else {
        return;
    };
    let options = [
        "-o".to_owned(),
        "pid,stat,pcpu,pmem,vsz,rss,lstart,etime,time,args".to_owned(),
    ];
    let (viewer, columns) = (Viewer::read(), columns(&options).unwrap_or_default());
    for process in list.processes.iter().take(MAX_PROCESSES) {
        for column in &columns {
            let _ = column.cell(process, &viewer);
        }
    }
}
