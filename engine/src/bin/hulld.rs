//! The daemon: serves the Docker Engine API for containers in microVMs.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, bail, Context as _};
use bollard_stubs::models::HostConfigLogConfig;
use clap::Parser;
use hull_engine::daemon::{self, Config};
use hull_engine::engine::{Defaults, Programs};
use hull_engine::error::{chain, EngineError};
use hull_engine::listen::{self, Address, TlsFiles};
use hull_engine::paths::Paths;
use hull_engine::resolving::Resolving;
use hull_engine::settings::{
    Bytes, Cidr, LogFormat, LogLevel, PoolSetting, Settings, DEFAULT_FILE,
};
use hull_network::egress::Egress;
use hull_network::pool::AddressPool;
use tokio::signal::unix::{signal, SignalKind};

/// Group whose members may use the socket, unless another is named.
const GROUP: &str = "hull";

/// Serves the Docker Engine API; each container runs in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "hulld", version)]
struct Args {
    /// Where to listen: unix:///path, tcp://address:port, fd:// for systemd's sockets (repeatable)
    /// [default: unix://EXEC_ROOT/hull.sock]
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    hosts: Vec<String>,
    /// Configuration file [default: /etc/hull/hulld.json, if it is there]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Look at flags and configuration file, and end
    #[arg(long)]
    validate: bool,
    /// Directory of what lasts: images, containers [default: /var/lib/hull]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of what lives: sockets, bundles [default: /run/hull]
    #[arg(long, value_name = "DIR")]
    exec_root: Option<PathBuf>,
    /// Group whose members may use the UNIX socket [default: hull, if there is one]
    #[arg(short = 'G', long, value_name = "NAME")]
    group: Option<String>,
    /// Registry that may be spoken to without TLS, or with a certificate that nobody vouches for
    /// (repeatable): HOST[:PORT]
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure_registries: Vec<String>,
    /// Registry that is asked before Docker Hub, or before another one (repeatable):
    /// [REGISTRY=]http[s]://HOST[:PORT]
    #[arg(long = "registry-mirror", value_name = "URL")]
    registry_mirrors: Vec<String>,
    /// Serve TCP with TLS, to clients whose certificate the authority has signed
    #[arg(long = "tlsverify")]
    tls_verify: bool,
    /// Certificates of that authority [default: /etc/hull/ca.pem]
    #[arg(long = "tlscacert", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The server's certificate [default: /etc/hull/cert.pem]
    #[arg(long = "tlscert", value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// Its private key [default: /etc/hull/key.pem]
    #[arg(long = "tlskey", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Program that runs a sandbox [default: beside hulld]
    #[arg(long, hide = true)]
    shim: Option<PathBuf>,
    /// Program that unpacks layers [default: beside hulld]
    #[arg(long, hide = true)]
    unpack: Option<PathBuf>,
    /// Print the manual page
    #[arg(long, hide = true)]
    man: bool,
    /// Leave the session of the command that started it
    #[arg(long, hide = true)]
    own_session: bool,
    /// Run containers with an init process unless they say otherwise
    #[arg(long)]
    init: bool,
    /// Serve containers' network interfaces in their VMMs, even where the kernel has vhost-net
    #[arg(long)]
    no_vhost_net: bool,
    /// Serve containers' disks in their VMMs alone, even where the kernel has io_uring
    #[arg(long)]
    no_io_uring: bool,
    /// Refuse containers with --network host
    #[arg(long)]
    no_host_network: bool,
    /// Containers are untrusted unless they say otherwise
    #[arg(long)]
    untrusted: bool,
    /// Where containers that don't say may begin conversations to: all, outside (not this machine,
    /// not link-local addresses), none, or allow:CIDR[:PORT],... [default: all]
    #[arg(long, value_name = "POLICY")]
    egress: Option<String>,
    /// Log driver of containers that don't say [default: json-file]
    #[arg(long, value_name = "NAME")]
    log_driver: Option<String>,
    /// Option of that driver (repeatable): KEY=VALUE
    #[arg(long = "log-opt", value_name = "OPTION", value_parser = key_value)]
    log_opts: Vec<(String, String)>,
    /// Name server of containers that name none (repeatable) [default: the host's]
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Option of their resolv.conf (repeatable)
    #[arg(long = "dns-opt", value_name = "OPTION")]
    dns_opts: Vec<String>,
    /// Domain in which they search names (repeatable)
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Size of /dev/shm of containers that don't say [default: 64m]
    #[arg(long, value_name = "BYTES")]
    default_shm_size: Option<Bytes>,
    /// Where networks' addresses are chosen from (repeatable): base=PREFIX,size=BITS
    #[arg(long = "default-address-pool", value_name = "POOL")]
    default_address_pools: Vec<AddressPool>,
    /// Size of packets of the default network [default: as the host's way out has it]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// The host's address on the default network, with the length of its subnet
    #[arg(long, value_name = "CIDR")]
    bip: Option<Cidr>,
    /// The same of IPv6
    #[arg(long, value_name = "CIDR")]
    bip6: Option<Cidr>,
    /// The part of that subnet which containers get addresses of
    #[arg(long, value_name = "CIDR")]
    fixed_cidr: Option<Cidr>,
    /// The same of IPv6
    #[arg(long, value_name = "CIDR")]
    fixed_cidr_v6: Option<Cidr>,
    /// The default network has IPv6
    #[arg(long)]
    ipv6: bool,
    /// Whether containers of the default network reach each other [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    icc: Option<bool>,
    /// Whether they reach others under the host's address [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_masq: Option<bool>,
    /// Address of the host where their ports are published that name none [default: all]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<std::net::IpAddr>,
    /// What clients are told of this engine (repeatable): KEY=VALUE
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// How much to log [default: info]
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// How to write a line of the log [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Log more: the same as --log-level debug
    #[arg(short = 'D', long)]
    debug: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.man {
        return manual();
    }
    match settings(&args).and_then(|settings| run(&args, settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hulld: {}", chain(error.as_ref()));
            match error.downcast_ref() {
                // Told apart by the command line, which then waits for the other one.
                Some(EngineError::StateInUse(_)) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Prints the manual page.
fn manual() -> ExitCode {
    let page = clap_mangen::Man::new(<Args as clap::CommandFactory>::command()).section("8");
    match page.render(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Flags and configuration file together.
fn settings(args: &Args) -> anyhow::Result<Settings> {
    let asked = args.config_file.as_deref();
    let file = Settings::read(asked.unwrap_or(Path::new(DEFAULT_FILE)), asked.is_some())?;
    let flags = Settings {
        hosts: args.hosts.clone(),
        root: args.root.clone(),
        exec_root: args.exec_root.clone(),
        group: args.group.clone(),
        insecure_registries: args.insecure_registries.clone(),
        registry_mirrors: args.registry_mirrors.clone(),
        tls_verify: args.tls_verify.then_some(true),
        tls_ca: args.tls_ca.clone(),
        tls_certificate: args.tls_certificate.clone(),
        tls_key: args.tls_key.clone(),
        init: args.init.then_some(true),
        vhost_net: args.no_vhost_net.then_some(false),
        io_uring: args.no_io_uring.then_some(false),
        no_host_network: args.no_host_network.then_some(true),
        untrusted: args.untrusted.then_some(true),
        egress: args.egress.clone(),
        log_driver: args.log_driver.clone(),
        log_opts: args.log_opts.iter().cloned().collect(),
        dns: args.dns.clone(),
        dns_opts: args.dns_opts.clone(),
        dns_search: args.dns_search.clone(),
        default_ulimits: Default::default(),
        default_shm_size: args.default_shm_size,
        default_address_pools: args
            .default_address_pools
            .iter()
            .map(|pool| PoolSetting(*pool))
            .collect(),
        mtu: args.mtu,
        bip: args.bip,
        bip6: args.bip6,
        fixed_cidr: args.fixed_cidr,
        fixed_cidr_v6: args.fixed_cidr_v6,
        ipv6: args.ipv6.then_some(true),
        icc: args.icc,
        ip_masq: args.ip_masq,
        ip: args.ip,
        labels: args.labels.clone(),
        log_level: args.log_level,
        log_format: args.log_format,
        debug: args.debug.then_some(true),
    };
    Ok(flags.join(file)?)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

fn log_to_stderr(level: LogLevel, format: LogFormat) {
    let level = level.name();
    let filter = tracing_subscriber::EnvFilter::try_from_env("HULL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("hulld={level},hull={level},hull_engine={level},hull_image={level},hull_shim={level},warn")));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// What the daemon is started with.
fn config(args: &Args, settings: Settings) -> anyhow::Result<Config> {
    let ulimits = settings.ulimits()?;
    let bridge = settings.bridge();
    let directory = |given: Option<PathBuf>, default: &str| {
        absolute(given.as_deref().unwrap_or(Path::new(default)))
    };
    let root = directory(settings.root, "/var/lib/hull")?;
    let paths = Paths::new(root, directory(settings.exec_root, "/run/hull")?);
    let addresses = match settings.hosts.as_slice() {
        [] => vec![Address::Unix(paths.api_socket())],
        hosts => hosts
            .iter()
            .map(|host| host.parse().map_err(|why: String| anyhow!("-H {why}")))
            .collect::<anyhow::Result<_>>()?,
    };
    let file = |given: Option<PathBuf>, name: &str| {
        given.unwrap_or_else(|| Path::new("/etc/hull").join(name))
    };
    let files = [
        &settings.tls_ca,
        &settings.tls_certificate,
        &settings.tls_key,
    ];
    if settings.tls_verify.is_none() && files.iter().any(|file| file.is_some()) {
        bail!("certificates are given, but not tlsverify: without it TCP is served without TLS");
    }
    let tls = settings.tls_verify.unwrap_or(false).then(|| TlsFiles {
        ca: file(settings.tls_ca, "ca.pem"),
        certificate: file(settings.tls_certificate, "cert.pem"),
        key: file(settings.tls_key, "key.pem"),
    });
    let mirrors = settings.registry_mirrors.iter().map(|text| text.parse());
    let mirrors = mirrors.collect::<Result<_, hull_image::MirrorError>>()?;
    let defaults = Defaults {
        init: settings.init.unwrap_or(false),
        vhost_net: settings.vhost_net.unwrap_or(true),
        io_uring: settings.io_uring.unwrap_or(true),
        no_host_network: settings.no_host_network.unwrap_or(false),
        untrusted: settings.untrusted.unwrap_or(false),
        egress: settings
            .egress
            .as_deref()
            .map_or(Ok(Egress::All), str::parse)?,
        log: HostConfigLogConfig {
            typ: settings.log_driver,
            config: Some(settings.log_opts),
        },
        resolving: Resolving {
            servers: settings.dns,
            search: settings.dns_search,
            options: settings.dns_opts,
        },
        ulimits,
        shm_bytes: settings.default_shm_size.map(|size| size.0),
        address_pools: settings
            .default_address_pools
            .iter()
            .map(|pool| pool.0)
            .collect(),
        mtu: settings.mtu,
        bridge,
        labels: settings.labels,
    };
    defaults.check()?;
    // The usual group may be missing: then the socket is root's alone.
    let named = settings.group.as_deref().filter(|name| *name != GROUP);
    listen::check(named, tls.as_ref())?;
    for registry in &settings.insecure_registries {
        check_registry(registry)?;
    }
    Ok(Config {
        paths,
        addresses,
        group: Some(settings.group.unwrap_or_else(|| GROUP.to_owned())),
        tls,
        programs: Programs {
            shim: program(args.shim.clone(), "containerd-shim-hull-v2")?,
            unpack: program(args.unpack.clone(), "hull-unpack")?,
        },
        defaults,
        registries: hull_image::RegistryConfig {
            insecure: settings.insecure_registries,
            mirrors,
            ..hull_image::RegistryConfig::default()
        },
    })
}

fn run(args: &Args, settings: Settings) -> anyhow::Result<()> {
    let level = match settings.debug {
        Some(true) => LogLevel::Debug,
        _ => settings.log_level.unwrap_or(LogLevel::Info),
    };
    let format = settings.log_format.unwrap_or_default();
    let config = config(args, settings)?;
    if args.validate {
        println!("configuration OK");
        return Ok(());
    }
    log_to_stderr(level, format);
    if args.own_session {
        rustix::process::setsid().context("failed to leave the session")?;
    }
    // No mount of the starter's directory is kept busy.
    std::env::set_current_dir("/").context("failed to change to /")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the event loop")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("failed to catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to catch SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("failed to catch SIGHUP")?;
        let mut user = signal(SignalKind::user_defined1()).context("failed to catch SIGUSR1")?;
        let stop = async move {
            loop {
                // Other daemons read their configuration anew or tell of themselves; neither ends them.
                let ignored = tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
                    _ = hangup.recv() => "SIGHUP",
                    _ = user.recv() => "SIGUSR1",
                };
                tracing::warn!("{ignored} changes nothing: the configuration is read at the start; restart hulld, containers go on");
            }
        };
        // In a task: children are then spawned by the runtime's own threads, which live as long
        // as the daemon. Some children ask to end with the thread that spawned them.
        let served = tokio::spawn(daemon::run(config, stop));
        served
            .await
            .context("the daemon panicked")?
            .map_err(anyhow::Error::from)
    })
}

/// A registry is named as in the names of its images, or by its host alone: for all of its ports.
fn check_registry(text: &str) -> anyhow::Result<()> {
    let is_one = |name: String| {
        let image = format!("{name}/x").parse::<hull_image::Reference>();
        image.is_ok_and(|image| image.registry() == name)
    };
    if !is_one(text.to_owned()) && !is_one(format!("{text}:443")) {
        bail!("insecure-registries: {text:?} is not HOST[:PORT] (ranges of addresses are not supported)");
    }
    Ok(())
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("bad path {path:?}"))
}

/// A program of Hull: beside this one, else found by PATH.
fn program(given: Option<PathBuf>, name: &str) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given);
    }
    let own = std::env::current_exe().context("failed to find hulld's own path")?;
    let beside = own.with_file_name(name);
    Ok(if beside.exists() {
        beside
    } else {
        PathBuf::from(name)
    })
}
