//! `ps`: the guest's processes, in the columns that ps(1) would show.

use std::io::Write;

use hull_protocol::agent::ProcessInfo;

use super::cli::{Format, PsArgs};
use super::client::Status;
use super::control::find;
use super::error::{Result, RuntimeError};
use super::inspect::{aligned, print, to_json};
use super::Context;
use crate::ps::{columns, Column, Viewer};

/// `ps`. The table shows the guest's processes, which the host does not see. As JSON the list is for
/// programs that look its PIDs up on the host (`docker top` does): those that stand for the first
/// process and for execs.
pub(super) async fn ps(context: &Context, args: &PsArgs, out: &mut impl Write) -> Result<u8> {
    let (id, options) = args
        .target
        .split_first()
        .ok_or_else(|| super::usage_error("requires a minimum of 1 argument(s)"))?;
    let columns = columns(options).map_err(|error| RuntimeError::Usage(error.to_string()))?;
    let found = find(context, id).await?;
    let is_stopped = found.status == Status::Stopped;
    let text = match args.format {
        Format::Json if is_stopped => "[]\n".to_owned(),
        Format::Json => to_json(&found.task()?.pids().await?, false)? + "\n",
        Format::Table if is_stopped => table(&columns, &[]),
        Format::Table => table(&columns, &found.task()?.processes().await?),
    };
    print(out, &text)?;
    Ok(0)
}

/// How wide ps(1) makes a PID: the largest that there can be.
const PID_WIDTH: usize = 7;

fn table(columns: &[Column], processes: &[ProcessInfo]) -> String {
    let head = columns
        .iter()
        .map(|column| flush(column, column.head().to_owned()));
    let viewer = Viewer::read();
    let row = |process| {
        let cells = columns
            .iter()
            .map(|column| flush(column, column.cell(process, &viewer)));
        cells.collect()
    };
    let rows = processes.iter().map(row);
    let rows: Vec<Vec<String>> = std::iter::once(head.collect()).chain(rows).collect();
    aligned(&rows)
}

/// PIDs end below each other, as ps(1) has them.
fn flush(column: &Column, cell: String) -> String {
    match column.is_of_pids() {
        true => format!("{cell:>PID_WIDTH$}"),
        false => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_its_columns_only() {
        let process = ProcessInfo {
            pid: 7,
            command: "sleep 1".into(),
            ..ProcessInfo::default()
        };
        let columns = columns(&["-o".to_owned(), "pid,cmd".to_owned()]).unwrap();
        let text = table(&columns, &[process]);
        assert_eq!(text, "    PID     CMD\n      7     sleep 1\n");
    }
}
