//! What needs the guest's kernel.

use hull_protocol::agent::{
    ConfigureSandboxRequest, ContainerRef, Empty, NextEventRequest, UpdateContainerRequest,
};
use serde_json::json;

use crate::support::{guest_agent, shell, status, timeout, wanted};

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
