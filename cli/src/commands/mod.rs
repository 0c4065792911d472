//! The sub-commands. Each takes its arguments, the client and where to write, and returns the exit
//! status; only `main` ends the process.

pub(crate) mod absent;
mod context;
mod cp;
mod disk_usage;
mod doctor;
mod exec;
mod files;
mod groups;
mod image;
mod images;
mod inspect;
mod jail;
mod lifecycle;
mod load;
mod login;
mod logs;
mod network;
mod platform;
mod prune;
mod ps;
mod pull;
mod push;
mod run;
mod search;
mod stats;
mod system;
mod top;
mod trace;
mod update;
mod volume;

use std::io::Write;
use std::process::ExitCode;

use crate::client::Client;
use crate::endpoint::EngineArgs;
use crate::error::{CliError, Result};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Verb(groups::ContainerVerb),
    /// List containers
    Ps(ps::PsArgs),
    /// Print everything known about containers and images, as JSON
    Inspect(inspect::InspectArgs),
    /// Print the boot timeline of a container's microVM
    Trace(trace::TraceArgs),
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// Look for images at a registry
    Search(search::SearchArgs),
    /// Load images from an archive
    Load(load::LoadArgs),
    /// Images: all that can be done with them
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// List images
    Images(images::ImagesArgs),
    /// Make an image of a tar of files
    Import(image::ImportArgs),
    /// Print how an image was made
    History(image::HistoryArgs),
    /// Remove images
    Rmi(images::RmiArgs),
    /// Give an image a further name
    Tag(images::TagArgs),
    /// Keep credentials for a registry
    Login(login::LoginArgs),
    /// Forget credentials for a registry
    Logout(login::LogoutArgs),
    /// Send an image to its registry
    Push(push::PushArgs),
    /// Write images as an archive
    Save(push::SaveArgs),
    /// The commands about containers
    #[command(subcommand)]
    Container(groups::ContainerCommand),
    /// The commands about the engine
    #[command(subcommand)]
    System(groups::SystemCommand),
    /// Networks of containers
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Volumes: files that outlive containers
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Print events as they happen
    Events(system::EventsArgs),
    /// Print the versions of the command line and the engine
    Version(system::FormatArgs),
    /// Print facts about the engine and this machine
    Info(system::FormatArgs),
    /// Check that this machine can run containers, and say what to do
    Doctor(doctor::DoctorArgs),
    /// Names for engines, shared with docker
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Print a shell's completion of this command line: `source <(hull completion bash)`
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of this command line into a directory
    #[command(hide = true)]
    Man {
        /// The directory
        directory: std::path::PathBuf,
    },
    /// A prune, which stands in the groups.
    #[command(skip)]
    Prune(prune::What, prune::PruneArgs),
    /// `system df`.
    #[command(skip)]
    DiskUsage(disk_usage::DiskUsageArgs),
    /// `system dial-stdio`.
    #[command(skip)]
    DialStdio,
    /// `system shutdown`.
    #[command(skip)]
    Shutdown,
}

impl Command {
    /// Whether a failure of Hull itself ends the command with 125: `run`, whose other statuses are
    /// those of the process, and what gets the image for it.
    fn fails_with_125(&self) -> bool {
        use image::ImageCommand;
        match self {
            Self::Verb(groups::ContainerVerb::Run(_)) => true,
            Self::Pull(_) | Self::Load(_) | Self::Import(_) => true,
            Self::Image(command) => matches!(
                command,
                ImageCommand::Pull(_) | ImageCommand::Load(_) | ImageCommand::Import(_)
            ),
            _ => false,
        }
    }
}

/// Runs a command.
pub(crate) async fn run(
    command: Command,
    engine: &EngineArgs,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    // These need no engine.
    let command = match command {
        Command::Context(command) => return context::run(command, engine, out),
        Command::Completion { shell } => return completion(shell, out),
        Command::Man { directory } => return manual(&directory),
        other => other,
    };
    let endpoint = &engine.endpoint()?;
    if let Command::Doctor(args) = &command {
        return doctor::run(args, endpoint, out).await;
    }
    let started_nothing = command.fails_with_125();
    let failed = |error: CliError| match started_nothing {
        true => error.of_run(),
        false => error,
    };
    let client = &Client::connect(endpoint).await.map_err(failed)?;
    match command {
        Command::Verb(verb) => verb.run(client, out).await.map_err(failed),
        Command::Ps(args) => ps::run(args, client, out).await,
        Command::Inspect(args) => inspect::run(args, client, out).await,
        Command::Trace(args) => trace::run(args, client, out).await,
        Command::Pull(args) => pull::run(args, client, out).await.map_err(failed),
        Command::Search(args) => search::run(args, client, out).await,
        Command::Load(args) => load::run(args, client, out).await.map_err(failed),
        Command::Image(command) => image::run(command, client, out).await.map_err(failed),
        Command::Import(args) => image::import(args, client, out).await.map_err(failed),
        Command::History(args) => image::history(args, client, out).await,
        Command::Images(args) => images::list(args, client, out).await,
        Command::Rmi(args) => images::rmi(args, client, out).await,
        Command::Tag(args) => images::tag(args, client).await,
        Command::Login(args) => login::login(args, client, out).await,
        Command::Logout(args) => login::logout(args, out).await,
        Command::Push(args) => push::push(args, client, out).await,
        Command::Save(args) => push::save(args, client, out).await,
        Command::Network(command) => network::run(command, client, out).await,
        Command::Volume(command) => volume::run(command, client, out).await,
        Command::Events(args) => system::events(args, client, out).await,
        Command::Version(args) => system::version(args, client, out).await,
        Command::Info(args) => system::info(args, client, out).await,
        Command::Container(command) => Box::pin(run(command.plain(), engine, out)).await,
        Command::System(command) => Box::pin(run(command.plain(), engine, out)).await,
        Command::Prune(what, args) => prune::prune(what, args, client, out).await,
        Command::DiskUsage(args) => disk_usage::run(&args, client, out).await,
        Command::DialStdio => system::dial_stdio(client).await,
        Command::Shutdown => system::shut_down(client).await,
        // Handled above: they must not start an engine.
        Command::Completion { shell } => completion(shell, out),
        Command::Man { directory } => manual(&directory),
        Command::Context(command) => context::run(command, engine, out),
        Command::Doctor(args) => doctor::run(&args, endpoint, out).await,
    }
}

/// Writes what a shell has to run to complete this command line.
fn completion(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::command_line(), "hull", &mut script);
    out.write_all(&script)
        .map_err(CliError::io("cannot write the output"))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for each command.
fn manual(directory: &std::path::Path) -> Result<ExitCode> {
    clap_mangen::generate_to(crate::command_line(), directory).map_err(CliError::io(format!(
        "cannot write to {}",
        directory.display()
    )))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a line.
fn line(out: &mut dyn Write, text: impl std::fmt::Display) -> Result<()> {
    writeln!(out, "{text}").map_err(CliError::io("cannot write the output"))
}

/// Docker's `filters` from `KEY=VALUE` words.
fn filters(words: &[String]) -> Result<std::collections::HashMap<String, Vec<String>>> {
    let mut filters = std::collections::HashMap::<_, Vec<_>>::new();
    for word in words {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| CliError::usage(format!("invalid filter {word:?}: want KEY=VALUE")))?;
        filters
            .entry(key.trim().to_owned())
            .or_default()
            .push(value.trim().to_owned());
    }
    Ok(filters)
}
