//! `context`: names for engines, in docker's own store.

mod archive;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{json, Value};

use super::{line, ps};
use crate::contexts::{check_name, Context, Contexts, DEFAULT, TLS_FILES};
use crate::endpoint::{self, EngineArgs, OWN_SOCKET};
use crate::error::{CliError, Result};
use crate::{docker_config, template};

/// Environment variables that come before the context in use.
const OVERRIDES: [&str; 3] = ["HULL_HOST", "DOCKER_HOST", "DOCKER_CONTEXT"];

/// `context`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContextCommand {
    /// Make a context
    Create {
        /// Context to copy
        #[arg(long, conflicts_with = "docker")]
        from: Option<String>,
        #[command(flatten)]
        args: CreateArgs,
    },
    /// Change a context
    Update(CreateArgs),
    /// List contexts
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Print everything known about contexts, as JSON
    Inspect(InspectArgs),
    /// Remove contexts
    #[command(alias = "remove")]
    Rm(RemoveArgs),
    /// Use a context from now on
    Use {
        /// Its name; `default` is the engine of this machine
        name: String,
    },
    /// Write a context as an archive
    Export(archive::ExportArgs),
    /// Make a context of an archive
    Import(archive::ImportArgs),
    /// Print the name of the context in use
    Show,
}

/// `context create` and `context update`
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// What it is
    #[arg(long)]
    description: Option<String>,
    /// Where the engine listens: host=unix:///path or host=tcp://host:port[,ca=FILE,cert=FILE,key=FILE]
    #[arg(long, value_name = "FIELDS")]
    docker: Option<String>,
    /// Name
    name: String,
}

/// `context ls`
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Go template for each line, or `json`
    #[arg(long)]
    format: Option<String>,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
}

/// `context inspect`
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Go template instead of JSON
    #[arg(short, long)]
    format: Option<String>,
    /// Names [default: the one in use]
    names: Vec<String>,
}

/// `context rm`
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Also the one in use
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) fn run(
    command: ContextCommand,
    engine: &EngineArgs,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let store = Contexts::of_user()?;
    match command {
        ContextCommand::Create { from: None, args } => create(&args, &store, out)?,
        ContextCommand::Create {
            from: Some(from),
            args,
        } => copy(&from, &args, &store, out)?,
        ContextCommand::Export(args) => archive::export(&args, &store, out)?,
        ContextCommand::Import(args) => archive::import(&args, &store, out)?,
        ContextCommand::Update(args) => update(&args, &store, out)?,
        ContextCommand::Ls(args) => list(&args, &store, engine, out)?,
        ContextCommand::Inspect(args) => inspect(&args, &store, engine, out)?,
        ContextCommand::Rm(args) => return remove(&args, &store, engine, out),
        ContextCommand::Use { name } => choose(&name, &store, out)?,
        ContextCommand::Show => line(out, engine.context()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(message: String) -> CliError {
    CliError::Failed { status: 1, message }
}

/// The fields of `--docker`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fields {
    host: String,
    /// By the name that they get in the store.
    tls: BTreeMap<&'static str, PathBuf>,
}

impl Fields {
    fn parse(text: &str) -> Result<Self> {
        let mut fields = Self::default();
        let [ca, certificate, key] = TLS_FILES;
        for field in text.split(',').filter(|field| !field.is_empty()) {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| CliError::usage(format!("{field:?}: want NAME=VALUE")))?;
            let file = match name {
                "host" => {
                    fields.host = value.to_owned();
                    continue;
                }
                "ca" => ca,
                "cert" => certificate,
                "key" => key,
                "skip-tls-verify" if matches!(value, "false" | "0") => continue,
                "skip-tls-verify" => {
                    let text = "skip-tls-verify: hull always verifies the server";
                    return Err(CliError::usage(text));
                }
                other => {
                    return Err(failed(format!(
                        "unrecognized config key: {other} (known: host, ca, cert, key)"
                    )))
                }
            };
            fields.tls.insert(file, PathBuf::from(value));
        }
        if fields.host.is_empty() {
            return Err(failed("no host is named: --docker host=...".to_owned()));
        }
        endpoint::parse(&fields.host, None)?;
        Ok(fields)
    }
}

fn create(args: &CreateArgs, store: &Contexts, out: &mut dyn Write) -> Result<()> {
    check_name(&args.name)?;
    if store.get(&args.name).is_ok() {
        return Err(failed(format!("context {:?} already exists", args.name)));
    }
    let fields = match &args.docker {
        Some(text) => Fields::parse(text)?,
        None => {
            return Err(failed(
                "docker endpoint configuration is required: --docker host=...".to_owned(),
            ))
        }
    };
    let description = args.description.as_deref().unwrap_or_default();
    let made = keep(
        store,
        &Context::new(&args.name, description, &fields.host),
        &fields,
    );
    if made.is_err() {
        let _ = store.remove(&args.name);
    }
    made?;
    line(out, &args.name)?;
    eprintln!("Successfully created context \"{}\"", args.name);
    Ok(())
}

/// Makes a context that is as another one.
fn copy(from: &str, args: &CreateArgs, store: &Contexts, out: &mut dyn Write) -> Result<()> {
    check_name(&args.name)?;
    if store.get(&args.name).is_ok() {
        return Err(failed(format!("context {:?} already exists", args.name)));
    }
    let mut context = match from {
        DEFAULT => own(),
        from => store.get(from)?,
    };
    context.name.clone_from(&args.name);
    if let Some(description) = &args.description {
        context.describe(description);
    }
    let there = |file| Some((file, store.tls_file(from, file)?));
    let fields = Fields {
        host: context.host().to_owned(),
        tls: TLS_FILES.into_iter().filter_map(there).collect(),
    };
    keep(store, &context, &fields)?;
    line(out, &args.name)?;
    eprintln!("Successfully created context \"{}\"", args.name);
    Ok(())
}

fn keep(store: &Contexts, context: &Context, fields: &Fields) -> Result<()> {
    for (file, source) in &fields.tls {
        store.put_tls(&context.name, file, source)?;
    }
    store.put(context)
}

fn update(args: &CreateArgs, store: &Contexts, out: &mut dyn Write) -> Result<()> {
    check_name(&args.name)?;
    let mut context = store.get(&args.name)?;
    if let Some(description) = &args.description {
        context.describe(description);
    }
    let fields = match &args.docker {
        None => Fields::default(),
        Some(text) => {
            let fields = Fields::parse(text)?;
            context.set_host(&fields.host);
            fields
        }
    };
    keep(store, &context, &fields)?;
    if args.docker.is_some() {
        // Those of the old endpoint say nothing of the new one.
        let old = TLS_FILES
            .iter()
            .filter(|file| !fields.tls.contains_key(*file));
        old.into_iter()
            .try_for_each(|file| store.drop_tls(&args.name, file))?;
    }
    line(out, &args.name)?;
    eprintln!("Successfully updated context \"{}\"", args.name);
    Ok(())
}

/// The engine of this machine, or the one that the environment names.
fn own() -> Context {
    let named = ["HULL_HOST", "DOCKER_HOST"].map(|name| std::env::var(name).ok());
    let host = named.into_iter().flatten().find(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| format!("unix://{OWN_SOCKET}"));
    Context::new(DEFAULT, "The engine of this machine", &host)
}

fn list(args: &ListArgs, store: &Contexts, engine: &EngineArgs, out: &mut dyn Write) -> Result<()> {
    let current = engine.context()?;
    let mut all = store.list()?;
    all.insert(0, own());
    if args.quiet {
        return all.iter().try_for_each(|context| line(out, &context.name));
    }
    // In docker's own table the one in use has a mark; templates have the name alone.
    let marks = matches!(args.format.as_deref(), None | Some("table"));
    let rows: Vec<Value> = all
        .iter()
        .map(|context| shown(context, context.name == current, marks))
        .collect();
    ps::print(out, &rows, args.format.as_deref(), &COLUMNS)?;
    if args.format.is_some() {
        return Ok(());
    }
    if let Some(name) = overriding() {
        eprintln!(
            "Warning: {name} environment variable overrides the active context. \
             To use a context, unset it."
        );
    }
    Ok(())
}

const COLUMNS: [(&str, &str); 4] = [
    ("NAME", "Name"),
    ("DESCRIPTION", "Description"),
    ("DOCKER ENDPOINT", "DockerEndpoint"),
    ("ERROR", "Error"),
];

fn shown(context: &Context, current: bool, marks: bool) -> Value {
    let mark = if current && marks { " *" } else { "" };
    json!({
        "Name": format!("{}{mark}", context.name),
        "Description": context.description(),
        "DockerEndpoint": context.host(),
        "Current": current,
        "Error": "",
    })
}

fn overriding() -> Option<&'static str> {
    let is_set = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    OVERRIDES.iter().find(is_set).copied()
}

fn inspect(
    args: &InspectArgs,
    store: &Contexts,
    engine: &EngineArgs,
    out: &mut dyn Write,
) -> Result<()> {
    let names = match args.names.is_empty() {
        true => vec![engine.context()?],
        false => args.names.clone(),
    };
    let mut found = Vec::new();
    for name in &names {
        found.push(match name.as_str() {
            DEFAULT => described(&own(), None)?,
            name => described(&store.get(name)?, Some(store))?,
        });
    }
    match &args.format {
        Some(format) => found
            .iter()
            .try_for_each(|context| line(out, template::render(format, context)?)),
        None => {
            let text = serde_json::to_string_pretty(&found).map_err(crate::client::broken)?;
            line(out, text)
        }
    }
}

/// A context as docker prints it.
fn described(context: &Context, store: Option<&Contexts>) -> Result<Value> {
    let mut value = serde_json::to_value(context).map_err(crate::client::broken)?;
    let files = |store: &Contexts| -> Vec<&str> {
        let there = |file: &&str| store.tls_file(&context.name, file).is_some();
        TLS_FILES.into_iter().filter(there).collect()
    };
    let files = store.map(files).unwrap_or_default();
    value["TLSMaterial"] = match files.is_empty() {
        true => json!({}),
        false => json!({ "docker": files }),
    };
    let place = |path: Option<PathBuf>| match path {
        Some(path) => path.display().to_string(),
        None => "<IN MEMORY>".to_owned(),
    };
    value["Storage"] = json!({
        "MetadataPath": place(store.map(|store| store.meta(&context.name))),
        "TLSPath": place(store.map(|store| store.tls(&context.name))),
    });
    Ok(value)
}

fn remove(
    args: &RemoveArgs,
    store: &Contexts,
    engine: &EngineArgs,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let current = engine.context()?;
    let mut wrong = false;
    for name in &args.names {
        match remove_one(name, &current, args.force, store) {
            Ok(()) => line(out, name)?,
            Err(error) => {
                eprintln!("hull: {error}");
                wrong = true;
            }
        }
    }
    Ok(super::volume::exit(wrong))
}

fn remove_one(name: &str, current: &str, force: bool, store: &Contexts) -> Result<()> {
    if name == DEFAULT {
        return Err(failed(format!("context {DEFAULT:?} cannot be removed")));
    }
    let known = store.get(name);
    if !force {
        known?;
        if name == current {
            return Err(failed(format!(
                "context {name:?} is in use, set -f flag to force remove"
            )));
        }
    }
    if name == current {
        select("")?;
    }
    store.remove(name)
}

fn choose(name: &str, store: &Contexts, out: &mut dyn Write) -> Result<()> {
    match name {
        DEFAULT => select("")?,
        name => {
            store.get(name)?;
            select(name)?;
        }
    }
    line(out, name)?;
    eprintln!("Current context is now \"{name}\"");
    if let Some(variable) = overriding() {
        eprintln!(
            "Warning: {variable} environment variable overrides the active context. \
             To use {name:?}, unset it."
        );
    }
    Ok(())
}

/// Notes the context in use; empty: none.
fn select(name: &str) -> Result<()> {
    let mut config = docker_config::read()?;
    if let Some(fields) = config.as_object_mut() {
        match name {
            "" => fields.remove("currentContext"),
            name => fields.insert("currentContext".to_owned(), json!(name)),
        };
    }
    docker_config::write(&config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_endpoint_are_read() {
        let fields = Fields::parse("host=tcp://h:1,ca=/a,key=/k").unwrap();
        assert_eq!(fields.host, "tcp://h:1");
        assert_eq!(fields.tls.len(), 2);
        assert_eq!(fields.tls["key.pem"], PathBuf::from("/k"));
        for bad in ["", "ca=/a", "host=x", "host=unix:///s,moon=1", "host"] {
            assert!(Fields::parse(bad).is_err(), "{bad}");
        }
        assert!(Fields::parse("host=unix:///s,skip-tls-verify=true").is_err());
    }

    #[test]
    fn another_endpoint_has_none_of_the_old_ones_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let store = Contexts::at(dir.path().join("contexts"));
        let [ca, key] = ["ca", "key"].map(|name| dir.path().join(name));
        std::fs::write(&ca, "A").unwrap();
        std::fs::write(&key, "K").unwrap();
        let args = |docker: Option<String>| CreateArgs {
            description: Some("d".to_owned()),
            docker,
            name: "lab".to_owned(),
        };
        let both = format!("host=tcp://h:1,ca={},key={}", ca.display(), key.display());
        create(&args(Some(both)), &store, &mut Vec::new()).unwrap();
        let there = || TLS_FILES.map(|file| store.tls_file("lab", file).is_some());
        update(&args(None), &store, &mut Vec::new()).unwrap();
        assert_eq!(there(), [true, false, true]);
        let one = format!("host=tcp://h:2,ca={}", ca.display());
        update(&args(Some(one)), &store, &mut Vec::new()).unwrap();
        assert_eq!(there(), [true, false, false]);
        let plain = "host=tcp://127.0.0.1:2375".to_owned();
        update(&args(Some(plain)), &store, &mut Vec::new()).unwrap();
        assert_eq!(there(), [false; 3]);
    }
}
