//! The file that networks are kept in across restarts.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::NetworkRecord;
use crate::error::{EngineError, Result};

/// Shape of the file; a higher one is refused.
const SCHEMA: u32 = 1;
const WHAT: &str = "networks";

#[derive(Serialize, Deserialize)]
struct Kept<N> {
    schema: u32,
    networks: N,
}

/// Reads the networks; none where there is no file.
pub(super) fn read(file: &Path) -> Result<Vec<NetworkRecord>> {
    match std::fs::read(file) {
        Ok(text) => decode(file, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(EngineError::io("read", file, error)),
    }
}

fn decode(path: &Path, text: &[u8]) -> Result<Vec<NetworkRecord>> {
    let damaged = |source: serde_json::Error| EngineError::StateDamaged {
        what: WHAT,
        path: path.to_owned(),
        source: source.into(),
    };
    let value: Value = serde_json::from_slice(text).map_err(damaged)?;
    // Before it had a number, the file was the list alone.
    if value.is_array() {
        return serde_json::from_value(value).map_err(damaged);
    }
    // The number first: what it stands for may look otherwise.
    let kept: Kept<Value> = serde_json::from_value(value).map_err(damaged)?;
    if SCHEMA < kept.schema {
        return Err(EngineError::StateTooNew {
            what: WHAT,
            path: path.to_owned(),
            found: kept.schema,
            known: SCHEMA,
        });
    }
    serde_json::from_value(kept.networks).map_err(damaged)
}

/// Writes all of them.
pub(super) fn write(file: &Path, networks: &[NetworkRecord]) -> Result<()> {
    let kept = Kept {
        schema: SCHEMA,
        networks,
    };
    let json = serde_json::to_vec(&kept).map_err(|source| EngineError::Json {
        what: "write the networks",
        source,
    })?;
    replace(file, &json).map_err(|source| EngineError::io("write", file, source))
}

/// Puts a file in the place of another: the one or the other is there whole, also after a power cut.
fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    written.write_all(content)?;
    written.sync_all()?;
    std::fs::rename(&new, file)?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_off_or_newer_is_named_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("networks.json");
        assert!(read(&file).unwrap().is_empty());
        for (text, what) in [
            (r#"{"schema":1,"networks":[{"#, "can't be read"),
            ("", "can't be read"),
            (
                r#"{"schema":2,"networks":{"by":"name"}}"#,
                "schema version 2",
            ),
            (r#"{"schema":1,"networks":[{}]}"#, "can't be read"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read(&file).unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
            assert!(error.contains("networks.json"), "{error}");
            assert_eq!(std::fs::read(&file).unwrap(), text.as_bytes());
        }
        // As an earlier hulld wrote it.
        std::fs::write(&file, "[]").unwrap();
        assert!(read(&file).unwrap().is_empty());
        write(&file, &[]).unwrap();
        assert!(read(&file).unwrap().is_empty());
    }
}
