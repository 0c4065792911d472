//! The flags of `run` and `create`.

mod request;

use std::path::PathBuf;

use crate::error::{CliError, Result};
use crate::units::{parse_bytes, parse_cpus, parse_duration};

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Pull {
    /// Before each run.
    Always,
    /// If it is not here.
    #[default]
    Missing,
    /// Not at all.
    Never,
}

/// A stream of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// The streams that a client is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

/// Flags of `run` and `create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Print help (`-h` is the host name, as docker has it)
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Attach to these streams alone: stdin, stdout, stderr (repeatable)
    #[arg(short, long, value_enum, value_name = "STREAM", ignore_case = true)]
    pub(super) attach: Vec<Stream>,
    /// Keep its input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Remove it when it ends
    #[arg(long)]
    pub(super) rm: bool,
    /// Name of the container
    #[arg(long, allow_hyphen_values = true)]
    pub(super) name: Option<String>,
    /// Set an environment variable: NAME=VALUE, or NAME to take it from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User: NAME|UID[:GROUP|GID]
    #[arg(short, long)]
    user: Option<String>,
    /// Further groups
    #[arg(long)]
    group_add: Vec<String>,
    /// Program to run instead of the image's; empty: the command is the program
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Mount a path of this machine or a volume (SOURCE:TARGET[:ro]), or a new volume (TARGET)
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    volume: Vec<String>,
    /// Also mount what this container has mounted: CONTAINER[:ro]
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Driver of the volumes that -v makes
    #[arg(long, value_name = "NAME")]
    volume_driver: Option<String>,
    /// Mount something: type=bind|volume|tmpfs|image,source=...,target=...[,readonly]
    #[arg(long, value_name = "FIELDS")]
    mount: Vec<String>,
    /// Command that checks the container's health, run by a shell
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between two checks, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    health_interval: Option<i64>,
    /// Longest that a check may take
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    health_timeout: Option<i64>,
    /// Bad results in a row that make the container unhealthy
    #[arg(long, value_name = "COUNT")]
    health_retries: Option<i64>,
    /// Time in which bad results don't count
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    health_start_period: Option<i64>,
    /// Time between two checks in the start period
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    health_start_interval: Option<i64>,
    /// Make no health check, whatever the image says
    #[arg(long)]
    no_healthcheck: bool,
    /// Mount a tmpfs: TARGET[:OPTIONS]
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Publish a port: [ADDRESS:][HOST-PORT:]PORT[/tcp|udp|sctp]
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Publish all exposed ports to free ports of this machine
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Say that the container serves a port
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    #[command(flatten)]
    networks: super::networks::NetworkOptions,
    /// Where it may begin conversations to: all, outside (not the host, not link-local addresses),
    /// none, or allow:CIDR[:PORT],...
    #[arg(long, value_name = "POLICY")]
    egress: Option<String>,
    /// Run code that nobody vouches for: unless more is said, it reaches neither this machine nor
    /// link-local addresses, and this machine's kernel does not serve its network and disks
    #[arg(long)]
    untrusted: bool,
    /// Most bytes and packets a second of each network interface:
    /// in=10m,out=2m,in-packets=20000,out-packets=5000
    #[arg(long, value_name = "RATES")]
    net_rate: Option<String>,
    /// Number of CPUs, such as 1.5
    #[arg(long, value_parser = parse_cpus)]
    cpus: Option<i64>,
    /// Memory limit, such as 512m
    #[arg(short, long, value_parser = parse_bytes)]
    memory: Option<i64>,
    /// Limit of memory and swap together; -1: none
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    #[command(flatten)]
    limits: super::limits::LimitOptions,
    /// Most processes and threads
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Size of /dev/shm
    #[arg(long, value_parser = parse_bytes)]
    shm_size: Option<i64>,
    /// Limit of a resource: NAME=SOFT[:HARD]
    #[arg(long)]
    ulimit: Vec<String>,
    /// The root file system can't be written
    #[arg(long)]
    read_only: bool,
    /// Host name
    #[arg(long, short = 'h')]
    hostname: Option<String>,
    /// NIS domain name
    #[arg(long)]
    domainname: Option<String>,
    /// Fixed host address: NAME:ADDRESS
    #[arg(long)]
    add_host: Vec<String>,
    /// Name server
    #[arg(long)]
    dns: Vec<String>,
    /// Domain in which names are looked for; "." for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Option of resolv.conf
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Signal that asks it to end
    #[arg(long)]
    stop_signal: Option<String>,
    /// Seconds that it may take to end
    #[arg(long, allow_hyphen_values = true)]
    stop_timeout: Option<i64>,
    /// When it is started again: no, on-failure[:COUNT], always, unless-stopped
    #[arg(long)]
    restart: Option<String>,
    /// When the image is pulled
    #[arg(long, value_enum, default_value_t)]
    pub(super) pull: Pull,
    /// Platform of the image: OS/ARCH
    #[arg(long)]
    pub(super) platform: Option<String>,
    /// Without effect: signatures by the Notary are not checked
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    disable_content_trust: Option<bool>,
    /// Without effect, as with docker: kernels have no such limit any more
    #[arg(long, hide = true, value_parser = parse_bytes)]
    kernel_memory: Option<i64>,
    /// Say nothing of pulls
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Set a label: KEY[=VALUE]
    #[arg(short, long)]
    label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Set an annotation: KEY=VALUE
    #[arg(long)]
    annotation: Vec<String>,
    /// Add a capability
    #[arg(long)]
    cap_add: Vec<String>,
    /// Take a capability away
    #[arg(long)]
    cap_drop: Vec<String>,
    /// All capabilities of its VM
    #[arg(long)]
    privileged: bool,
    /// Security option, such as no-new-privileges
    #[arg(long)]
    security_opt: Vec<String>,
    /// Kernel parameter: NAME=VALUE
    #[arg(long)]
    sysctl: Vec<String>,
    /// Preference of the OOM killer, -1000 to 1000
    #[arg(long, allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// Run an init process that reaps zombies
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    init: Option<bool>,
    /// What happens with its output: json-file, local, syslog, journald, gelf, fluentd, none
    #[arg(long)]
    log_driver: Option<String>,
    /// Option of the log driver: KEY=VALUE, such as max-size=10m
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,
    /// Image, then command and arguments: flags end at the image
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "COMMAND"])]
    words: Vec<String>,
}

impl CreateArgs {
    /// Whether a restart policy is asked for.
    pub(super) fn restarts(&self) -> bool {
        self.restart
            .as_deref()
            .is_some_and(|policy| !matches!(policy, "" | "no"))
    }

    /// What a client in the foreground attaches to: output, and input where it is kept open, unless
    /// streams are named.
    pub(super) fn streams(&self) -> Streams {
        let named = |stream| self.attach.contains(&stream);
        match self.attach.is_empty() {
            true => Streams {
                stdin: self.interactive,
                stdout: true,
                stderr: true,
            },
            false => Streams {
                stdin: named(Stream::Stdin),
                stdout: named(Stream::Stdout),
                stderr: named(Stream::Stderr),
            },
        }
    }

    /// The image; its place can be taken by a flag that does not exist.
    pub(super) fn image(&self) -> Result<&str> {
        match self.words.first().map(String::as_str) {
            None | Some("") => Err(CliError::usage("no image is named")),
            Some(flag) if flag.starts_with('-') => Err(CliError::usage(format!(
                "unknown flag: {flag}; see 'hull run --help'"
            ))),
            Some(image) => Ok(image),
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerCreateBody;

    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        create: CreateArgs,
    }

    fn body(words: &[&str]) -> ContainerCreateBody {
        let line = Line::try_parse_from([&["run"], words].concat()).unwrap();
        line.create.body().unwrap()
    }

    #[test]
    fn flags_after_the_image_belong_to_the_command() {
        let body = body(&["-i", "busybox", "sh", "-c", "exit 4", "--rm"]);
        assert_eq!(body.cmd.unwrap(), ["sh", "-c", "exit 4", "--rm"]);
        assert_eq!(body.host_config.unwrap().auto_remove, Some(false));
    }

    #[test]
    fn an_unknown_flag_is_no_image() {
        let line = Line::try_parse_from(["run", "--rm", "--no-such-flag", "x"]).unwrap();
        let error = line.create.body().unwrap_err();
        assert!(error.to_string().contains("--no-such-flag"), "{error}");
    }

    #[test]
    fn limits_and_policies_are_read() {
        let host = body(&[
            "--cpus",
            "1.5",
            "-m",
            "64m",
            "--restart",
            "on-failure:3",
            "--ulimit",
            "nofile=1:2",
            "x",
        ])
        .host_config
        .unwrap();
        assert_eq!(
            (host.nano_cpus, host.memory),
            (Some(1_500_000_000), Some(64 << 20))
        );
        assert_eq!(host.restart_policy.unwrap().maximum_retry_count, Some(3));
        assert_eq!(host.ulimits.unwrap()[0].hard, Some(2));
    }

    #[test]
    fn named_streams_are_all_that_is_attached_to() {
        let both = body(&["-a", "stdout", "-a", "STDERR", "-i", "x"]);
        assert_eq!(
            (both.attach_stdin, both.stdin_once),
            (Some(false), Some(false))
        );
        assert_eq!(
            (both.attach_stdout, both.attach_stderr),
            (Some(true), Some(true))
        );
        let usual = body(&["-i", "x"]);
        assert_eq!(
            (usual.attach_stdin, usual.attach_stdout),
            (Some(true), Some(true))
        );
    }

    #[test]
    fn labels_come_from_files_and_flags() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("labels");
        std::fs::write(&file, "# c\na=1\nb=x y\n").unwrap();
        let labels = body(&["--label-file", file.to_str().unwrap(), "-l", "a=2", "x"]).labels;
        let labels = labels.unwrap();
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("2", "x y"));
    }

    #[test]
    fn an_empty_entrypoint_is_sent_as_one_empty_word() {
        assert_eq!(
            body(&["--entrypoint", "", "x", "y"]).entrypoint.unwrap(),
            [""]
        );
        assert_eq!(body(&["x"]).entrypoint, None);
    }
}
