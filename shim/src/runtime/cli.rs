//! runc's command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// logrus's lines.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The form of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    #[default]
    Table,
    Json,
}

/// Runs OCI bundles, each in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "hull-runtime", disable_version_flag = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    /// Print the version.
    #[arg(long, short)]
    pub(super) version: bool,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct Global {
    /// Log more.
    #[arg(long)]
    pub(super) debug: bool,
    /// File for the log; without it, stderr.
    #[arg(long)]
    pub(super) log: Option<PathBuf>,
    /// Format of the log.
    #[arg(long, value_enum, default_value_t)]
    pub(super) log_format: LogFormat,
    /// Directory of the containers' states, /run/hull-runtime without it. It should be on a tmpfs.
    #[arg(long)]
    pub(super) root: Option<PathBuf>,
    /// cgroupsPath is a systemd slice and scope: "slice:prefix:name".
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
    /// Accepted as runc's; a microVM needs root.
    #[arg(long, default_value = "auto")]
    pub(super) rootless: String,
    /// Accepted as runc's; there are no checkpoints.
    #[arg(long, hide = true)]
    pub(super) criu: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a container.
    Create(CreateArgs),
    /// Create a container and start its process.
    Run(RunArgs),
    /// Start the process of a created container.
    Start(IdArgs),
    /// Print the state of a container.
    State(IdArgs),
    /// Send a signal to a container's process.
    Kill(KillArgs),
    /// Delete a container.
    Delete(DeleteArgs),
    /// Run a further process in a container.
    Exec(ExecArgs),
    /// List the processes of a container.
    Ps(PsArgs),
    /// List the containers.
    List(ListArgs),
    /// Freeze all processes of a container.
    Pause(IdArgs),
    /// Let them go on.
    Resume(IdArgs),
    /// Change the limits of a container.
    Update(Box<UpdateArgs>),
    /// Print events and figures of a container.
    Events(EventsArgs),
    /// Write a config.json to start from.
    Spec(SpecArgs),
    /// Print what this runtime can do.
    Features,
    /// Not supported: checkpoints.
    Checkpoint(OtherArgs),
    /// Not supported: checkpoints.
    Restore(OtherArgs),
}

#[derive(Debug, Args)]
pub(super) struct OtherArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) rest: Vec<String>,
}

#[derive(Debug, Default, Args)]
pub(super) struct IdArgs {
    /// The container.
    #[arg(value_name = "container-id", num_args = 0..)]
    pub(super) id: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Directory of config.json; the current one without it.
    #[arg(long, short)]
    pub(super) bundle: Option<PathBuf>,
    /// Socket that takes the master of the container's terminal.
    #[arg(long)]
    pub(super) console_socket: Option<PathBuf>,
    /// File for the PID.
    #[arg(long)]
    pub(super) pid_file: Option<PathBuf>,
    /// Socket that takes a descriptor of the process (pidfd).
    #[arg(long)]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// Accepted as runc's: the guest has its own way to change the root.
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Accepted as runc's: a microVM shares no keyring.
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Further descriptors for the container, from 3 on: pipes, stream sockets and files.
    #[arg(long, default_value_t)]
    pub(super) preserve_fds: u32,
    #[command(flatten)]
    pub(super) id: IdArgs,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) create: CreateArgs,
    /// Return when the process runs.
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Do not delete the container when its process has ended.
    #[arg(long)]
    pub(super) keep: bool,
    /// Accepted as runc's.
    #[arg(long)]
    pub(super) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// To all processes of the container.
    #[arg(long, short)]
    pub(super) all: bool,
    /// The container, and the signal: a name or number.
    #[arg(value_name = "container-id [signal]", num_args = 0..)]
    pub(super) target: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// Kill it first if it runs; not to exist is no error.
    #[arg(long, short)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) id: IdArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Socket that takes the master of the process's terminal.
    #[arg(long)]
    pub(super) console_socket: Option<PathBuf>,
    /// Working directory in the container.
    #[arg(long)]
    pub(super) cwd: Option<PathBuf>,
    /// Environment variable.
    #[arg(long, short)]
    pub(super) env: Vec<String>,
    /// With a terminal.
    #[arg(long, short)]
    pub(super) tty: bool,
    /// UID, or UID:GID.
    #[arg(long, short, allow_hyphen_values = true)]
    pub(super) user: Option<String>,
    /// Further groups.
    #[arg(long, short = 'g', allow_negative_numbers = true)]
    pub(super) additional_gids: Vec<i64>,
    /// File with the process (JSON).
    #[arg(long, short)]
    pub(super) process: Option<PathBuf>,
    /// Return when the process runs.
    #[arg(long, short)]
    pub(super) detach: bool,
    /// File for the PID.
    #[arg(long)]
    pub(super) pid_file: Option<PathBuf>,
    /// Socket that takes a descriptor of the process (pidfd).
    #[arg(long)]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// Refused: the guest's kernel has no SELinux.
    #[arg(long)]
    pub(super) process_label: Option<String>,
    /// Refused: the guest's kernel has no AppArmor.
    #[arg(long)]
    pub(super) apparmor: Option<String>,
    /// No new privileges.
    #[arg(long)]
    pub(super) no_new_privs: bool,
    /// A further capability.
    #[arg(long, short)]
    pub(super) cap: Vec<String>,
    /// Further descriptors for the process, from 3 on: pipes, stream sockets and files.
    #[arg(long, default_value_t)]
    pub(super) preserve_fds: u32,
    /// A cgroup below the container's own, which is there.
    #[arg(long)]
    pub(super) cgroup: Vec<String>,
    /// Also in a paused container.
    #[arg(long)]
    pub(super) ignore_paused: bool,
    /// Accepted as runc's.
    #[arg(long)]
    pub(super) no_subreaper: bool,
    /// The container and the command with its arguments.
    #[arg(
        value_name = "container-id command",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) target: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Format of the list.
    #[arg(long, short, value_enum, default_value_t)]
    pub(super) format: Format,
    /// The container; what follows are options of ps(1), such as -ef or -o pid,args.
    #[arg(
        value_name = "container-id",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) target: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Format of the list.
    #[arg(long, short, value_enum, default_value_t)]
    pub(super) format: Format,
    /// Ids only.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Time between figures, such as 5s.
    #[arg(long, default_value = "5s")]
    pub(super) interval: String,
    /// Figures once.
    #[arg(long)]
    pub(super) stats: bool,
    #[command(flatten)]
    pub(super) id: IdArgs,
}

#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// Directory for config.json.
    #[arg(long, short)]
    pub(super) bundle: Option<PathBuf>,
    /// For a user who is not root.
    #[arg(long)]
    pub(super) rootless: bool,
}

#[derive(Debug, Default, Args)]
pub(super) struct UpdateArgs {
    /// File with the resources (JSON); "-": standard input.
    #[arg(long, short)]
    pub(super) resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000.
    #[arg(long)]
    pub(super) blkio_weight: Option<u16>,
    /// CPU period, in microseconds.
    #[arg(long)]
    pub(super) cpu_period: Option<u64>,
    /// CPU quota per period, in microseconds.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,
    /// Burst of the quota, in microseconds.
    #[arg(long)]
    pub(super) cpu_burst: Option<u64>,
    /// CPU shares (relative weight).
    #[arg(long)]
    pub(super) cpu_share: Option<u64>,
    /// Period of real-time scheduling, in microseconds.
    #[arg(long)]
    pub(super) cpu_rt_period: Option<u64>,
    /// Run time of real-time scheduling, in microseconds.
    #[arg(long)]
    pub(super) cpu_rt_runtime: Option<i64>,
    /// 1: run only when nobody else does.
    #[arg(long)]
    pub(super) cpu_idle: Option<i64>,
    /// CPUs.
    #[arg(long)]
    pub(super) cpuset_cpus: Option<String>,
    /// Memory nodes.
    #[arg(long)]
    pub(super) cpuset_mems: Option<String>,
    /// Accepted as runc's, without effect as there.
    #[arg(long)]
    pub(super) kernel_memory: Option<String>,
    /// Accepted as runc's, without effect as there.
    #[arg(long)]
    pub(super) kernel_memory_tcp: Option<String>,
    /// Memory, in bytes or with a suffix; -1: no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) memory: Option<String>,
    /// Soft limit of memory.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) memory_reservation: Option<String>,
    /// Memory and swap together; -1: no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    /// Number of processes; -1: no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,
    /// Not supported: cache allocation.
    #[arg(long)]
    pub(super) l3_cache_schema: Option<String>,
    /// Not supported: memory bandwidth allocation.
    #[arg(long)]
    pub(super) mem_bw_schema: Option<String>,
    #[command(flatten)]
    pub(super) id: IdArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_id_of_an_exec_is_the_commands() {
        let line = "hull-runtime --root /r exec -t -e A=1 c1 sh -c --detach";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Some(Command::Exec(exec)) = cli.command else {
            panic!("not exec");
        };
        assert!(exec.tty && !exec.detach);
        assert_eq!(exec.target, ["c1", "sh", "-c", "--detach"]);
    }

    #[test]
    fn the_lines_of_known_callers_are_read() {
        let lines = [
            "hull-runtime --root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /s c1",
            "hull-runtime --root /r --systemd-cgroup create -b /b --no-pivot --preserve-fds 3 c1",
            "hull-runtime delete --force c1",
            "hull-runtime kill --all c1 9",
            "hull-runtime kill c1 SIGTERM",
            "hull-runtime exec --process /p.json --console-socket /s --detach --pid-file /p c1",
            "hull-runtime ps --format json c1",
            "hull-runtime ps c1 -ef",
            "hull-runtime update --resources=- c1",
            "hull-runtime update --memory -1 --pids-limit -1 c1",
            "hull-runtime list -q",
            "hull-runtime --version",
            "hull-runtime -v",
        ];
        for line in lines {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }
}
