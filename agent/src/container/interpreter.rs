//! Why the kernel does not execute a file that is there and executable: the words after its own.
//!
//! The kernel's "no such file or directory" of a missing interpreter and its "exec format error" of
//! another architecture name neither, and are among the errors that people search for longest.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Longest first line that the kernel reads of a script, in bytes (BINPRM_BUF_SIZE).
const MAX_SCRIPT_LINE: usize = 256;
/// Longest interpreter's path in an ELF file, in bytes (PATH_MAX).
const MAX_INTERPRETER: u64 = 4096;
/// Most program headers of an ELF file that are looked at.
const MAX_HEADERS: u16 = 64;
/// Size of an ELF file's header, and of one of its program headers, in bytes (ELF-64 Object File
/// Format, figures 2 and 6).
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_INTERP: u32 = 3;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const X86_64: u16 = 62;

/// What the file at `path` asks for that is not there, where `error` is what the kernel said.
pub(super) fn reason(path: &Path, error: &io::Error) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut head = Vec::new();
    file.by_ref()
        .take(MAX_SCRIPT_LINE as u64)
        .read_to_end(&mut head)
        .ok()?;
    match error.raw_os_error()? {
        libc::ENOENT | libc::ENOTDIR | libc::EACCES => {
            let interpreter =
                script_interpreter(&head).or_else(|| elf_interpreter(&head, &mut file))?;
            Some(match error.raw_os_error()? {
                libc::EACCES => format!("its interpreter is {interpreter}"),
                _ => missing(&interpreter, head.contains(&b'\r')),
            })
        }
        libc::ENOEXEC => Some(unknown_format(&head)),
        _ => None,
    }
}

fn missing(interpreter: &str, carriage_return: bool) -> String {
    let mut text = format!("its interpreter {interpreter} is missing");
    if carriage_return && interpreter.ends_with("\\r") {
        text += ": the file has Windows line ends";
    }
    text
}

/// The first word after `#!`.
fn script_interpreter(head: &[u8]) -> Option<String> {
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let word = line
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .find(|word| !word.is_empty())?;
    Some(word.escape_ascii().to_string())
}

/// The path in the PT_INTERP segment of an ELF file of this machine's class.
fn elf_interpreter(head: &[u8], file: &mut (impl Read + Seek)) -> Option<String> {
    if head.len() < HEADER || !head.starts_with(b"\x7fELF") || head[4] != CLASS_64 {
        return None;
    }
    let table = u64::from_le_bytes(field(head, 32)?);
    let count = u16::from_le_bytes(field(head, 56)?).min(MAX_HEADERS);
    let mut headers = vec![0; PROGRAM_HEADER * usize::from(count)];
    file.seek(SeekFrom::Start(table)).ok()?;
    file.read_exact(&mut headers).ok()?;
    let segment = headers
        .chunks_exact(PROGRAM_HEADER)
        .find(|header| field(header, 0).map(u32::from_le_bytes) == Some(PT_INTERP))?;
    let mut path = Vec::new();
    file.seek(SeekFrom::Start(u64::from_le_bytes(field(segment, 8)?)))
        .ok()?;
    file.take(u64::from_le_bytes(field(segment, 32)?).min(MAX_INTERPRETER))
        .read_to_end(&mut path)
        .ok()?;
    let path = path.split(|byte| *byte == 0).next()?;
    (!path.is_empty()).then(|| path.escape_ascii().to_string())
}

fn unknown_format(head: &[u8]) -> String {
    if !head.starts_with(b"\x7fELF") {
        return "it is neither a program nor a script that begins with #!".to_owned();
    }
    match (head.get(5), field(head, 18).map(u16::from_le_bytes)) {
        (Some(&LITTLE_ENDIAN), Some(machine)) if machine != X86_64 => {
            format!(
                "it was built for {}, and this machine is x86_64",
                machine_name(machine)
            )
        }
        (Some(&LITTLE_ENDIAN), Some(_)) => "it is damaged, or of an unknown kind".to_owned(),
        _ => "it was built for another architecture, and this machine is x86_64".to_owned(),
    }
}

/// The names of `e_machine` numbers, as images name their architectures' machines.
fn machine_name(machine: u16) -> String {
    match machine {
        3 => "i386".to_owned(),
        21 => "ppc64le".to_owned(),
        40 => "arm".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        258 => "loongarch".to_owned(),
        other => format!("the architecture of ELF number {other}"),
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn of_file(content: &[u8], number: i32) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, content).unwrap();
        reason(&path, &io::Error::from_raw_os_error(number))
    }

    /// An ELF header for `machine` with one PT_INTERP segment that names `interpreter`.
    fn elf(machine: u16, interpreter: &[u8]) -> Vec<u8> {
        let mut file = vec![0; HEADER + PROGRAM_HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[HEADER..HEADER + 4].copy_from_slice(&PT_INTERP.to_le_bytes());
        let at = (HEADER + PROGRAM_HEADER) as u64;
        file[HEADER + 8..HEADER + 16].copy_from_slice(&at.to_le_bytes());
        file[HEADER + 32..HEADER + 40].copy_from_slice(&(interpreter.len() as u64).to_le_bytes());
        file.extend_from_slice(interpreter);
        file
    }

    #[test]
    fn missing_interpreter_is_named() {
        for (content, wanted) in [
            (
                b"#!/no/such sh\n".to_vec(),
                "its interpreter /no/such is missing",
            ),
            (
                b"#!  /no/such".to_vec(),
                "its interpreter /no/such is missing",
            ),
            (
                elf(X86_64, b"/lib/ld.so\0"),
                "its interpreter /lib/ld.so is missing",
            ),
            (
                b"#!/bin/sh\r\necho\r\n".to_vec(),
                "its interpreter /bin/sh\\r is missing: the file has Windows line ends",
            ),
        ] {
            assert_eq!(of_file(&content, libc::ENOENT).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn another_architecture_is_named() {
        let text = of_file(&elf(183, b"/lib/ld\0"), libc::ENOEXEC).unwrap();
        assert_eq!(text, "it was built for aarch64, and this machine is x86_64");
        assert!(of_file(b"echo hello\n", libc::ENOEXEC)
            .unwrap()
            .contains("#!"));
        assert!(of_file(b"", libc::ENOEXEC).is_some());
    }

    #[test]
    fn strange_files_have_no_reason() {
        let mut beyond = elf(X86_64, b"/lib/ld\0");
        beyond[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        let mut long = elf(X86_64, b"");
        long[HEADER + 32..HEADER + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        for content in [&b""[..], b"#!", b"#! \n", b"\x7fELF", &beyond, &long] {
            assert_eq!(of_file(content, libc::ENOENT), None, "{content:?}");
        }
        assert_eq!(
            elf_interpreter(&[0; HEADER], &mut Cursor::new(Vec::new())),
            None
        );
    }
}
