//! Boots a kernel and an initramfs under `hull-vmm` and prints events, the boot trace and, at the
//! end, the guest's console: for trying the VMM by itself.
//!
//! `cargo run -p hull-vmm --example boot -- KERNEL INITRAMFS [--vcpus N] [--memory MIB]
//! [--disk FILE] [--append WORD]... [--pause MILLISECONDS] [--repeat N]`

use std::fs::File;
use std::io::{IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use hull_vm_config::control::{Event, Request, MAX_MESSAGE_BYTES};
use hull_vm_config::{
    BlockConfig, BootConfig, DeviceConfig, Extent, JailConfig, VmConfig, VM_CONFIG_VERSION,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

struct Options {
    kernel: PathBuf,
    initramfs: PathBuf,
    vcpus: u8,
    memory_mib: u64,
    disk: Option<PathBuf>,
    append: Vec<String>,
    pause: Option<Duration>,
    repeat: u32,
}

fn options() -> anyhow::Result<Options> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("{what} is missing"));
    let mut options = Options {
        kernel: next("KERNEL")?.into(),
        initramfs: next("INITRAMFS")?.into(),
        vcpus: 1,
        memory_mib: 128,
        disk: None,
        append: vec![],
        pause: None,
        repeat: 1,
    };
    while let Ok(flag) = next("") {
        match flag.as_str() {
            "--vcpus" => options.vcpus = next("N")?.parse()?,
            "--memory" => options.memory_mib = next("MIB")?.parse()?,
            "--disk" => options.disk = Some(next("FILE")?.into()),
            "--append" => options.append.push(next("WORD")?),
            "--pause" => {
                options.pause = Some(Duration::from_millis(next("MILLISECONDS")?.parse()?))
            }
            "--repeat" => options.repeat = next("N")?.parse()?,
            _ => bail!("unknown argument {flag}"),
        }
    }
    Ok(options)
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    for _ in 0..options.repeat {
        run(&options)?;
    }
    Ok(())
}

fn run(options: &Options) -> anyhow::Result<()> {
    let mut console = tempfile::tempfile()?;
    let (control, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let started = Instant::now();
    let mut child = start(options, &console, theirs)?;
    let result = follow(&control, started, options.pause);
    let status = child.wait()?;
    console.rewind()?;
    let mut text = Vec::new();
    console.read_to_end(&mut text)?;
    println!("--- console");
    std::io::stdout().write_all(&text)?;
    println!("--- exit status {status}, {:?} in all", started.elapsed());
    result
}

fn start(options: &Options, console: &File, control: OwnedFd) -> anyhow::Result<Child> {
    let open = |path: &PathBuf| File::open(path).with_context(|| format!("open {path:?}"));
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    let disk = options.disk.as_ref().map(open).transpose()?;
    let mut config = tempfile::tempfile()?;
    config.write_all(&serde_json::to_vec(&vm_config(options, disk.as_ref())?)?)?;

    let mut fds: Vec<(&str, OwnedFd)> = vec![
        ("kvm", kvm.into()),
        ("config", config.into()),
        ("control", control),
        ("console", console.try_clone()?.into()),
        ("kernel", open(&options.kernel)?.into()),
        ("initramfs", open(&options.initramfs)?.into()),
    ];
    fds.extend(disk.map(|disk| ("disk", disk.into())));
    let vmm = match std::env::var_os("HULL_VMM") {
        Some(path) => PathBuf::from(path),
        // target/PROFILE/examples/boot -> target/PROFILE/hull-vmm
        None => std::env::current_exe()?
            .ancestors()
            .nth(2)
            .context("no build folder")?
            .join("hull-vmm"),
    };
    let mut command = Command::new(&vmm);
    for (name, fd) in &fds {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        command
            .arg("--fd")
            .arg(format!("{name}={}", fd.as_raw_fd()));
    }
    // The descriptors are closed here once the child has them.
    command.spawn().with_context(|| format!("start {vmm:?}"))
}

fn vm_config(options: &Options, disk: Option<&File>) -> anyhow::Result<VmConfig> {
    let image = match disk {
        Some(file) => Some(BlockConfig {
            extents: vec![Extent {
                fd: "disk".into(),
                offset: 0,
                length: file.metadata()?.len().next_multiple_of(512),
            }],
            read_only: true,
            serial: "image".into(),
        }),
        None => None,
    };
    Ok(VmConfig {
        version: VM_CONFIG_VERSION,
        sandbox_id: "boot-example".into(),
        vcpus: options.vcpus,
        memory_bytes: options.memory_mib << 20,
        boot: BootConfig {
            kernel: "kernel".into(),
            initramfs: "initramfs".into(),
            cmdline: options.append.clone(),
        },
        devices: DeviceConfig {
            image,
            console: Some("console".into()),
            ..DeviceConfig::default()
        },
        jail: JailConfig {
            uid: 99_999,
            gid: 99_999,
        },
    })
}

/// Prints what comes until the VM ends; pauses it once, when the agent is ready.
fn follow(control: &OwnedFd, started: Instant, pause: Option<Duration>) -> anyhow::Result<()> {
    send(control, &Request::Jail)?;
    loop {
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut nothing = rustix::net::RecvAncillaryBuffer::default();
        let received = rustix::net::recvmsg(control, &mut parts, &mut nothing, RecvFlags::empty())?;
        if received.bytes == 0 {
            bail!("the VMM closed its control socket without a word");
        }
        let event: Event = serde_json::from_slice(&buffer[..received.bytes])?;
        let at = started.elapsed();
        match event {
            Event::Exited { reason } => {
                println!("{at:>12.3?} exited: {reason}");
                return Ok(());
            }
            Event::Trace { marks } => {
                for mark in marks {
                    println!("  {:>9} us {}", mark.at_ns / 1000, mark.name);
                }
            }
            Event::Jail { holds } => println!("{at:>12.3?} jail: {} properties hold", holds.len()),
            Event::Ready => {
                println!("{at:>12.3?} ready");
                send(control, &Request::Trace)?;
                if pause.is_some() {
                    send(control, &Request::Pause)?;
                }
            }
            other => {
                println!("{at:>12.3?} {other:?}");
                if other == Event::Paused {
                    std::thread::sleep(pause.unwrap_or_default());
                    send(control, &Request::Resume)?;
                }
            }
        }
    }
}

fn send(control: &OwnedFd, request: &Request) -> anyhow::Result<()> {
    rustix::net::send(control, &serde_json::to_vec(request)?, SendFlags::empty())?;
    Ok(())
}
