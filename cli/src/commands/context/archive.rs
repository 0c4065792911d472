//! `context export` and `context import`: docker's archive of a context, a tar of `meta.json` and
//! `tls/docker/{ca,cert,key}.pem`.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write};
use std::path::{Component, Path};

use super::failed;
use crate::contexts::{check_name, Context, Contexts, TLS_FILES};
use crate::error::{CliError, Result};

const META: &str = "meta.json";
const TLS: &str = "tls/docker";
/// No description and no certificate is larger.
const MAX_FILE: u64 = 10 << 20;

/// `context export`
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Context
    name: String,
    /// File, or - for standard output [default: NAME.dockercontext]
    file: Option<String>,
}

/// `context import`
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// Name that the context gets
    name: String,
    /// File, or - for standard input
    file: String,
}

pub(super) fn export(args: &ExportArgs, store: &Contexts, out: &mut dyn Write) -> Result<()> {
    let context = store.get(&args.name)?;
    let named = args.file.clone();
    let file = named.unwrap_or_else(|| format!("{}.dockercontext", args.name));
    let unwritten = || CliError::io(format!("cannot write {file}"));
    if file == "-" {
        if std::io::stdout().is_terminal() {
            return Err(failed(
                "cowardly refusing to export to a terminal, specify a file path".to_owned(),
            ));
        }
        return pack(&context, store, out).map_err(unwritten());
    }
    let target = File::create_new(&file).map_err(unwritten())?;
    pack(&context, store, target).map_err(unwritten())?;
    eprintln!("Written file \"{file}\"");
    Ok(())
}

fn pack(context: &Context, store: &Contexts, out: impl Write) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(out);
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content)
    };
    add(META, &serde_json::to_vec(context)?)?;
    for file in TLS_FILES {
        if let Some(path) = store.tls_file(&context.name, file) {
            add(&format!("{TLS}/{file}"), &std::fs::read(path)?)?;
        }
    }
    archive.finish()
}

pub(super) fn import(args: &ImportArgs, store: &Contexts, out: &mut dyn Write) -> Result<()> {
    check_name(&args.name)?;
    if store.get(&args.name).is_ok() {
        return Err(failed(format!("context {:?} already exists", args.name)));
    }
    let (mut context, files) = match args.file.as_str() {
        "-" => unpack(std::io::stdin(), "standard input")?,
        file => {
            let source = File::open(file).map_err(CliError::io(format!("cannot open {file}")))?;
            unpack(source, file)?
        }
    };
    context.name.clone_from(&args.name);
    let made = files
        .iter()
        .try_for_each(|(name, content)| store.put_tls_content(&args.name, name, content))
        .and_then(|()| store.put(&context));
    if made.is_err() {
        let _ = store.remove(&args.name);
    }
    made?;
    super::line(out, &args.name)?;
    eprintln!("Successfully imported context \"{}\"", args.name);
    Ok(())
}

/// The description, and the certificates by the names of their files.
type Unpacked = (Context, Vec<(&'static str, Vec<u8>)>);

fn unpack(source: impl Read, named: &str) -> Result<Unpacked> {
    let bad = |why: String| failed(format!("{named} is no archive of a context: {why}"));
    let mut archive = tar::Archive::new(source);
    let (mut context, mut files) = (None, Vec::new());
    for entry in archive.entries().map_err(|error| bad(error.to_string()))? {
        let mut entry = entry.map_err(|error| bad(error.to_string()))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(|error| bad(error.to_string()))?;
        let path = path.components().filter(|part| *part != Component::CurDir);
        let path: std::path::PathBuf = path.collect();
        if entry.size() > MAX_FILE {
            return Err(bad(format!("{} is too large", path.display())));
        }
        let mut content = Vec::new();
        let mut read = || entry.read_to_end(&mut content).map(drop);
        read().map_err(|error| bad(error.to_string()))?;
        if path == Path::new(META) {
            let parsed = serde_json::from_slice::<Context>(&content);
            context = Some(parsed.map_err(|error| bad(format!("{META}: {error}")))?);
        } else if let Ok(file) = path.strip_prefix(TLS) {
            match TLS_FILES.iter().find(|known| Path::new(known) == file) {
                Some(known) => files.push((*known, content)),
                None => return Err(bad(format!("unexpected file {}", path.display()))),
            }
        }
    }
    match context {
        Some(context) => Ok((context, files)),
        None => Err(bad(format!("it has no {META}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported_is_imported_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Contexts::at(dir.path().join("contexts"));
        store
            .put(&Context::new("lab", "words", "tcp://h:2376"))
            .unwrap();
        store.put_tls_content("lab", "ca.pem", b"pem").unwrap();
        let file = dir.path().join("x").to_str().unwrap().to_owned();
        let args = ExportArgs {
            name: "lab".to_owned(),
            file: Some(file.clone()),
        };
        export(&args, &store, &mut Vec::new()).unwrap();
        assert!(
            export(&args, &store, &mut Vec::new()).is_err(),
            "nothing is overwritten"
        );
        let args = ImportArgs {
            name: "copy".to_owned(),
            file: file.clone(),
        };
        import(&args, &store, &mut Vec::new()).unwrap();
        let copy = store.get("copy").unwrap();
        assert_eq!((copy.host(), copy.description()), ("tcp://h:2376", "words"));
        let ca = store.tls_file("copy", "ca.pem").unwrap();
        assert_eq!(std::fs::read(ca).unwrap(), b"pem");
        assert!(
            import(&args, &store, &mut Vec::new()).is_err(),
            "a name in use"
        );
        std::fs::write(&file, "no tar").unwrap();
        let args = ImportArgs {
            name: "other".to_owned(),
            file,
        };
        assert!(import(&args, &store, &mut Vec::new()).is_err());
        assert!(store.get("other").is_err());
    }
}
