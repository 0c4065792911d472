//! Boots a microVM from an EROFS image and runs one command in it, on this terminal: the shortest
//! way to try a VMM, kernel or agent, without engine or containerd.
//!
//! ```text
//! vmrun --image alpine.erofs [--scratch empty.ext4] [--trace] -- /bin/sh -c 'echo hello'
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use hull_protocol::agent::ProcessRef;
use hull_shim::agent::CALL_LIMIT;
use hull_shim::assets::Assets;
use hull_shim::lower::{lower, HostFacts, Plan, TaskOptions};
use hull_shim::network::Attachments;
use hull_shim::runtime_dir::{exec_root, RuntimeDir};
use hull_shim::sandbox::{Boot, Home, Sandbox};
use hull_shim::spec::{BlockFile, Bundle, RootfsSource};
use hull_shim::stdio::{Connected, Endpoints};
use hull_shim::vmm::{UidLease, Vm};
use oci_spec::runtime::Spec;
use protobuf::MessageField;

#[derive(Parser)]
struct Args {
    /// EROFS image of the root file system.
    #[arg(long)]
    image: PathBuf,
    /// ext4 file for the writable layer; without it the root is read-only.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Guest memory, such as 256m.
    #[arg(long, default_value = "256m")]
    memory: String,
    /// Number of vCPUs.
    #[arg(long, default_value_t = 1)]
    vcpus: u32,
    /// File that takes the guest kernel's console.
    #[arg(long)]
    console: Option<PathBuf>,
    /// User, as docker writes it.
    #[arg(long, default_value = "")]
    user: String,
    /// Run with a terminal of the guest.
    #[arg(short, long)]
    tty: bool,
    /// Connect stdin.
    #[arg(short, long)]
    interactive: bool,
    /// Print the boot's timeline to stderr.
    #[arg(long)]
    trace: bool,
    /// Print what the VMM's jail holds to stderr.
    #[arg(long)]
    jail: bool,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(run(&args));
    // A read of this process's stdin can't be interrupted.
    runtime.shutdown_background();
    status
}

async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let id = format!("vmrun-{}", std::process::id());
    let uid = UidLease::take(&exec_root())?;
    let dir = RuntimeDir::create(&exec_root(), &id)?;
    let plan = plan(args, &id, &uid)?;
    let assets = Assets::find()?;
    let boot = Boot {
        assets: &assets,
        initramfs: &assets.initramfs,
        config: plan.config.clone(),
        resources: &plan.resources,
        console: args.console.as_deref(),
        shares: &plan.shares,
        id_maps: plan.id_maps.as_ref(),
        device_nodes: plan.device_nodes,
        taps: Vec::new(),
        vhost_net: false,
        namespace: None,
        network: plan.network.clone(),
        sandbox: plan.sandbox.clone(),
        home: Home::Own(Vec::new()),
        oom_score: None,
    };
    let sandbox = Sandbox::boot(boot, dir, uid).await?;
    let status = run_process(args, &sandbox, plan).await;
    report(args, sandbox.vm()).await?;
    sandbox.shut_down(CALL_LIMIT).await;
    Ok(ExitCode::from(u8::try_from(status?).unwrap_or(u8::MAX)))
}

fn plan(args: &Args, id: &str, uid: &UidLease) -> anyhow::Result<Plan> {
    let block = |path: &PathBuf, fs_type: &str| -> anyhow::Result<BlockFile> {
        let metadata = std::fs::metadata(path).with_context(|| format!("{path:?}"))?;
        Ok(BlockFile {
            path: path.clone(),
            fs_type: fs_type.into(),
            length: metadata.len(),
        })
    };
    let mut spec = Spec::default();
    spec.set_annotations(Some(
        [
            ("dev.hull.memory".to_owned(), args.memory.clone()),
            ("dev.hull.vcpus".to_owned(), args.vcpus.to_string()),
            (
                "dev.hull.console".to_owned(),
                args.console.is_some().to_string(),
            ),
        ]
        .into(),
    ));
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(args.command.clone()));
        let user = Some(args.user.clone()).filter(|user| !user.is_empty());
        process.user_mut().set_username(user);
    }
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(args.scratch.is_none()));
    }
    let bundle = Bundle {
        directory: PathBuf::from("."),
        spec,
        rootfs: RootfsSource::Blocks {
            image: block(&args.image, "erofs")?,
            layers: Vec::new(),
            scratch: args
                .scratch
                .as_ref()
                .map(|path| block(path, "ext4"))
                .transpose()?,
        },
        inline: Vec::new(),
        disks: Vec::new(),
        host_disks: Vec::new(),
        memory: None,
        nodes: Vec::new(),
        sockets: Vec::new(),
    };
    let options = TaskOptions {
        sandbox_id: id.into(),
        container_id: id.into(),
        terminal: args.tty,
        jail: uid.jail(),
        host: HostFacts::read(),
        network: Attachments::default(),
        pod: None,
        slots: Vec::new(),
    };
    Ok(lower(&bundle, &options)?)
}

async fn run_process(args: &Args, sandbox: &Sandbox, plan: Plan) -> anyhow::Result<u32> {
    let mut endpoints = Endpoints {
        stdin: None,
        stdout: Some(Box::new(tokio::io::stdout())),
        stderr: Some(Box::new(tokio::io::stderr())),
        ..Endpoints::default()
    };
    if args.interactive {
        endpoints.stdin = Some(Box::new(tokio::io::stdin()));
    }
    let streams = Connected::new(sandbox.vm(), endpoints, args.tty).await?;
    let mut create = plan.create;
    create.stdio = MessageField::some(streams.tokens());
    let init = ProcessRef {
        container_id: create.container_id.clone(),
        ..Default::default()
    };
    let agent = sandbox.agent();
    let created = agent.call(
        "CreateContainer",
        CALL_LIMIT,
        |client, context| async move { client.create_container(context, &create).await },
    );
    created.await?;
    let io = streams.start();
    let request = init.clone();
    let started = agent.call("StartProcess", CALL_LIMIT, |client, context| async move {
        client.start_process(context, &request).await
    });
    started.await?;
    let ended = agent.call_unlimited("WaitProcess", |client, context| async move {
        client.wait_process(context, &init).await
    });
    let exit = ended.await?;
    io.settle().await;
    io.finish().await;
    Ok(exit.exit_status)
}

async fn report(args: &Args, vm: &Vm) -> anyhow::Result<()> {
    if args.trace {
        for mark in vm.trace().await? {
            let milliseconds = mark.at_ns as f64 / 1e6;
            eprintln!("{milliseconds:10.3} ms  {}", mark.name);
        }
    }
    if args.jail {
        for (name, value) in vm.jail().await? {
            eprintln!("{name}: {value}");
        }
    }
    Ok(())
}
