//! `doctor`: whether this machine can run containers, and what to do where it can't.

mod engine;
mod host;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hyper::Method;

use super::line;
use crate::client::{empty, read_json, Client};
use crate::endpoint::Endpoint;
use crate::error::Result;

/// `doctor`
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// State directory to check [default: the engine's, or /var/lib/hull where none runs]
    #[arg(long)]
    root: Option<PathBuf>,
    /// Print what holds the VMM of this running container, read from the kernel
    #[arg(long, value_name = "CONTAINER")]
    jail: Option<String>,
    /// Read all images of the engine, and pull again what is damaged
    #[arg(long, conflicts_with = "jail")]
    repair: bool,
}

/// Damaged images, and what came of them.
async fn repair(client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let answer = client.send(Method::POST, "/hull/images/repair", empty());
    let answer = read_json(answer.await?).await?;
    let problems = answer["Problems"].as_array().map_or(&[][..], Vec::as_slice);
    if problems.is_empty() {
        line(out, "all images are whole")?;
    }
    let mut status = ExitCode::SUCCESS;
    for problem in problems {
        let text = |key: &str| problem[key].as_str().unwrap_or_default();
        let what = format!(
            "{} {} of {}",
            text("Problem"),
            text("Digest"),
            text("Image")
        );
        match problem["Error"].as_str() {
            None => line(out, format!("{what}: pulled again"))?,
            Some(error) => {
                line(out, format!("{what}: {error}"))?;
                status = ExitCode::from(125);
            }
        }
    }
    Ok(status)
}

/// The outcome of one check.
struct Check {
    name: &'static str,
    /// What is well, or what is wrong and what to do.
    outcome: Result<String, String>,
}

pub(crate) async fn run(
    args: &DoctorArgs,
    endpoint: &Endpoint,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    if let Some(container) = &args.jail {
        return super::jail::run(container, &Client::connect(endpoint).await?, out).await;
    }
    if args.repair {
        return repair(&Client::connect(endpoint).await?, out).await;
    }
    let (running, known) = engine::look(endpoint).await;
    let own_root = known.as_ref().and_then(engine::Known::root);
    let root = args.root.clone().or(own_root);
    let root = root.unwrap_or_else(|| PathBuf::from("/var/lib/hull"));
    let checks = [
        Check {
            name: "processor",
            outcome: host::processor(),
        },
        Check {
            name: "KVM",
            outcome: kvm(Path::new("/dev/kvm")),
        },
        Check {
            name: "kernel",
            outcome: host::kernel(),
        },
        Check {
            name: "control groups",
            outcome: Ok(host::control_groups(Path::new("/sys/fs/cgroup"))),
        },
        Check {
            name: "taps",
            outcome: host::taps(Path::new("/dev/net/tun")),
        },
        Check {
            name: "vhost-net",
            outcome: Ok(vhost_net(Path::new("/dev/vhost-net"))),
        },
        Check {
            name: "programs",
            outcome: programs(),
        },
        Check {
            name: "guest files",
            outcome: guest_files(),
        },
        Check {
            name: "mkfs.ext4",
            outcome: mkfs(),
        },
        Check {
            name: "state directory",
            outcome: state_dir(&root),
        },
        Check {
            name: "engine",
            outcome: running,
        },
        Check {
            name: "versions",
            outcome: engine::versions(known.as_ref()),
        },
        Check {
            name: "registries",
            outcome: Ok(engine::registries(known.as_ref()).await),
        },
    ];
    let mut status = ExitCode::SUCCESS;
    for check in &checks {
        match &check.outcome {
            Ok(text) => line(out, format!("ok      {:<16} {text}", check.name))?,
            Err(text) => {
                line(out, format!("failed  {:<16} {text}", check.name))?;
                status = ExitCode::from(125);
            }
        }
    }
    Ok(status)
}

fn kvm(path: &Path) -> Result<String, String> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    match opened {
        Ok(_) => Ok(format!("{} can be opened", path.display())),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "{} does not exist: enable virtualization in the firmware (nested virtualization \
                 where this machine is itself virtual), and load kvm_intel or kvm_amd",
                path.display()
            ),
            io::ErrorKind::PermissionDenied => format!(
                "{} may not be opened: add the user to the group kvm, or run hulld as root",
                path.display()
            ),
            _ => format!("{} can't be opened: {error}", path.display()),
        }),
    }
}

/// Who serves network interfaces; either is well.
fn vhost_net(path: &Path) -> String {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    match opened {
        Ok(_) => format!("{} serves network interfaces", path.display()),
        Err(_) => format!(
            "{} can't be opened, so VMMs serve network interfaces; `modprobe vhost_net` makes them \
             faster",
            path.display()
        ),
    }
}

fn own_dir() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().map(Path::to_owned).unwrap_or_default()
}

fn programs() -> Result<String, String> {
    let dir = own_dir();
    let missing: Vec<&str> = ["hulld", "containerd-shim-hull-v2", "hull-unpack"]
        .into_iter()
        .filter(|name| !dir.join(name).exists())
        .collect();
    if missing.is_empty() {
        return Ok(format!("all in {}", dir.display()));
    }
    Err(format!(
        "{} not in {}: install Hull again",
        missing.join(", "),
        dir.display()
    ))
}

fn guest_files() -> Result<String, String> {
    let dir = std::env::var_os("HULL_LIBEXEC")
        .map_or_else(|| own_dir().join("../libexec/hull"), PathBuf::from);
    let missing: Vec<&str> = [
        "hull-vmm",
        "vmlinux",
        "initramfs.cpio",
        "unpack-initramfs.cpio",
    ]
    .into_iter()
    .filter(|name| !dir.join(name).exists())
    .collect();
    if !missing.is_empty() {
        return Err(format!(
            "{} not in {}: install Hull again, or set HULL_LIBEXEC",
            missing.join(", "),
            dir.display()
        ));
    }
    Ok(match dir.join("virtiofsd").exists() {
        true => format!("all in {}", dir.display()),
        false => format!(
            "in {} (without virtiofsd: -v is not possible)",
            dir.display()
        ),
    })
}

fn mkfs() -> Result<String, String> {
    let dirs = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    dirs.iter()
        .map(|dir| Path::new(dir).join("mkfs.ext4"))
        .find(|path| path.exists())
        .map(|path| path.display().to_string())
        .ok_or_else(|| "not found: install e2fsprogs".to_owned())
}

fn state_dir(root: &Path) -> Result<String, String> {
    let existing = root
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    if rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_err() {
        return Err(format!(
            "{} can't be written: run as root",
            existing.display()
        ));
    }
    let space = rustix::fs::statvfs(existing).map_err(|error| error.to_string())?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let text = format!("{}: {:.1} GB free", root.display(), free as f64 / 1e9);
    if free < 1 << 30 {
        return Err(format!("{text}: free at least 1 GB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_kvm_device_has_a_remedy() {
        let text = kvm(Path::new("/nonexistent/kvm")).unwrap_err();
        assert!(text.contains("enable virtualization"), "{text}");
    }
}
