//! `exec`.

use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, User};

use super::cli::ExecArgs;
use super::client::Status;
use super::control::{find, Found};
use super::create::{check_process, load_spec};
use super::error::{io_error, Result, RuntimeError};
use super::foreground::{self, Signals};
use super::streams::{random_name, send_pidfd, write_pid_file, Place, Size, Wanted};
use super::Context;
use crate::cgroup::Cgroup;
use crate::holder::Network;
use crate::spec::scheduler::rename_flags;
use crate::spec::{capabilities, json, JsonError};

/// `exec`. The exit status is the process's, or 255.
pub(super) async fn exec(context: &Context, args: &ExecArgs) -> Result<u8> {
    let (id, command) = args
        .target
        .split_first()
        .ok_or_else(|| super::usage_error("requires a minimum of 1 argument(s)"))?;
    if id.starts_with('-') {
        // No flag of ours: what follows the id is not looked at, so the id had to be taken so.
        let text = format!("flag provided but not defined: {id}");
        return Err(RuntimeError::Usage(text));
    }
    let done = run(context, args, id, command).await;
    done.map_err(RuntimeError::in_exec)
}

async fn run(context: &Context, args: &ExecArgs, id: &str, command: &[String]) -> Result<u8> {
    if command.is_empty() && args.process.is_none() {
        return Err(RuntimeError::Usage("process args cannot be empty".into()));
    }
    refuse_labels(args)?;
    warn_of_capabilities(context, &args.cap);
    let signals = (!args.detach).then(Signals::catch).transpose()?;
    let found = find(context, id).await?;
    let preserved = context.inherited.take().check()?;
    let sub_cgroup = sub_cgroup(&args.cgroup)?;
    let process = process(context, args, command, &found)?;
    check(&found, args.ignore_paused)?;
    for warning in capabilities::ambient_warnings(process.capabilities().as_ref()) {
        context.log.warn(&warning);
    }
    let terminal = process.terminal().unwrap_or(false);
    let wanted = Wanted {
        terminal,
        console_socket: args.console_socket.clone(),
        detached: args.detach,
        size: process.console_size().map(|size| Size {
            width: u32::try_from(size.width()).unwrap_or(u32::MAX),
            height: u32::try_from(size.height()).unwrap_or(u32::MAX),
        }),
        sub_cgroup,
    };
    wanted.check()?;
    let task = found.task()?;
    let netns = PathBuf::from(format!("/proc/{}/ns/net", found.record.pid));
    let place = Place {
        arguments: process.args().clone().unwrap_or_default(),
        network: Network::Join(netns),
        root: Some(found.record.rootfs.clone()),
    };
    let offer = wanted.open(&context.exec_root, place, preserved, None)?;
    if let (Some(cgroup), Some(pid)) = (&found.record.cgroup, offer.holder_pid()) {
        Cgroup::at(cgroup.clone()).add(pid)?;
    }
    let exec_id = format!("exec-{}", random_name()?);
    let json = serde_json::to_vec(&process).map_err(|source| RuntimeError::Json {
        what: "the process".into(),
        source,
    })?;
    task.exec(&exec_id, json, &offer.streams).await?;
    let started = async {
        let pid = task.start(&exec_id).await?;
        if let Some(socket) = &args.pidfd_socket {
            send_pidfd(socket, pid)?;
        }
        match &args.pid_file {
            Some(path) => write_pid_file(path, pid),
            None => Ok(()),
        }
    };
    if let Err(error) = started.await {
        let _ = task.delete(&exec_id).await;
        return Err(error);
    }
    let Some(signals) = signals else {
        offer.leave();
        return Ok(0);
    };
    let status = foreground::attend(task, &exec_id, terminal, signals).await?;
    // Ends when all output is out, too.
    let _ = task.delete(&exec_id).await;
    Ok(status)
}

fn check(found: &Found, ignore_paused: bool) -> Result<()> {
    let refused = |text: &str| Err(RuntimeError::State(text.to_owned()));
    match found.status {
        Status::Stopped => refused("cannot exec in a stopped container"),
        Status::Paused if !ignore_paused => {
            refused("cannot exec in a paused container (use --ignore-paused to override)")
        }
        _ => Ok(()),
    }
}

/// What the guest's kernel does not have cannot confine anything: in runc's words for such a host.
fn refuse_labels(args: &ExecArgs) -> Result<()> {
    let refused = |text: &str| Err(RuntimeError::Usage(text.to_owned()));
    let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if is_given(&args.process_label) {
        return refused(
            "selinux label is specified in config, but selinux is disabled or not supported",
        );
    }
    if is_given(&args.apparmor) {
        return refused("apparmor profile is specified, but a microVM's kernel has no AppArmor");
    }
    Ok(())
}

/// The group that `--cgroup` names, in runc's rules for version 2: one path, for all controllers.
fn sub_cgroup(arguments: &[String]) -> Result<String> {
    let refused = |text: String| Err(RuntimeError::Usage(text));
    let Some(first) = arguments.first() else {
        return Ok(String::new());
    };
    for argument in arguments {
        let fields: Vec<_> = argument.splitn(3, ':').collect();
        match fields.as_slice() {
            [_] if arguments.len() == 1 => {}
            [_] => {
                return refused(format!(
                    "invalid --cgroup argument: {argument} (missing <controller>: prefix)"
                ))
            }
            ["", _] => {}
            [controllers, _] => {
                return refused(format!(
                    "unknown controller {} in SubCgroupPaths",
                    controllers.split(',').next().unwrap_or_default()
                ))
            }
            _ => return refused(format!("invalid --cgroup argument: {argument}")),
        }
    }
    Ok(first.trim_start_matches(':').to_owned())
}

/// The process: as a file says, or the container's own with what the flags change.
fn process(
    context: &Context,
    args: &ExecArgs,
    command: &[String],
    found: &Found,
) -> Result<Process> {
    if let Some(path) = &args.process {
        let text = std::fs::read(path).map_err(io_error("read", path))?;
        let parsed = parse_process(&text).map_err(|source| RuntimeError::Config {
            what: path.display().to_string(),
            source,
        });
        let (mut process, unknown) = parsed?;
        warn_of_unknown(context, &unknown);
        if args.tty {
            process.set_terminal(Some(true));
        }
        return check_process(&process).map(|()| process);
    }
    let (spec, _) = load_spec(&found.record.bundle)?;
    let process = spec.process().clone();
    let process = process.ok_or_else(|| RuntimeError::Usage("no process in config.json".into()))?;
    let process = changed(process, args, command)?;
    check_process(&process).map(|()| process)
}

/// A process whose user may be left out: it is root then, as in runc. With it, the unknown
/// capabilities that were left out.
fn parse_process(text: &[u8]) -> std::result::Result<(Process, Vec<String>), JsonError> {
    let mut value: serde_json::Value = json::parse(text)?;
    if let Some(process) = value.as_object_mut() {
        let user = process.entry("user").or_insert(serde_json::json!({}));
        if let Some(user) = user.as_object_mut() {
            user.entry("uid").or_insert(0.into());
            user.entry("gid").or_insert(0.into());
        }
    }
    rename_flags(&mut value);
    let unknown = capabilities::take_unknown(&mut value);
    Ok((json::parse_value(value)?, unknown))
}

fn changed(mut process: Process, args: &ExecArgs, command: &[String]) -> Result<Process> {
    process.set_args(Some(command.to_vec()));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(PathBuf::from(cwd));
    }
    process.set_terminal(Some(args.tty));
    process.set_console_size(None);
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    if let Some(user) = &args.user {
        set_user(process.user_mut(), user)?;
    }
    if !args.additional_gids.is_empty() {
        let mut gids = process.user().additional_gids().clone().unwrap_or_default();
        for gid in &args.additional_gids {
            gids.push(u32::try_from(*gid).map_err(|_| {
                RuntimeError::Usage(format!("additional-gids must be a positive number {gid}"))
            })?);
        }
        process.user_mut().set_additional_gids(Some(gids));
    }
    if !args.cap.is_empty() {
        let mut capabilities = process.capabilities().clone().unwrap_or_default();
        for capability in args.cap.iter().filter_map(|name| known_capability(name)) {
            add_capability(&mut capabilities, capability);
        }
        process.set_capabilities(Some(capabilities));
    }
    Ok(process)
}

/// "UID" or "UID:GID".
fn set_user(user: &mut User, text: &str) -> Result<()> {
    let number = |what: &str, text: &str| {
        let number = text.parse::<i64>().map_err(|_| {
            RuntimeError::Usage(format!(
                "parsing {text} as int for {what} failed: strconv.Atoi: parsing {text:?}: invalid syntax"
            ))
        })?;
        let range = "unable to setup user: uids and gids must be in range 0-2147483647";
        u32::try_from(number).map_err(|_| RuntimeError::Process(range.to_owned()))
    };
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    user.set_uid(number("uid", uid)?);
    if let Some(gid) = gid {
        user.set_gid(number("gid", gid)?);
    }
    Ok(())
}

/// Into the sets that runc adds it to: all but the inheritable one; the ambient one has only what
/// is inheritable.
fn add_capability(all: &mut LinuxCapabilities, capability: Capability) {
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.insert(capability);
        Some(set)
    };
    let (bounding, effective) = (with(all.bounding()), with(all.effective()));
    let permitted = with(all.permitted());
    let inheritable = all.inheritable().as_ref();
    if inheritable.is_some_and(|set| set.contains(&capability)) {
        let ambient = with(all.ambient());
        all.set_ambient(ambient);
    }
    all.set_bounding(bounding);
    all.set_effective(effective);
    all.set_permitted(permitted);
}

/// By the kernel's name.
fn known_capability(name: &str) -> Option<Capability> {
    let quoted = serde_json::Value::from(Some(name).filter(|name| name.starts_with("CAP_"))?);
    serde_json::from_value(quoted).ok()
}

/// As the specification says: what is unknown is told and left out.
fn warn_of_capabilities(context: &Context, names: &[String]) {
    let unknown = names.iter().filter(|name| known_capability(name).is_none());
    let unknown: Vec<_> = unknown.cloned().collect();
    warn_of_unknown(context, &unknown);
}

fn warn_of_unknown(context: &Context, unknown: &[String]) {
    if !unknown.is_empty() {
        context.log.warn(&capabilities::warning(unknown));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::cli::{Cli, Command};
    use super::*;

    fn args(line: &str) -> ExecArgs {
        let cli = Cli::try_parse_from(format!("hull-runtime exec {line}").split(' ')).unwrap();
        match cli.command {
            Some(Command::Exec(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn base() -> Process {
        serde_json::from_value(serde_json::json!({
            "terminal": true,
            "user": {"uid": 5, "gid": 6, "umask": 23},
            "args": ["init"],
            "env": ["PATH=/bin", "A=1"],
            "cwd": "/base",
            "capabilities": {"bounding": ["CAP_KILL"]},
        }))
        .unwrap()
    }

    #[test]
    fn flags_change_the_containers_own_process() {
        let args = args("--cwd /x -e A=2 -u 7:8 -g 9 --cap CAP_NET_ADMIN c1 sh -c true");
        let process = changed(base(), &args, &args.target[1..]).unwrap();
        assert_eq!(process.args().as_ref().unwrap()[0], "sh");
        assert_eq!(process.cwd(), &PathBuf::from("/x"));
        assert_eq!(process.terminal(), Some(false));
        assert_eq!(process.env().as_ref().unwrap()[2], "A=2");
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.user().umask(), Some(23));
        assert_eq!(process.user().additional_gids().as_ref().unwrap(), &[9]);
        let capabilities = process.capabilities().clone().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 2);
        assert_eq!(capabilities.effective().as_ref().unwrap().len(), 1);
        assert_eq!(capabilities.ambient(), &None);
    }

    #[test]
    fn an_unknown_capability_is_left_out() {
        let args = args("--cap CAP_FOO --cap net_admin --cap CAP_NET_RAW c1 true");
        let process = changed(base(), &args, &[]).unwrap();
        let capabilities = process.capabilities().clone().unwrap();
        let effective = capabilities.effective().clone().unwrap();
        assert_eq!(effective, Capabilities::from([Capability::NetRaw]));
    }

    #[test]
    fn a_capability_that_is_inheritable_becomes_ambient() {
        let mut process = base();
        let inheritable = Capabilities::from([Capability::Syslog]);
        let mut capabilities = process.capabilities().clone().unwrap();
        capabilities.set_inheritable(Some(inheritable.clone()));
        process.set_capabilities(Some(capabilities));
        let args = args("--cap CAP_SYSLOG --cap CAP_NET_RAW c1 true");
        let process = changed(process, &args, &[]).unwrap();
        let capabilities = process.capabilities().clone().unwrap();
        assert_eq!(capabilities.ambient(), &Some(inheritable.clone()));
        assert_eq!(capabilities.inheritable(), &Some(inheritable));
    }

    #[test]
    fn a_group_is_one_path_for_all_controllers() {
        let group = |line: &[&str]| {
            let line: Vec<_> = line.iter().map(|&argument| argument.to_owned()).collect();
            sub_cgroup(&line).map_err(|error| error.to_string())
        };
        assert_eq!(group(&[]).unwrap(), "");
        assert_eq!(group(&["/a/b"]).unwrap(), "/a/b");
        let error = group(&["pids,cpu:/a"]).unwrap_err();
        assert_eq!(error, "unknown controller pids in SubCgroupPaths");
        assert!(group(&["a", "b"]).unwrap_err().contains("missing"));
        assert!(group(&["a:b:c"]).is_err());
    }

    #[test]
    fn a_process_without_a_user_is_roots() {
        let (process, _) = parse_process(br#"{"args": ["true"], "cwd": "/"}"#).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        let uid = br#"{"user": {"uid": 5}, "args": [], "cwd": "/"}"#;
        let (process, _) = parse_process(uid).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (5, 0));
        assert!(parse_process(b"[]").is_err());
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let no_command = changed(base(), &args("c1"), &[]).unwrap();
        assert_eq!(
            check_process(&no_command).unwrap_err().to_string(),
            "args must not be empty"
        );
        assert!(changed(base(), &args("-u root c1 true"), &[]).is_err());
        assert!(changed(base(), &args("-u -1 c1 true"), &[]).is_err());
        assert!(changed(base(), &args("-g -7 c1 true"), &[]).is_err());
        let relative = changed(base(), &args("--cwd x c1 true"), &["true".into()]).unwrap();
        assert!(check_process(&relative).is_err());
    }
}
