//! Work on containers' files, and the init process.

use hull_protocol::agent::files_job::Kind;
use hull_protocol::agent::{ContainerRef, FilesJob};

use super::support::{agent, shell, timeout, Outcome};

fn job(kind: Kind, path: &str) -> FilesJob {
    FilesJob {
        kind: kind.into(),
        path: path.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn files_of_a_frozen_container_are_worked_on() {
    let Some(agent) = agent().await else { return };
    let init = agent.sleeper().await;
    let container = ContainerRef {
        container_id: init.container_id.clone(),
        ..Default::default()
    };
    let paused = agent.client.pause_container(timeout(), &container).await;
    paused.unwrap();
    let told = agent.work_on_files(&init, job(Kind::STAT, "/etc/passwd"), b"");
    let told = told.await.unwrap();
    assert_eq!(told.status, 0, "{told:?}");
    assert!(told.stdout.contains("\"name\":\"passwd\""), "{told:?}");
    let resumed = agent.client.resume_container(timeout(), &container).await;
    resumed.unwrap();
    agent.remove(&init).await;
}

#[tokio::test]
async fn a_root_is_packed_without_what_the_kernel_makes_up() {
    let Some(agent) = agent().await else { return };
    let init = agent.sleeper().await;
    let tar = agent.work_on_files(&init, job(Kind::READ, "/"), b"").await;
    let tar = tar.unwrap();
    assert_eq!(tar.status, 0, "{}", tar.stderr);
    // Names stand at the beginning of a block, after the padding of the one before.
    let has = |name: &str| tar.stdout.contains(&format!("\0{name}\0"));
    assert!(has("/etc/passwd"));
    for made_up in ["/proc/self", "/sys/kernel", "/dev/null"] {
        assert!(!has(made_up), "{made_up}");
    }
    agent.remove(&init).await;
}

#[tokio::test]
async fn an_init_process_runs_the_program_and_reaps() {
    // It is executed in the container, where no library is: only the guest's agent is static.
    if !cfg!(target_env = "musl") {
        eprintln!("skipped: needs an agent for musl");
        return;
    }
    let Some(agent) = agent().await else { return };
    let mut wanted = shell(
        "cat /proc/1/comm; tr '\\0' ' ' </proc/1/cmdline | cut -c1-26; id -u; \
         sh -c 'sleep 0.2 & :'; sleep 1; cat /proc/[0-9]*/status | grep -c '^State:.Z'; exit 6",
    );
    wanted.init = true;
    wanted.user = "1000:1000";
    let outcome = agent.run(wanted).await.unwrap();
    assert_eq!(
        outcome,
        Outcome {
            stdout: "docker-init\n/sbin/docker-init -- sh -c\n1000\n0\n".into(),
            stderr: String::new(),
            status: 6
        }
    );
    // What is not there is known before it starts, as without an init process.
    let mut wanted = super::wanted(&["/no/such"]);
    wanted.init = true;
    let (_, text) = super::status(agent.run(wanted).await.unwrap_err());
    assert!(text.contains("/no/such"), "{text}");
}
