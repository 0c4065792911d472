//! Files of lines that a container may have changed.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use crate::error::{AgentError, Context as _, Result};

/// Most bytes of a file: a container may have made anything of it.
const MOST_BYTES: u64 = 1 << 20;

/// Takes lines out of a file and puts others at its end. It stays the same file, which is mounted.
pub(crate) fn replace(path: &Path, remove: &[String], add: &[String]) -> Result<()> {
    let failed = || format!("failed to change {}", path.display());
    let mut text = Vec::new();
    let file = File::open(path).context(failed)?;
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut text)
        .context(failed)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(AgentError::invalid(format!(
            "{} has more than {MOST_BYTES} bytes by now",
            path.display()
        )));
    }
    fs::write(path, replaced(&text, remove, add)).context(failed)
}

fn replaced(text: &[u8], remove: &[String], add: &[String]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = text
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
        .filter(|line| !remove.iter().any(|gone| gone.as_bytes() == *line))
        .collect();
    lines.extend(add.iter().map(String::as_bytes));
    let ended = lines.iter().map(|line| [line, b"\n".as_slice()].concat());
    ended.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_and_come_and_others_stay() {
        let lines = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let of = |text: &str, remove: &[&str], add: &[&str]| {
            String::from_utf8(replaced(text.as_bytes(), &lines(remove), &lines(add))).unwrap()
        };
        assert_eq!(of("a\nb\n", &["a"], &["c"]), "b\nc\n");
        assert_eq!(of("a\nown", &["b"], &["c"]), "a\nown\nc\n");
        assert_eq!(of("a\n\na\n", &["a"], &[]), "\n");
        assert_eq!(of("", &["a"], &["c", "d"]), "c\nd\n");
    }

    #[test]
    fn a_file_stays_the_same_one() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        fs::write(&path, "a\n").unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        replace(&path, &[], &["b".to_owned()]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        let large = vec![b'x'; 1 << 21];
        fs::write(&path, &large).unwrap();
        assert!(replace(&path, &[], &["b".to_owned()]).is_err());
        assert_eq!(fs::read(&path).unwrap(), large);
    }
}
