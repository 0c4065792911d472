//! The agent as a whole: containers really run.
//!
//! On a host: the agent serves on UNIX sockets in a mount namespace of its own; needs root and a
//! static busybox, and says so and passes where they are missing. In a guest (`HULL_TEST_GUEST` set;
//! see the script `guest` beside this file): the agent is PID 1, serves on vsock, and finds an image
//! in block slot 0 and an empty ext4 in slot 1. What needs that guest's kernel is tested only there.

mod files;
mod guest;
mod support;

use std::path::Path;

use hull_protocol::agent::{HelloRequest, InlineFile};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ttrpc::context::with_timeout;

use support::{agent, in_guest, make_root, process, shell, status, timeout, wanted, Outcome};

#[tokio::test]
async fn container_runs_with_its_streams_apart() {
    let Some(agent) = agent().await else { return };
    let hello = HelloRequest {
        protocol_version: hull_protocol::PROTOCOL_VERSION,
        ..Default::default()
    };
    agent.client.hello(timeout(), &hello).await.unwrap();
    let mut wanted = shell("cat; echo err >&2; hostname; id -u; exit 3");
    wanted.stdin = b"from stdin\n".to_vec();
    let outcome = agent.run(wanted).await.unwrap();
    assert_eq!(
        outcome,
        Outcome {
            stdout: "from stdin\nbox\n0\n".into(),
            stderr: "err\n".into(),
            status: 3
        }
    );
}

#[tokio::test]
async fn inside_is_what_the_configuration_says() {
    let Some(agent) = agent().await else { return };
    let mut wanted = shell(
        "set -e; echo pid $$; umask; pwd; ls -l /dev/fd | grep -c proc; cat /etc/resolv.conf; \
         cat /proc/keys | head -c 10; (echo x >/proc/sys/kernel/domainname) 2>/dev/null || echo ro; \
         df -m /dev/shm | grep -c ' 64 '; grep Cap /proc/self/status; echo x >/dev/null; ls /proc/self/fd | grep -c .",
    );
    wanted.spec["process"]["cwd"] = json!("/made/here");
    wanted.spec["process"]["user"]["umask"] = json!(0o27);
    wanted.files = vec![InlineFile {
        path: "/etc/resolv.conf".into(),
        mode: 0o644,
        content: b"nameserver 10.0.0.1\n".to_vec(),
        ..Default::default()
    }];
    let outcome = agent.run(wanted).await.unwrap();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(outcome.stderr, "");
    assert_eq!(
        lines[..7],
        [
            "pid 1",
            "0027",
            "/made/here",
            "1",
            "nameserver 10.0.0.1",
            "ro",
            "1"
        ]
    );
    assert!(lines.contains(&"CapEff:\t00000000000000e1"), "{lines:?}");
    assert!(lines.contains(&"CapAmb:\t0000000000000000"), "{lines:?}");
    // stdin, stdout, stderr, and the directory that ls reads.
    assert_eq!(lines.last(), Some(&"4"));
    assert_eq!(outcome.status, 0);
}

#[tokio::test]
async fn users_and_groups_are_the_containers_own() {
    let Some(agent) = agent().await else { return };
    for (user, groups, expected) in [
        ("app", vec![], "1000 1000 999 /home/app"),
        ("app:app", vec![], "1000 1000 /home/app"),
        (
            "app",
            vec!["4242".to_string()],
            "1000 1000 999 4242 /home/app",
        ),
        ("7777", vec![], "7777 0 /"),
    ] {
        let mut wanted = shell("echo $(id -u) $(id -G) $HOME");
        wanted.user = user;
        wanted.groups = groups;
        assert_eq!(agent.run(wanted).await.unwrap().stdout.trim(), expected);
    }
    let mut wanted = shell("true");
    wanted.user = "nobody";
    let (code, text) = status(agent.run(wanted).await.unwrap_err());
    assert_eq!(code, ttrpc::Code::INVALID_ARGUMENT);
    assert_eq!(
        text,
        "unable to find user nobody: no matching entries in passwd file"
    );
}

#[tokio::test]
async fn programs_that_cannot_run_are_named() {
    let Some(agent) = agent().await else { return };
    for (program, code, text) in [
        (
            "nope",
            ttrpc::Code::NOT_FOUND,
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (
            "/nope",
            ttrpc::Code::NOT_FOUND,
            "exec: \"/nope\": stat /nope: no such file or directory",
        ),
        (
            "/etc/plain",
            ttrpc::Code::PERMISSION_DENIED,
            "exec: \"/etc/plain\": permission denied",
        ),
        (
            "/etc",
            ttrpc::Code::PERMISSION_DENIED,
            "exec: \"/etc\": is a directory: permission denied",
        ),
    ] {
        let error = agent.run(wanted(&[program])).await.unwrap_err();
        assert_eq!(status(error), (code, text.to_string()));
    }
    // What only the kernel finds out is said by the process itself, as with runc.
    let lost = agent.run(wanted(&["/bin/lost"])).await.unwrap();
    let text = "exec /bin/lost: no such file or directory (its interpreter /no/such/interpreter is missing)\n";
    assert_eq!((lost.status, lost.stderr.as_str()), (127, text));
    let mut wanted = shell("pwd");
    wanted.spec["process"]["cwd"] = json!("/etc/plain");
    assert!(status(agent.run(wanted).await.unwrap_err())
        .1
        .contains("/etc/plain"));
}

fn file(path: &str, content: &str) -> InlineFile {
    InlineFile {
        path: path.into(),
        mode: 0o644,
        content: content.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_agent_is_no_program_of_a_container() {
    let Some(agent) = agent().await else { return };
    for args in [
        &["/proc/self/exe", "serve", "/tmp"][..],
        &["/proc/self/exe", "container-init"],
    ] {
        let (code, text) = status(agent.run(wanted(args)).await.unwrap_err());
        assert_eq!(code, ttrpc::Code::PERMISSION_DENIED);
        assert!(
            text.contains("the program that starts containers"),
            "{text}"
        );
    }
    // The kernel itself finds it where a script names it. On a host it needs a loader, which is not there.
    let (code, text) = match in_guest() {
        true => (2, "no program of a container"),
        false => (127, "no such file or directory"),
    };
    let mut wanted = wanted(&["/bin/odd"]);
    wanted.files = vec![InlineFile {
        mode: 0o755,
        ..file("/bin/odd", "#!/proc/self/exe\n")
    }];
    let outcome = agent.run(wanted).await.unwrap();
    assert_eq!(outcome.status, code);
    assert!(outcome.stderr.contains(text), "{outcome:?}");
}

#[tokio::test]
async fn nothing_covers_proc_or_the_root() {
    let Some(agent) = agent().await else { return };
    let tmpfs = |destination: &str| json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs" });
    for (mount, why) in [
        (tmpfs("/proc"), "not of type proc"),
        (tmpfs("/proc/sys"), "inside /proc"),
        (tmpfs("/link/sys/kernel"), "inside /proc"),
        (tmpfs("/tmp/../proc/self/../1"), "inside /proc"),
        (
            json!({ "destination": "/proc", "type": "bind", "source": "/run" }),
            "not of type proc",
        ),
        (
            json!({ "destination": "/link", "type": "bind", "source": "/run" }),
            "not of type proc",
        ),
        (
            json!({ "destination": "/proc/fs", "type": "proc", "source": "proc" }),
            "inside /proc",
        ),
        (tmpfs("/"), "the root of the container"),
    ] {
        let mut wanted = wanted(&["true"]);
        wanted.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(mount.clone());
        let text = status(agent.run(wanted).await.unwrap_err()).1;
        assert!(text.contains(why), "{mount}: {text}");
    }
    let mut wanted = shell("cat /proc/uptime; test -e /proc/self/status && echo there");
    wanted.spec["mounts"].as_array_mut().unwrap().push(
        json!({ "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"] }),
    );
    wanted.files = vec![file("/proc/uptime", "a stand-in\n")];
    let outcome = agent.run(wanted).await.unwrap();
    assert_eq!(outcome.stdout, "a stand-in\nthere\n", "{outcome:?}");
}

#[tokio::test]
async fn what_is_masked_is_null_whatever_the_containers_own_is() {
    let Some(agent) = agent().await else { return };
    let mut wanted = shell(
        "for i in /proc/keys /proc/version; do stat -c '%t:%T %A' $i; echo x >$i; cat $i; \
         busybox chmod 0 $i || echo kept; done; cat /dev/null",
    );
    wanted.spec["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/version", "/proc/keys"]);
    wanted.files = vec![file("/dev/null", "no device\n")];
    let outcome = agent.run(wanted).await.unwrap();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(
        lines[..4],
        ["1:3 crw-rw-rw-", "kept", "1:3 crw-rw-rw-", "kept"],
        "{outcome:?}"
    );
    assert_eq!(lines[4..], ["no device"], "{outcome:?}");
}

#[tokio::test]
async fn a_private_directory_is_entered_for_every_user() {
    let Some(agent) = agent().await else { return };
    for (user, denied) in [("1000", 0), ("1001", 1), ("0", 1)] {
        let mut wanted = shell("pwd; ls . 2>&1 | grep -c denied");
        wanted.spec["process"]["cwd"] = json!("/home/app");
        wanted.spec["process"]["capabilities"] = json!({});
        wanted.user = user;
        let result = agent.run(wanted).await.unwrap();
        // Entered with root's rights, used with the process's.
        assert_eq!(result.stdout, format!("/home/app\n{denied}\n"), "{user}");
    }
}

#[tokio::test]
async fn execs_end_by_signal_with_128_and_the_container_stays() {
    let Some(agent) = agent().await else { return };
    let init = agent.sleeper().await;
    for (signal, expected) in [(9, 137), (15, 143), (2, 130)] {
        let (exec, tokens) = agent
            .exec(&init, process(&["sleep", "60"]), "")
            .await
            .unwrap();
        for token in [tokens.stdin, tokens.stdout, tokens.stderr] {
            drop(agent.stream(token).await);
        }
        agent.client.start_process(timeout(), &exec).await.unwrap();
        agent.signal(&exec, signal).await;
        let exit = agent.client.wait_process(timeout(), &exec).await.unwrap();
        assert_eq!(exit.exit_status, expected);
    }
    let outcome = agent
        .run_exec(&init, &["sh", "-c", "id -un; echo $HOME; hostname"], "app")
        .await;
    assert_eq!(outcome.unwrap().stdout, "app\n/home/app\nbox\n");
    let error = agent.run_exec(&init, &["nope"], "").await.unwrap_err();
    assert_eq!(status(error).0, ttrpc::Code::NOT_FOUND);
    assert_eq!(agent.remove(&init).await, 137);
}

#[tokio::test]
async fn end_of_the_first_process_ends_its_execs() {
    let Some(agent) = agent().await else { return };
    let (init, tokens) = agent.create(&shell("sleep 1")).await.unwrap();
    for token in [tokens.stdin, tokens.stdout, tokens.stderr] {
        drop(agent.stream(token).await);
    }
    agent.client.start_process(timeout(), &init).await.unwrap();
    let outcome = agent.run_exec(&init, &["sleep", "60"], "").await.unwrap();
    assert_eq!(outcome.status, 137);
    let exit = agent.client.wait_process(timeout(), &init).await.unwrap();
    assert_eq!(exit.exit_status, 0);
    agent.client.delete_process(timeout(), &init).await.unwrap();
}

#[tokio::test]
async fn background_child_does_not_delay_the_exit() {
    let Some(agent) = agent().await else { return };
    let init = agent.sleeper().await;
    let (exec, tokens) = agent
        .exec(&init, process(&["sh", "-c", "sleep 30 & echo ok"]), "")
        .await
        .unwrap();
    let mut output = agent.stream(tokens.stdout).await;
    drop(agent.stream(tokens.stdin).await);
    drop(agent.stream(tokens.stderr).await);
    agent.client.start_process(timeout(), &exec).await.unwrap();
    let wait = agent
        .client
        .wait_process(with_timeout(5_000_000_000), &exec)
        .await
        .unwrap();
    assert_eq!(wait.exit_status, 0);
    let mut text = [0; 3];
    output.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"ok\n");
    agent.remove(&init).await;
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn megabytes_pass_both_ways_unchanged() {
    let Some(agent) = agent().await else { return };
    let input: Vec<u8> = (0..8 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (process, tokens) = agent.create(&wanted(&["cat"])).await.unwrap();
    let mut stdin = agent.stream(tokens.stdin).await;
    let mut stdout = agent.stream(tokens.stdout).await;
    drop(agent.stream(tokens.stderr).await);
    agent
        .client
        .start_process(timeout(), &process)
        .await
        .unwrap();
    let mut output = Vec::new();
    let feed = async {
        stdin.write_all(&input).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(feed, stdout.read_to_end(&mut output));
    read.unwrap();
    assert!(output == input);
    let exit = agent
        .client
        .wait_process(timeout(), &process)
        .await
        .unwrap();
    assert_eq!(exit.exit_status, 0);
    agent
        .client
        .delete_process(timeout(), &process)
        .await
        .unwrap();
}

#[tokio::test]
async fn terminal_is_the_controlling_one_with_its_size() {
    let Some(agent) = agent().await else { return };
    let mut wanted = shell(
        "tty; stty size; test -c /dev/console && echo console; test -t 2 && echo err; exit 4",
    );
    wanted.spec["process"]["terminal"] = json!(true);
    wanted.spec["process"]["consoleSize"] = json!({ "height": 24, "width": 100 });
    let outcome = agent.run(wanted).await.unwrap();
    assert_eq!(outcome.stdout, "/dev/pts/0\r\n24 100\r\nconsole\r\nerr\r\n");
    assert_eq!(outcome.status, 4);
}

#[tokio::test]
async fn seccomp_filter_applies_to_the_process() {
    let Some(agent) = agent().await else { return };
    for no_new_privileges in [false, true] {
        let mut wanted = shell("touch /tmp/x && echo touched; mkdir /tmp/d || echo denied");
        wanted.spec["process"]["args"] =
            json!(["busybox", "sh", "-c", "busybox mkdir /tmp/d || echo denied"]);
        wanted.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        wanted.spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }]
        });
        let outcome = agent.run(wanted).await.unwrap();
        assert_eq!(outcome.stdout, "denied\n");
    }
}

#[tokio::test]
async fn read_only_root_refuses_writes_and_still_gets_mount_points() {
    let Some(agent) = agent().await else { return };
    let mut wanted =
        shell("touch /x 2>/dev/null || echo read-only; ls /fresh; touch /fresh/y && echo writable");
    wanted.spec["root"]["readonly"] = json!(true);
    wanted.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/fresh", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]
    }));
    let outcome = agent.run(wanted).await.unwrap();
    assert_eq!(outcome.stdout, "read-only\nwritable\n");
}

#[tokio::test]
async fn arguments_arrive_exactly() {
    let Some(agent) = agent().await else { return };
    let long = "a".repeat(65_000);
    let args = ["printf", "%s|", &long, "", "q\"uo", "line1\nline2"];
    let outcome = agent.run(wanted(&args)).await.unwrap();
    assert_eq!(outcome.stdout, format!("{long}||q\"uo|line1\nline2|"));
    let too_long = "a".repeat(200_000);
    let refused = agent.run(wanted(&["printf", &too_long])).await.unwrap();
    assert_eq!(refused.status, 126);
    let text = refused.stderr;
    assert!(text.contains("argument list too long"), "{text}");
}

/// Not a test: the script `guest` makes its image by this.
#[test]
fn make_the_image() {
    if let Some(root) = std::env::var_os("HULL_TEST_MAKE_ROOT") {
        make_root(Path::new(&root), Path::new("/usr/bin/busybox"));
    }
}
