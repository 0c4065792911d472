//! Docker's groups of commands: `hull container ls` is `hull ps`.

use super::prune::{PruneArgs, What};
use super::{
    cp, exec, files, inspect, lifecycle, logs, network, ps, run, stats, system, top, update,
    Command,
};

/// `container`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContainerCommand {
    /// List containers
    #[command(aliases = ["list", "ps"])]
    Ls(ps::PsArgs),
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
    /// Print everything known about containers, as JSON
    Inspect(inspect::InspectArgs),
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
    /// Remove all containers that have ended
    Prune(PruneArgs),
}

/// `system`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SystemCommand {
    /// Print what takes how much disk
    Df,
    /// Print events as they happen
    Events(system::EventsArgs),
    /// Print facts about the engine and this machine
    Info(system::FormatArgs),
    /// Remove all containers that have ended, and networks and images that nothing needs
    Prune(PruneArgs),
}

impl ContainerCommand {
    /// The command without its group.
    pub(super) fn plain(self) -> Command {
        match self {
            Self::Ls(args) => Command::Ps(args),
            Self::Run(args) => Command::Run(args),
            Self::Create(args) => Command::Create(args),
            Self::Exec(args) => Command::Exec(args),
            Self::Attach(args) => Command::Attach(args),
            Self::Logs(args) => Command::Logs(args),
            Self::Start(args) => Command::Start(args),
            Self::Stop(args) => Command::Stop(args),
            Self::Restart(args) => Command::Restart(args),
            Self::Kill(args) => Command::Kill(args),
            Self::Pause(args) => Command::Pause(args),
            Self::Unpause(args) => Command::Unpause(args),
            Self::Wait(args) => Command::Wait(args),
            Self::Rm(args) => Command::Rm(args),
            Self::Rename(args) => Command::Rename(args),
            Self::Update(args) => Command::Update(args),
            Self::Inspect(args) => Command::Inspect(args),
            Self::Top(args) => Command::Top(args),
            Self::Stats(args) => Command::Stats(args),
            Self::Cp(args) => Command::Cp(args),
            Self::Diff(args) => Command::Diff(args),
            Self::Export(args) => Command::Export(args),
            Self::Commit(args) => Command::Commit(args),
            Self::Port(args) => Command::Port(args),
            Self::Prune(args) => Command::Prune(What::Containers, args),
        }
    }
}

impl SystemCommand {
    /// The command without its group.
    pub(super) fn plain(self) -> Command {
        match self {
            Self::Df => Command::DiskUsage,
            Self::Events(args) => Command::Events(args),
            Self::Info(args) => Command::Info(args),
            Self::Prune(args) => Command::Prune(What::All, args),
        }
    }
}
