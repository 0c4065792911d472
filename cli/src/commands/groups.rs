//! Docker's groups of commands: `hull container ls` is `hull ps`.

use std::io::Write;
use std::process::ExitCode;

use super::prune::{PruneArgs, What};
use super::{
    cp, disk_usage, exec, files, inspect, lifecycle, logs, network, ps, run, stats, system, top,
    update, Command,
};
use crate::client::Client;
use crate::error::Result;

/// What can be done with containers, by itself or after `container`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContainerVerb {
    /// Make and start a container
    #[command(disable_help_flag = true)]
    Run(Box<run::RunArgs>),
    /// Make a container without starting it
    #[command(disable_help_flag = true)]
    Create(Box<run::CreateArgs>),
    /// Run a further process in a running container
    Exec(exec::ExecArgs),
    /// Attach to a running container
    Attach(run::AttachArgs),
    /// Print a container's output
    Logs(logs::LogsArgs),
    /// Start stopped containers
    Start(lifecycle::StartArgs),
    /// Stop running containers
    Stop(lifecycle::StopArgs),
    /// Stop and start containers
    Restart(lifecycle::StopArgs),
    /// Send a signal to containers
    Kill(lifecycle::KillArgs),
    /// Freeze all processes of containers
    Pause(lifecycle::Names),
    /// Let frozen containers go on
    Unpause(lifecycle::Names),
    /// Wait until containers end, and print their exit codes
    Wait(lifecycle::Names),
    /// Remove containers
    #[command(alias = "remove")]
    Rm(lifecycle::RmArgs),
    /// Give a container another name
    Rename(lifecycle::RenameArgs),
    /// Change limits and the restart policy of containers
    Update(update::UpdateArgs),
    /// List the processes of a container
    Top(top::TopArgs),
    /// Print what containers use, again and again
    Stats(stats::StatsArgs),
    /// Copy files between a container and this machine
    Cp(cp::CpArgs),
    /// Print what a container changed of its image's files
    Diff(files::DiffArgs),
    /// Write a container's files as a tar
    Export(files::ExportArgs),
    /// Make an image of a container
    Commit(files::CommitArgs),
    /// List a container's published ports
    Port(network::PortArgs),
}

/// `container`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContainerCommand {
    /// List containers
    #[command(aliases = ["list", "ps"])]
    Ls(ps::PsArgs),
    #[command(flatten)]
    Verb(ContainerVerb),
    /// Print everything known about containers, as JSON
    Inspect(inspect::InspectArgs),
    /// Remove all containers that have ended
    Prune(PruneArgs),
}

/// `system`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SystemCommand {
    /// Print what takes how much disk
    Df(disk_usage::DiskUsageArgs),
    /// Print events as they happen
    Events(system::EventsArgs),
    /// Print facts about the engine and this machine
    Info(system::FormatArgs),
    /// Remove all containers that have ended, and networks and images that nothing needs
    Prune(PruneArgs),
    /// Join stdin and stdout to the engine's socket: what ssh:// runs on the other machine
    #[command(hide = true)]
    DialStdio,
    /// Stop all containers before this machine goes down: what hull-containers.service runs
    #[command(hide = true)]
    Shutdown,
}

impl ContainerVerb {
    pub(super) async fn run(self, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
        match self {
            Self::Run(args) => run::run(*args, client, out).await,
            Self::Create(args) => run::create(*args, client, out).await,
            Self::Exec(args) => exec::run(args, client, out).await,
            Self::Attach(args) => run::attach(args, client).await,
            Self::Logs(args) => logs::run(args, client).await,
            Self::Start(args) => lifecycle::start(args, client, out).await,
            Self::Stop(args) => lifecycle::stop(args, client, out).await,
            Self::Restart(args) => lifecycle::restart(args, client, out).await,
            Self::Kill(args) => lifecycle::kill(args, client, out).await,
            Self::Pause(args) => lifecycle::pause(args, client, out).await,
            Self::Unpause(args) => lifecycle::unpause(args, client, out).await,
            Self::Wait(args) => lifecycle::wait(args, client, out).await,
            Self::Rm(args) => lifecycle::rm(args, client, out).await,
            Self::Rename(args) => lifecycle::rename(args, client).await,
            Self::Update(args) => update::run(args, client, out).await,
            Self::Top(args) => top::run(args, client, out).await,
            Self::Stats(args) => stats::run(args, client, out).await,
            Self::Cp(args) => cp::run(args, client, out).await,
            Self::Diff(args) => files::diff(args, client, out).await,
            Self::Export(args) => files::export(args, client, out).await,
            Self::Commit(args) => files::commit(args, client, out).await,
            Self::Port(args) => network::port(args, client, out).await,
        }
    }
}

impl ContainerCommand {
    /// The command without its group.
    pub(super) fn plain(self) -> Command {
        match self {
            Self::Ls(args) => Command::Ps(args),
            Self::Verb(verb) => Command::Verb(verb),
            Self::Inspect(args) => Command::Inspect(args),
            Self::Prune(args) => Command::Prune(What::Containers, args),
        }
    }
}

impl SystemCommand {
    /// The command without its group.
    pub(super) fn plain(self) -> Command {
        match self {
            Self::Df(args) => Command::DiskUsage(args),
            Self::Events(args) => Command::Events(args),
            Self::Info(args) => Command::Info(args),
            Self::Prune(args) => Command::Prune(What::All, args),
            Self::DialStdio => Command::DialStdio,
            Self::Shutdown => Command::Shutdown,
        }
    }
}
