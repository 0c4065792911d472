//! The agent as a whole: containers really run.
//!
//! On a host: the agent serves on UNIX sockets in a mount namespace of its own; needs root and a
//! static busybox, and says so and passes where they are missing. In a guest (`HULL_TEST_GUEST` set;
//! see the script `guest` beside this file): the agent is PID 1, serves on vsock, and finds an image
//! in block slot 0 and an empty ext4 in slot 1. What needs that guest's kernel is tested only there.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hull_protocol::agent::{
    rootfs, BlockRootfs, ConfigureSandboxRequest, ContainerRef, CreateContainerRequest, Empty,
    ExecProcessRequest, HelloRequest, InlineFile, NextEventRequest, ProcessRef, Rootfs,
    SharedDirectory, SignalProcessRequest, Stdio, UpdateContainerRequest,
};
use hull_protocol::agent_ttrpc::AgentClient;
use serde_json::{json, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_vsock::{VsockAddr, VsockStream, VMADDR_CID_LOCAL};
use ttrpc::context::with_timeout;

static NEXT: AtomicU64 = AtomicU64::new(1);

fn unique() -> u64 {
    (u64::from(std::process::id()) << 32) | NEXT.fetch_add(1, Ordering::Relaxed)
}

fn timeout() -> ttrpc::context::Context {
    with_timeout(30_000_000_000)
}

struct Agent {
    client: AgentClient,
    /// `None` in a guest.
    host: Option<Host>,
}

struct Host {
    _process: Running,
    dir: tempfile::TempDir,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

fn in_guest() -> bool {
    std::env::var_os("HULL_TEST_GUEST").is_some()
}

/// The guest's agent; `None`, with the reason printed, elsewhere.
async fn guest_agent() -> Option<Agent> {
    if !in_guest() {
        eprintln!("skipped: needs the guest's kernel (agent/tests/guest)");
        return None;
    }
    agent().await
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process left behind.
#[derive(Debug, PartialEq)]
struct Outcome {
    stdout: String,
    stderr: String,
    status: u32,
}

struct Wanted {
    spec: Value,
    user: &'static str,
    groups: Vec<String>,
    stdin: Vec<u8>,
    files: Vec<InlineFile>,
    /// With the writable layer, of which a guest has one.
    writable: bool,
}

fn process(args: &[&str]) -> Value {
    json!({
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": args,
        "env": ["PATH=/bin:/sbin"],
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"],
            "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"]
        }
    })
}

fn wanted(args: &[&str]) -> Wanted {
    let spec = json!({
        "ociVersion": "1.1.0",
        "root": { "path": "rootfs" },
        "hostname": "box",
        "process": process(args),
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" }, { "type": "network" }
            ],
            "maskedPaths": ["/proc/timer_stats", "/proc/keys", "/proc/scsi"],
            "readonlyPaths": ["/proc/fs", "/proc/sys", "/proc/nope"]
        }
    });
    Wanted {
        spec,
        user: "",
        groups: Vec::new(),
        stdin: Vec::new(),
        files: Vec::new(),
        writable: false,
    }
}

fn shell(script: &str) -> Wanted {
    wanted(&["sh", "-c", script])
}

/// An image: busybox with its usual names, and a user.
fn make_root(root: &Path, busybox: &Path) {
    for dir in ["bin", "etc", "home/app", "tmp", "lib"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in [
        "sh",
        "cat",
        "echo",
        "id",
        "ls",
        "pwd",
        "sleep",
        "stat",
        "hostname",
        "mount",
        "head",
        "sha256sum",
        "touch",
        "kill",
        "printf",
        "grep",
        "true",
        "tty",
        "stty",
        "df",
        "ps",
        "env",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(
        root.join("etc/group"),
        "root:x:0:\ndock:x:999:app\napp:x:1000:\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/plain"), "x").unwrap();
    symlink("/run/dns/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    std::fs::write(root.join("bin/lost"), "#!/no/such/interpreter\n").unwrap();
    use std::os::unix::fs::{chown, PermissionsExt};
    let mode = |path: &str, mode| {
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("bin/lost", 0o755);
    mode("home/app", 0o700);
    chown(root.join("home/app"), Some(1000), Some(1000)).unwrap();
}

async fn agent() -> Option<Agent> {
    if in_guest() {
        let client = connect("vsock://1:1024").await;
        return Some(Agent { client, host: None });
    }
    let busybox = PathBuf::from("/usr/bin/busybox");
    if !rustix::process::geteuid().is_root() || !busybox.exists() {
        eprintln!("skipped: needs root and /usr/bin/busybox");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    make_root(&dir.path().join("root"), &busybox);
    // The mounts that the agent finds in a guest, in a namespace that ends with it.
    let script = r#"
        set -e
        mkdir -p /run /sys/fs/cgroup
        mount -t tmpfs run /run
        mkdir -p /run/hull/shared/image
        mount --bind "$1/root" /run/hull/shared/image
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        exec "$2" serve "$1"
    "#;
    let process = Running(
        Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(dir.path())
            .arg(env!("CARGO_BIN_EXE_hull-agent"))
            .spawn()
            .unwrap(),
    );
    let address = format!("unix://{}", dir.path().join("agent.sock").display());
    Some(Agent {
        client: connect(&address).await,
        host: Some(Host {
            _process: process,
            dir,
        }),
    })
}

async fn connect(address: &str) -> AgentClient {
    for _ in 0..500 {
        if let Ok(client) = ttrpc::r#async::Client::connect(address).await {
            return AgentClient::new(client);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the agent did not listen");
}

impl Agent {
    async fn stream(&self, token: u64) -> Box<dyn Stream> {
        let mut stream: Box<dyn Stream> = match &self.host {
            Some(host) => {
                let path = host.dir.path().join("stdio.sock");
                Box::new(UnixStream::connect(path).await.unwrap())
            }
            None => {
                let address = VsockAddr::new(VMADDR_CID_LOCAL, hull_protocol::STDIO_PORT);
                Box::new(VsockStream::connect(address).await.unwrap())
            }
        };
        let preamble = hull_protocol::stdio_preamble(token);
        stream.write_all(&preamble).await.unwrap();
        stream
    }

    fn rootfs(&self, writable: bool) -> Rootfs {
        let source = match self.host {
            Some(_) => rootfs::Source::Share(SharedDirectory {
                tag: "image".into(),
                ..Default::default()
            }),
            None => rootfs::Source::Block(BlockRootfs {
                image_slot: 0,
                image_fs_type: "erofs".into(),
                scratch_slot: writable.then_some(1),
                scratch_fs_type: "ext4".into(),
                ..Default::default()
            }),
        };
        Rootfs {
            source: Some(source),
            ..Default::default()
        }
    }

    async fn create(&self, wanted: &Wanted) -> ttrpc::Result<(ProcessRef, Stdio)> {
        let id = format!("test-{:x}", unique());
        let tokens = tokens();
        let request = CreateContainerRequest {
            container_id: id.clone(),
            spec: serde_json::to_vec(&wanted.spec).unwrap(),
            rootfs: protobuf::MessageField::some(self.rootfs(wanted.writable)),
            stdio: protobuf::MessageField::some(tokens.clone()),
            user: wanted.user.into(),
            additional_groups: wanted.groups.clone(),
            files: wanted.files.clone(),
            ..Default::default()
        };
        self.client.create_container(timeout(), &request).await?;
        let process = ProcessRef {
            container_id: id,
            ..Default::default()
        };
        Ok((process, tokens))
    }

    /// Starts a created process, feeds and drains it, and waits for it.
    async fn finish(
        &self,
        process: &ProcessRef,
        tokens: &Stdio,
        stdin: &[u8],
    ) -> ttrpc::Result<Outcome> {
        let mut input = self.stream(tokens.stdin).await;
        let mut output = self.stream(tokens.stdout).await;
        let mut errors = self.stream(tokens.stderr).await;
        self.client.start_process(timeout(), process).await?;
        let feed = async {
            let _ = input.write_all(stdin).await;
            let _ = input.shutdown().await;
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (_, out, err, exit) = tokio::join!(
            feed,
            output.read_to_end(&mut stdout),
            errors.read_to_end(&mut stderr),
            self.client.wait_process(timeout(), process)
        );
        out.unwrap();
        err.unwrap();
        Ok(Outcome {
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            status: exit?.exit_status,
        })
    }

    async fn run(&self, wanted: Wanted) -> ttrpc::Result<Outcome> {
        let (process, tokens) = self.create(&wanted).await?;
        let outcome = self.finish(&process, &tokens, &wanted.stdin).await;
        let _ = self.client.wait_process(timeout(), &process).await;
        self.client.delete_process(timeout(), &process).await?;
        outcome
    }

    async fn exec(
        &self,
        init: &ProcessRef,
        process: Value,
        user: &str,
    ) -> ttrpc::Result<(ProcessRef, Stdio)> {
        let exec = ProcessRef {
            container_id: init.container_id.clone(),
            exec_id: format!("exec-{}", unique()),
            ..Default::default()
        };
        let tokens = tokens();
        let request = ExecProcessRequest {
            container_id: exec.container_id.clone(),
            exec_id: exec.exec_id.clone(),
            process: serde_json::to_vec(&process).unwrap(),
            stdio: protobuf::MessageField::some(tokens.clone()),
            user: user.into(),
            ..Default::default()
        };
        self.client.exec_process(timeout(), &request).await?;
        Ok((exec, tokens))
    }

    async fn run_exec(
        &self,
        init: &ProcessRef,
        args: &[&str],
        user: &str,
    ) -> ttrpc::Result<Outcome> {
        let (exec, tokens) = self.exec(init, process(args), user).await?;
        let outcome = self.finish(&exec, &tokens, b"").await;
        if outcome.is_ok() {
            self.client.delete_process(timeout(), &exec).await?;
        }
        outcome
    }

    async fn signal(&self, process: &ProcessRef, signal: u32) {
        let request = SignalProcessRequest {
            container_id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            signal,
            ..Default::default()
        };
        self.client
            .signal_process(timeout(), &request)
            .await
            .unwrap();
    }

    /// A container that stays until it is killed.
    async fn sleeper(&self) -> ProcessRef {
        let (process, tokens) = self.create(&shell("sleep 60")).await.unwrap();
        for token in [tokens.stdin, tokens.stdout, tokens.stderr] {
            drop(self.stream(token).await);
        }
        self.client
            .start_process(timeout(), &process)
            .await
            .unwrap();
        process
    }

    async fn remove(&self, process: &ProcessRef) -> u32 {
        self.signal(process, 9).await;
        let exit = self.client.wait_process(timeout(), process).await.unwrap();
        self.client
            .delete_process(timeout(), process)
            .await
            .unwrap();
        exit.exit_status
    }
}

fn tokens() -> Stdio {
    Stdio {
        stdin: unique(),
        stdout: unique(),
        stderr: unique(),
        ..Default::default()
    }
}

fn status(error: ttrpc::Error) -> (ttrpc::Code, String) {
    match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("not a status: {other}"),
    }
}

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
            "/bin/lost",
            ttrpc::Code::NOT_FOUND,
            "exec /bin/lost: no such file or directory",
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
    let mut wanted = shell("pwd");
    wanted.spec["process"]["cwd"] = json!("/etc/plain");
    assert!(status(agent.run(wanted).await.unwrap_err())
        .1
        .contains("/etc/plain"));
}

#[tokio::test]
async fn private_directory_is_entered_as_its_user() {
    let Some(agent) = agent().await else { return };
    for (user, ok) in [("1000", true), ("1001", false)] {
        let mut wanted = shell("pwd");
        wanted.spec["process"]["cwd"] = json!("/home/app");
        wanted.user = user;
        let result = agent.run(wanted).await;
        assert_eq!(result.is_ok(), ok, "{result:?}");
        if let Err(error) = result {
            let (code, text) = status(error);
            assert_eq!(code, ttrpc::Code::PERMISSION_DENIED);
            assert!(text.contains("/home/app"), "{text}");
        }
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
    let error = agent.run(wanted(&["printf", &too_long])).await.unwrap_err();
    let (code, text) = status(error);
    assert_eq!(code, ttrpc::Code::INVALID_ARGUMENT);
    assert!(text.contains("argument list too long"), "{text}");
}

#[tokio::test]
async fn limits_are_seen_and_hold() {
    let Some(agent) = guest_agent().await else {
        return;
    };
    let mut wanted = shell(
        "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max cgroup.procs; \
         busybox cat /proc/self/cgroup; (for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 2 & done; wait) 2>&1 | grep -c fork",
    );
    wanted.spec["linux"]["resources"] = json!({
        "memory": { "limit": 33_554_432, "swap": 33_554_432 }, "pids": { "limit": 8 },
        "cpu": { "quota": 50_000, "period": 100_000 }
    });
    let outcome = agent.run(wanted).await.unwrap();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..3], ["33554432", "8", "50000 100000"], "{outcome:?}");
    assert!(lines.contains(&"0::/"), "{outcome:?}");
    assert_ne!(lines.last(), Some(&"0"), "{outcome:?}");
}

#[tokio::test]
async fn out_of_memory_is_told_as_exit_and_event() {
    let Some(agent) = guest_agent().await else {
        return;
    };
    let mut wanted = shell("head -c 64m /dev/zero | busybox tail >/dev/null; exit 5");
    wanted.spec["process"]["args"] = json!(["busybox", "tail", "/dev/zero"]);
    wanted.spec["linux"]["resources"] =
        json!({ "memory": { "limit": 8_388_608, "swap": 8_388_608 } });
    let (process, tokens) = agent.create(&wanted).await.unwrap();
    let outcome = agent.finish(&process, &tokens, b"").await.unwrap();
    assert_eq!(outcome.status, 137);
    let exit = agent
        .client
        .wait_process(timeout(), &process)
        .await
        .unwrap();
    assert!(exit.oom_killed);
    let event = agent
        .client
        .next_event(timeout(), &NextEventRequest::default())
        .await
        .unwrap();
    assert_eq!(event.oom().container_id, process.container_id);
    agent
        .client
        .delete_process(timeout(), &process)
        .await
        .unwrap();
}

#[tokio::test]
async fn paused_container_stands_still_and_is_counted() {
    let Some(agent) = guest_agent().await else {
        return;
    };
    let init = agent.sleeper().await;
    let container = ContainerRef {
        container_id: init.container_id.clone(),
        ..Default::default()
    };
    agent
        .client
        .pause_container(timeout(), &container)
        .await
        .unwrap();
    agent
        .client
        .resume_container(timeout(), &container)
        .await
        .unwrap();
    let update = UpdateContainerRequest {
        container_id: init.container_id.clone(),
        resources: br#"{"memory":{"limit":16777216}}"#.to_vec(),
        ..Default::default()
    };
    agent
        .client
        .update_container(timeout(), &update)
        .await
        .unwrap();
    let stats = agent
        .client
        .stats_container(timeout(), &container)
        .await
        .unwrap();
    assert_eq!(stats.memory.usage_limit, 16_777_216);
    assert!(stats.memory.usage > 0 && stats.pids.current > 0 && stats.cpu.usage_usec > 0);
    let list = agent
        .client
        .list_processes(timeout(), &container)
        .await
        .unwrap();
    assert!(list
        .processes
        .iter()
        .any(|process| process.command.contains("sleep 60")));
    agent.remove(&init).await;
}

#[tokio::test]
async fn writable_layer_is_on_its_disk_and_keeps_what_is_written() {
    let Some(agent) = guest_agent().await else {
        return;
    };
    for expected in ["fresh\n", "kept\n"] {
        let mut wanted = shell("cat /etc/new 2>/dev/null || echo fresh; echo kept >/etc/new");
        wanted.writable = true;
        let outcome = agent.run(wanted).await.unwrap();
        assert_eq!(outcome.stdout, expected);
    }
}

#[tokio::test]
async fn exec_at_the_limit_of_processes_is_refused() {
    let Some(agent) = guest_agent().await else {
        return;
    };
    let mut wanted = wanted(&["sleep", "60"]);
    wanted.spec["linux"]["resources"] = json!({ "pids": { "limit": 1 } });
    let (init, tokens) = agent.create(&wanted).await.unwrap();
    for token in [tokens.stdin, tokens.stdout, tokens.stderr] {
        drop(agent.stream(token).await);
    }
    agent.client.start_process(timeout(), &init).await.unwrap();
    let error = agent.run_exec(&init, &["true"], "").await.unwrap_err();
    let (code, text) = status(error);
    assert_eq!(code, ttrpc::Code::RESOURCE_EXHAUSTED);
    assert!(text.contains("pids limit"), "{text}");
    assert_eq!(agent.remove(&init).await, 137);
}

#[tokio::test]
async fn sandbox_is_configured() {
    let Some(agent) = guest_agent().await else {
        return;
    };
    let request = ConfigureSandboxRequest {
        hostname: "pod".into(),
        realtime_ns: 1_900_000_000_000_000_000,
        entropy: vec![7; 64],
        sysctls: [("net.core.somaxconn".to_string(), "77".to_string())].into(),
        ..Default::default()
    };
    agent
        .client
        .configure_sandbox(timeout(), &request)
        .await
        .unwrap();
    let mut wanted = shell(
        "cat /proc/sys/vm/max_map_count /proc/sys/net/core/somaxconn; hostname; busybox date -u +%Y",
    );
    wanted.spec["hostname"] = json!("");
    wanted.spec["linux"]["namespaces"] = json!([{ "type": "pid" }, { "type": "mount" }]);
    let outcome = agent.run(wanted).await.unwrap();
    assert_eq!(outcome.stdout, "262144\n77\npod\n2030\n");
}

/// Run by itself, last: the script sees the machine go down.
#[tokio::test]
async fn shutdown_powers_the_machine_off() {
    if std::env::var("HULL_TEST_GUEST").as_deref() != Ok("shutdown") {
        return;
    }
    let Some(agent) = guest_agent().await else {
        return;
    };
    agent.sleeper().await;
    println!("shutting down");
    let _ = agent.client.shutdown(timeout(), &Empty::default()).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn agent_is_small() {
    let Some(agent) = guest_agent().await else {
        return;
    };
    let init = agent.sleeper().await;
    let status = std::fs::read_to_string("/proc/1/status").unwrap();
    for line in status
        .lines()
        .filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS"))
    {
        println!("agent {line}");
    }
    agent.remove(&init).await;
}

/// Not a test: the script `guest` makes its image by this.
#[test]
fn make_the_image() {
    if let Some(root) = std::env::var_os("HULL_TEST_MAKE_ROOT") {
        make_root(Path::new(&root), Path::new("/usr/bin/busybox"));
    }
}
