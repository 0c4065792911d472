//! The API from outside, over its socket. Processes run on this host, through a stand-in for the
//! shim: what is tested is the engine.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};
use support::{body_of, demultiplex, Home, LIMIT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_gives_its_output_and_exit_code_and_is_gone() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon
        .create(
            "run-it",
            &["sh", "-c", "echo out; echo err >&2; exit 4"],
            json!({ "HostConfig": { "AutoRemove": true } }),
        )
        .await;
    let attach = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
    let mut streams = daemon.hijack(&attach, Value::Null).await;
    let wait = format!("/containers/{id}/wait?condition=removed");
    let waiting = daemon.open(Method::POST, &wait).await;
    daemon.start(&id).await;
    let mut bytes = Vec::new();
    streams.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(demultiplex(&bytes), (b"out\n".to_vec(), b"err\n".to_vec()));
    let answer: Value = serde_json::from_slice(&body_of(waiting).await).unwrap();
    assert_eq!(answer["StatusCode"], 4);
    assert_eq!(daemon.get("/containers/json?all=1").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_dockers_order_with_exit_codes() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon
        .create("ev", &["sh", "-c", "sleep 1; exit 4"], Value::Null)
        .await;
    let waiting = daemon
        .open(
            Method::POST,
            &format!("/containers/{id}/wait?condition=next-exit"),
        )
        .await;
    daemon.start(&id).await;
    let (_, exec) = daemon
        .post(
            &format!("/containers/{id}/exec"),
            json!({ "Cmd": ["sh", "-c", "exit 5"] }),
        )
        .await;
    // What can't be is refused before anything runs.
    for (body, text) in [
        (json!({ "Cmd": [] }), "No exec command specified"),
        (
            json!({ "Cmd": ["true"], "DetachKeys": "bogus" }),
            "Invalid escape keys (bogus) provided",
        ),
    ] {
        let refused = daemon.post(&format!("/containers/{id}/exec"), body).await;
        assert_eq!(refused, (400, json!({ "message": text })));
    }
    let path = format!("/containers/{id}/attach?stream=1&detachKeys=bogus");
    let refused = daemon.post(&path, Value::Null).await;
    let text = "Invalid detach keys (bogus) provided";
    assert_eq!(refused, (400, json!({ "message": text })));
    let path = format!("/containers/{id}/archive?path=");
    assert_eq!(daemon.send(Method::GET, &path, "").await.0, 400);
    let start = format!("/exec/{}/start", exec["Id"].as_str().unwrap());
    assert_eq!(daemon.post(&start, json!({ "Detach": true })).await.0, 200);
    let answer: Value = serde_json::from_slice(&body_of(waiting).await).unwrap();
    assert_eq!(answer["StatusCode"], 4);
    assert_eq!(
        daemon
            .send(Method::DELETE, &format!("/containers/{id}"), "")
            .await
            .0,
        204
    );
    let path = "/events?since=1&until=9&filters=%7B%22type%22%3A%5B%22container%22%5D%7D";
    let path = path.replace("until=9", &format!("until={}", now() + 1.0));
    let (_, lines) = daemon.send(Method::GET, &path, "").await;
    let events: Vec<Value> = lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let actions: Vec<&str> = events
        .iter()
        .map(|event| event["Action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "create",
            "start",
            "exec_create: sh -c exit 5",
            "exec_start: sh -c exit 5",
            "exec_die",
            "die",
            "destroy"
        ]
    );
    assert_eq!(events[4]["Actor"]["Attributes"]["exitCode"], "5");
    assert_eq!(events[5]["Actor"]["Attributes"]["exitCode"], "4");
}

fn now() -> f64 {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_400_and_exit_code_127() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon
        .create("nope", &["nonexistent-prog"], Value::Null)
        .await;
    let (status, answer) = daemon
        .post(&format!("/containers/{id}/start"), Value::Null)
        .await;
    let message = answer["message"].as_str().unwrap();
    assert_eq!(status, 400);
    assert!(
        message.starts_with("failed to create task for container"),
        "{message}"
    );
    assert!(message.contains("nonexistent-prog") && message.contains("not found in $PATH"));
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(inspect["State"]["ExitCode"], 127);
    assert_ne!(inspect["State"]["Error"], "");
    assert_eq!(inspect["State"]["Status"], "created");
    assert_eq!(
        daemon
            .send(Method::DELETE, &format!("/containers/{id}"), "")
            .await
            .0,
        204
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_output_is_in_the_stream_and_in_the_log() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let script = "i=0; while [ $i -lt 20000 ]; do echo \"line $i of many\" >&2; i=$((i+1)); done";
    let id = daemon
        .create("much", &["sh", "-c", script], Value::Null)
        .await;
    let attach = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
    let mut streams = daemon.hijack(&attach, Value::Null).await;
    daemon.start(&id).await;
    let mut bytes = Vec::new();
    streams.read_to_end(&mut bytes).await.unwrap();
    let want: String = (0..20_000).map(|i| format!("line {i} of many\n")).collect();
    let (out, err) = demultiplex(&bytes);
    assert!(out.is_empty());
    assert!(
        err == want.as_bytes(),
        "{} bytes of {}",
        err.len(),
        want.len()
    );
    let logs = format!("/containers/{id}/logs?stdout=1&stderr=1&follow=1");
    let (_, bytes) = daemon.send(Method::GET, &logs, "").await;
    assert!(demultiplex(&bytes).1 == want.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn detach_keys_leave_a_terminal_and_the_process_goes_on() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let terminal = json!({ "Tty": true, "OpenStdin": true });
    let id = daemon.create("tty", &["cat"], terminal).await;
    daemon.start(&id).await;
    let attach = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,b");
    let mut streams = daemon.hijack(&attach, Value::Null).await;
    streams.write_all(b"x\x01").await.unwrap();
    streams.write_all(b"b").await.unwrap();
    let mut bytes = Vec::new();
    streams.read_to_end(&mut bytes).await.unwrap();
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(inspect["State"]["Status"], "running");
    let events = "/events?since=1&filters=%7B%22event%22%3A%5B%22detach%22%5D%7D";
    let until = format!("{events}&until={}", jiff::Timestamp::now().as_second() + 1);
    assert!(!daemon.send(Method::GET, &until, "").await.1.is_empty());
    let bad = format!("/containers/{id}/attach?stream=1&detachKeys=nonsense");
    assert_eq!(daemon.post(&bad, Value::Null).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_container_shows_dockers_defaults_and_unknown_fields_are_warned_of() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let body = json!({
        "Image": "box", "Cmd": ["true"],
        "HostConfig": { "NetworkMode": "none", "Moon": 1, "CgroupParent": "/x" },
    });
    let (status, answer) = daemon.post("/containers/create?name=new", body).await;
    assert_eq!(status, 201, "{answer}");
    let warnings = answer["Warnings"].to_string();
    assert!(warnings.contains("HostConfig.Moon"), "{warnings}");
    assert!(warnings.contains("HostConfig.CgroupParent"), "{warnings}");
    let inspect = daemon.get("/containers/new/json?size=1").await;
    let host = &inspect["HostConfig"];
    assert_eq!(host["LogConfig"]["Type"], "json-file");
    assert_eq!(
        (&host["Memory"], &host["CapAdd"]),
        (&json!(0), &Value::Null)
    );
    assert!(inspect["SizeRootFs"].is_i64());
    let usage = daemon.get("/system/df").await;
    assert_eq!(usage["Containers"][0]["Id"], answer["Id"]);
    let metrics = daemon.send(Method::GET, "/hull/metrics", "").await.1;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    assert!(
        metrics.contains("hull_containers{state=\"created\"} 1"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closing_an_exec_ends_its_input() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon.create("long", &["sleep", "60"], Value::Null).await;
    daemon.start(&id).await;
    let body = json!({ "Cmd": ["cat"], "AttachStdin": true, "AttachStdout": true });
    let (_, exec) = daemon.post(&format!("/containers/{id}/exec"), body).await;
    let exec = exec["Id"].as_str().unwrap();
    let mut streams = daemon
        .hijack(&format!("/exec/{exec}/start"), json!({ "Detach": false }))
        .await;
    streams.write_all(b"abc").await.unwrap();
    streams.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(LIMIT, streams.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(demultiplex(&bytes).0, b"abc");
    assert_eq!(
        daemon.get(&format!("/exec/{exec}/json")).await["ExitCode"],
        0
    );
    kill(&daemon, &id).await;
}

async fn kill(daemon: &support::Daemon, id: &str) {
    let path = format!("/containers/{id}?force=1");
    assert_eq!(daemon.send(Method::DELETE, &path, "").await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_ends_with_its_first_client_only_where_asked_for() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    for once in [true, false] {
        let more = json!({ "OpenStdin": true, "StdinOnce": once, "AttachStdin": true });
        let name = if once { "once" } else { "open" };
        let id = daemon.create(name, &["cat"], more).await;
        daemon.start(&id).await;
        let attach = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1");
        let mut streams = daemon.hijack(&attach, Value::Null).await;
        streams.write_all(b"hi\n").await.unwrap();
        let mut frame = [0; 11];
        streams.read_exact(&mut frame).await.unwrap();
        drop(streams);
        if once {
            let inspect = daemon.until(&id, "/State/Status", json!("exited")).await;
            assert_eq!(inspect["State"]["ExitCode"], 0);
            continue;
        }
        let mut again = daemon.hijack(&attach, Value::Null).await;
        again.write_all(b"ho\n").await.unwrap();
        again.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame[8..], b"ho\n");
        kill(&daemon, &id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_waits_and_then_kills() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let script = "trap '' TERM; while :; do sleep 0.05; done";
    let id = daemon
        .create("deaf", &["sh", "-c", script], Value::Null)
        .await;
    daemon.start(&id).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    assert_eq!(
        daemon
            .post(&format!("/containers/{id}/stop?t=1"), Value::Null)
            .await
            .0,
        204
    );
    assert!(Duration::from_secs(1) <= begun.elapsed());
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(inspect["State"]["ExitCode"], 137);
    assert_eq!(
        daemon
            .post(&format!("/containers/{id}/stop"), Value::Null)
            .await
            .0,
        304
    );

    let more = json!({ "StopSignal": "SIGINT" });
    let script = "trap 'exit 7' INT; while :; do sleep 0.05; done";
    let id = daemon.create("polite", &["sh", "-c", script], more).await;
    daemon.start(&id).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        daemon
            .post(&format!("/containers/{id}/stop"), Value::Null)
            .await
            .0,
        204
    );
    assert_eq!(
        daemon.get(&format!("/containers/{id}/json")).await["State"]["ExitCode"],
        7
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_container_is_restarted_as_often_as_asked() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let policy = json!({ "Name": "on-failure", "MaximumRetryCount": 2 });
    let more = json!({ "HostConfig": { "RestartPolicy": policy } });
    let id = daemon.create("again", &["sh", "-c", "exit 3"], more).await;
    daemon.start(&id).await;
    let inspect = daemon.until(&id, "/State/Status", json!("exited")).await;
    assert_eq!(
        (&inspect["RestartCount"], &inspect["State"]["ExitCode"]),
        (&json!(2), &json!(3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_daemon() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon.create("lives", &["sleep", "60"], Value::Null).await;
    daemon.start(&id).await;
    let pid = daemon.get(&format!("/containers/{id}/json")).await["State"]["Pid"].clone();
    let ended = daemon.create("ended", &["true"], Value::Null).await;
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(
        (&inspect["State"]["Status"], &inspect["State"]["Pid"]),
        (&json!("running"), &pid)
    );
    let inspect = daemon.get(&format!("/containers/{ended}/json")).await;
    assert_eq!(inspect["State"]["Status"], "created");
    assert_eq!(
        daemon
            .post(&format!("/containers/{id}/kill"), Value::Null)
            .await
            .0,
        204
    );
    let inspect = daemon.until(&id, "/State/Status", json!("exited")).await;
    assert_eq!(inspect["State"]["ExitCode"], 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_checked_and_taken_once() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon.create("my.app_1-x", &["true"], Value::Null).await;
    let body = || json!({ "Image": "box", "Cmd": ["true"] });
    let (status, answer) = daemon
        .post("/containers/create?name=my.app_1-x", body())
        .await;
    let message = answer["message"].as_str().unwrap();
    assert_eq!(status, 409);
    assert!(
        message.contains(&id) && message.contains("already in use"),
        "{message}"
    );
    for bad in ["a%2Fb", "-x", "a"] {
        let (status, answer) = daemon
            .post(&format!("/containers/create?name={bad}"), body())
            .await;
        assert_eq!(status, 400, "{bad}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("[a-zA-Z0-9][a-zA-Z0-9_.-]"), "{message}");
    }
    assert_eq!(
        daemon.get(&format!("/containers/{}/json", &id[..6])).await["Id"],
        id
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let home = Home::new();
    let daemon = home.start().await;
    for (path, status, text) in [
        ("/v1.99/version", 400, "too new"),
        ("/v1.10/version", 400, "too old"),
        ("/containers/nope/json", 404, "No such container: nope"),
        ("/images/nope/json", 404, "No such image: nope:latest"),
        ("/networks/nope", 404, "nope"),
        (
            "/containers/h:5000/a/b:1/json",
            404,
            "No such container: h:5000/a/b:1",
        ),
        ("/containers/a/b/logs", 404, "No such container: a/b"),
        (
            "/containers/a/b/archive?path=/x",
            404,
            "No such container: a/b",
        ),
        ("/networks/a/b", 404, "network a/b not found"),
        ("/volumes/a/b", 404, "get a/b: no such volume"),
        ("/exec/a/b/json", 404, "No such exec instance: a/b"),
        ("/swarm", 503, "not a swarm manager"),
        (
            "/containers/a/checkpoints",
            501,
            "/containers/a/checkpoints is not built yet",
        ),
        ("/session", 404, "page not found"),
        ("/containers", 404, "page not found"),
        ("/nowhere", 404, "page not found"),
    ] {
        let (found, bytes) = daemon.send(Method::GET, path, "").await;
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        let message = answer["message"].as_str().unwrap();
        assert_eq!(found, status, "{path}: {message}");
        assert!(message.contains(text), "{path}: {message}");
    }
    for body in [&b"{"[..], b"[]", b"{\"Cmd\":7}", &[b' '; 5 << 20]] {
        let (status, _) = daemon
            .send(Method::POST, "/containers/create", body.to_vec())
            .await;
        assert_eq!(status, 400);
    }
    assert_eq!(daemon.get("/v1.24/version").await["ApiVersion"], "1.51");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_network_leaves_and_joins_none() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let more = json!({ "HostConfig": { "NetworkMode": "none" } });
    let id = daemon.create("alone", &["true"], more).await;
    for call in ["connect", "disconnect"] {
        let path = format!("/networks/none/{call}");
        let (status, answer) = daemon.post(&path, json!({ "Container": id })).await;
        assert_eq!(status, 200, "{call}: {answer}");
    }
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    let end = &inspect["NetworkSettings"]["Networks"]["none"];
    assert!(end["NetworkID"]
        .as_str()
        .is_some_and(|id| id.starts_with("6e6f6e65")));
    let start = format!("/containers/{id}/start");
    let old = json!({ "Binds": ["/x:/y"] });
    assert_eq!(daemon.post(&start, old).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_end_takes_its_sockets_with_it() {
    let home = Home::new();
    let daemon = home.start().await;
    let socket = daemon.socket().to_owned();
    daemon.kill(Signal::TERM);
    assert!(!socket.exists());
    assert!(!socket.with_file_name("events.sock").exists());
}

#[tokio::test]
async fn a_load_says_what_is_wrong_in_a_line_and_its_lines_are_a_stream() {
    let host = Home::new();
    let daemon = host.start().await;
    let load = |body: Vec<u8>| daemon.exchange(Method::POST, "/images/load", body.into(), false);
    let answer = load(b"junk".to_vec()).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("content-length"));
    let line: Value = serde_json::from_slice(&body_of(answer).await).unwrap();
    let message = line["errorDetail"]["message"].as_str().unwrap();
    assert!(message.contains("not an image"), "{message}");
    let answer = load(support::image_archive()).await;
    assert!(!answer.headers().contains_key("content-length"));
    let text = body_of(answer).await;
    assert!(text.ends_with(b"Loaded image: box:latest\\n\"}\r\n"));
}

#[tokio::test]
async fn a_killed_container_has_ended_when_the_answer_comes() {
    let host = Home::new();
    let daemon = host.start_with_image().await;
    let id = daemon
        .create("killed", &["sleep", "600"], Value::Null)
        .await;
    daemon.start(&id).await;
    let (status, _) = daemon
        .post(&format!("/containers/{id}/kill"), Value::Null)
        .await;
    assert_eq!(status, 204);
    let state = daemon.get(&format!("/containers/{id}/json")).await["State"].clone();
    assert_eq!(
        (&state["Running"], &state["ExitCode"]),
        (&json!(false), &json!(137))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_during_a_start_is_asked_of_the_one_that_runs() {
    let home = Home::new();
    let daemon = Arc::new(home.start_with_image().await);
    let more = || json!({ "Env": ["SLOW_START=1"] });
    for (name, action, code) in [("stopped", "stop", 143), ("killed", "kill", 137)] {
        let id = daemon.create(name, &["sleep", "60"], more()).await;
        let starting = tokio::spawn({
            let (daemon, id) = (Arc::clone(&daemon), id.clone());
            async move { daemon.start(&id).await }
        });
        tokio::time::sleep(Duration::from_millis(400)).await;
        let waiting = tokio::spawn({
            let (daemon, id) = (Arc::clone(&daemon), id.clone());
            async move {
                daemon
                    .post(&format!("/containers/{id}/wait"), Value::Null)
                    .await
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let path = format!("/containers/{id}/{action}");
        let (status, answer) = daemon.post(&path, Value::Null).await;
        assert_eq!(status, 204, "{action}: {answer}");
        starting.await.unwrap();
        daemon.until(&id, "/State/Status", json!("exited")).await;
        assert_eq!(waiting.await.unwrap().1["StatusCode"], code, "{action}");
    }
    // Those of ended ones do not wait for anything.
    let (status, _) = daemon.post("/containers/stopped/stop", Value::Null).await;
    assert_eq!(status, 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_asked_for_outlives_a_daemon_that_is_killed_meanwhile() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let script = "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.05; done";
    let policy = json!({ "Name": "unless-stopped" });
    let more = json!({ "StopTimeout": 20, "HostConfig": { "RestartPolicy": policy } });
    let id = daemon.create("stops", &["sh", "-c", script], more).await;
    daemon.start(&id).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let path = format!("/containers/{id}/stop");
    let asked = daemon.post(&path, Value::Null);
    assert!(tokio::time::timeout(Duration::from_millis(500), asked)
        .await
        .is_err());
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    let inspect = daemon.until(&id, "/State/Running", json!(false)).await;
    assert_eq!(
        (&inspect["State"]["Status"], &inspect["RestartCount"]),
        (&json!("exited"), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_whose_record_was_never_written_is_found() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon.create("frozen", &["sleep", "60"], Value::Null).await;
    daemon.start(&id).await;
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    let pid = inspect["State"]["Pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    daemon.kill(Signal::KILL);
    kill_process(pid, Signal::STOP).unwrap();
    let daemon = home.start().await;
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(inspect["State"]["Status"], "paused");
    let path = format!("/events?since=0&until={}", now() + 0.2);
    let (_, events) = daemon.send(Method::GET, &path, "").await;
    assert!(String::from_utf8_lossy(&events).contains(r#""Action":"pause""#));
    let go_on = format!("/containers/{id}/unpause");
    assert_eq!(daemon.post(&go_on, Value::Null).await.0, 204);
    assert_eq!(
        daemon
            .post(&format!("/containers/{id}/pause"), Value::Null)
            .await
            .0,
        204
    );
    // The other way round.
    daemon.kill(Signal::KILL);
    kill_process(pid, Signal::CONT).unwrap();
    let daemon = home.start().await;
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(inspect["State"]["Status"], "running");
    kill(&daemon, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_stands_still_is_ended_by_its_program() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon.create("still", &["sleep", "30"], Value::Null).await;
    daemon.start(&id).await;
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", inspect["State"]["Pid"])).unwrap();
    let parent = stat.split(' ').nth(3).and_then(|pid| pid.parse().ok());
    let shim = parent.and_then(Pid::from_raw).unwrap();
    kill_process(shim, Signal::STOP).unwrap();
    let begun = Instant::now();
    kill(&daemon, &id).await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(daemon.get("/containers/json?all=1").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_stopped_before_the_host_goes_down_and_come_back_after_it() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let script = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
    let with = |policy: &str| json!({ "HostConfig": { "RestartPolicy": { "Name": policy } } });
    let mut ids = Vec::new();
    for policy in ["no", "unless-stopped", "always", "on-failure"] {
        let id = daemon
            .create(policy, &["sh", "-c", script], with(policy))
            .await;
        daemon.start(&id).await;
        ids.push(id);
    }
    let failing = daemon
        .create("fails", &["sh", "-c", "exit 1"], with("unless-stopped"))
        .await;
    daemon.start(&failing).await;
    daemon.until(&failing, "/RestartCount", json!(3)).await;
    let slow = "trap 'sleep 1; exit 7' TERM; while :; do sleep 0.05; done";
    let slow = daemon.create("slow", &["sh", "-c", slow], with("no")).await;
    daemon.start(&slow).await;
    let late = daemon.create("late", &["true"], with("no")).await;
    let path = format!("/containers/{late}/start");
    let (shutdown, (status, refused)) =
        tokio::join!(daemon.post("/hull/shutdown", Value::Null), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            daemon.post(&path, Value::Null).await
        });
    assert_eq!((shutdown.0, &shutdown.1["NotStopped"]), (200, &json!([])));
    assert_eq!(status, 409);
    assert!(refused["message"]
        .as_str()
        .unwrap()
        .contains("this host goes down"));
    for id in &ids {
        let state = daemon.get(&format!("/containers/{id}/json")).await["State"].clone();
        assert_eq!(
            (&state["Status"], &state["ExitCode"]),
            (&json!("exited"), &json!(7))
        );
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let state = daemon.get(&format!("/containers/{failing}/json")).await["State"].clone();
    assert_eq!(state["Status"], "exited");
    daemon.kill(Signal::TERM);
    let daemon = home.start().await;
    daemon.until(&ids[1], "/State/Running", json!(true)).await;
    daemon.until(&ids[2], "/State/Running", json!(true)).await;
    daemon.until(&ids[3], "/State/Running", json!(true)).await;
    let state = daemon.get(&format!("/containers/{}/json", ids[0])).await["State"].clone();
    assert_eq!(state["Status"], "exited");
    for id in ids.iter().chain([&failing]) {
        kill(&daemon, id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_ask_for_something_else_do_not_end_the_daemon() {
    let home = Home::new();
    let daemon = home.start().await;
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::USR1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(daemon.send(Method::GET, "/_ping", "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_to_go_with_its_end_goes_though_the_daemon_was_killed_before() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let more = json!({
        "Env": ["SLOW_END=1"],
        "HostConfig": { "AutoRemove": true, "Mounts": [{ "Type": "volume", "Target": "/data" }] },
    });
    let id = daemon.create("brief", &["true"], more).await;
    daemon.start(&id).await;
    daemon.until(&id, "/State/Status", json!("exited")).await;
    assert_eq!(
        daemon.get("/volumes").await["Volumes"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    assert_eq!(
        daemon
            .send(Method::GET, &format!("/containers/{id}/json"), "")
            .await
            .0,
        404
    );
    assert_eq!(daemon.get("/volumes").await["Volumes"], json!([]));
    daemon.create("brief", &["true"], Value::Null).await;
}

/// Says what a shim says when the kernel of its VM has killed a process for its memory.
async fn tell_oom(daemon: &support::Daemon, id: &str) {
    use containerd_shim_protos::events::task::TaskOOM;
    use containerd_shim_protos::protobuf::well_known_types::any::Any;
    use containerd_shim_protos::protobuf::{Message as _, MessageField};
    use containerd_shim_protos::shim::event::Envelope;
    use containerd_shim_protos::shim::events::ForwardRequest;
    use containerd_shim_protos::shim_async::{Client, EventsClient};
    use containerd_shim_protos::ttrpc::context;

    let event = TaskOOM {
        container_id: id.to_owned(),
        ..TaskOOM::default()
    };
    let mut envelope = Envelope {
        topic: "/tasks/oom".to_owned(),
        ..Envelope::default()
    };
    envelope.event = MessageField::some(Any {
        value: event.write_to_bytes().unwrap(),
        ..Default::default()
    });
    let request = ForwardRequest {
        envelope: MessageField::some(envelope),
        ..ForwardRequest::default()
    };
    let socket = daemon.socket().with_file_name("events.sock");
    let client = Client::connect(&format!("unix://{}", socket.display()))
        .await
        .unwrap();
    let events = EventsClient::new(client);
    events
        .forward(context::with_timeout(5_000_000_000), &request)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oom_kill_is_told_of_while_the_container_runs_and_over_the_daemons_death() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon.create("hungry", &["sleep", "60"], Value::Null).await;
    daemon.start(&id).await;
    tell_oom(&daemon, &id).await;
    let inspect = daemon.until(&id, "/State/OOMKilled", json!(true)).await;
    assert_eq!(inspect["State"]["Status"], "running");
    tell_oom(&daemon, &id).await;
    let (_, events) = daemon
        .send(
            Method::GET,
            &format!("/events?since=0&until={}", now() + 0.2),
            "",
        )
        .await;
    let told = String::from_utf8_lossy(&events)
        .matches(r#""Action":"oom""#)
        .count();
    assert_eq!(told, 2);
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(inspect["State"]["OOMKilled"], true);
    assert_eq!(
        daemon
            .post(&format!("/containers/{id}/stop?t=0"), Value::Null)
            .await
            .0,
        204
    );
    let inspect = daemon.until(&id, "/State/Status", json!("exited")).await;
    assert_eq!(inspect["State"]["OOMKilled"], true);
    // The next run begins without.
    daemon.start(&id).await;
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(inspect["State"]["OOMKilled"], false);
    kill(&daemon, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_of_an_earlier_daemon_ends_and_leaves_nothing() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let id = daemon.create("execs", &["sleep", "60"], Value::Null).await;
    daemon.start(&id).await;
    let argv = json!({ "Cmd": ["sh", "-c", "sleep 1; echo done"], "AttachStdout": true });
    let (_, made) = daemon.post(&format!("/containers/{id}/exec"), argv).await;
    let start = format!("/exec/{}/start", made["Id"].as_str().unwrap());
    assert_eq!(daemon.post(&start, json!({ "Detach": true })).await.0, 200);
    let bundle = daemon.socket().with_file_name("bundles").join(&id);
    let fifos = || {
        let names = bundle
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().ends_with("-stdout"))
            .count()
    };
    assert_eq!(fifos(), 1);
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    let deadline = Instant::now() + LIMIT;
    while fifos() != 0 {
        assert!(
            Instant::now() < deadline,
            "what the exec was connected by is left"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    kill(&daemon, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_of_an_earlier_daemon_has_its_time_and_no_more() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let check = json!({
        "Test": ["CMD", "sleep", "300"],
        "Interval": 100_000_000,
        "Timeout": 2_000_000_000_i64,
    });
    let id = daemon
        .create("checked", &["sleep", "60"], json!({ "Healthcheck": check }))
        .await;
    daemon.start(&id).await;
    let bundle = daemon.socket().with_file_name("bundles").join(&id);
    let begun = || {
        let mut names = bundle
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path());
        names.find(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("health-") && name.ends_with("-stdout")
        })
    };
    let deadline = Instant::now() + LIMIT;
    let fifo = loop {
        assert!(Instant::now() < deadline, "no check begins");
        if let Some(fifo) = begun() {
            break fifo;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    let began = Instant::now();
    while fifo.exists() {
        assert!(began.elapsed() < Duration::from_secs(8), "it goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(Duration::from_secs(1) < began.elapsed(), "it had no time");
    kill(&daemon, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_image_is_pruned_that_a_container_takes_at_the_moment() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let unused = "/images/prune?filters={%22dangling%22:[%22false%22]}";
    for round in 0..20 {
        let load = daemon.send(Method::POST, "/images/load", support::image_archive());
        assert_eq!(load.await.0, 200);
        let body =
            json!({ "Image": "box", "Cmd": ["true"], "HostConfig": { "NetworkMode": "none" } });
        let path = format!("/containers/create?name=c{round}");
        let (made, pruned) =
            tokio::join!(daemon.post(&path, body), daemon.post(unused, Value::Null));
        assert_eq!(pruned.0, 200);
        let (status, answer) = made;
        let image = daemon.send(Method::GET, "/images/box/json", "").await.0;
        match status {
            201 => {
                assert_eq!(image, 200, "its image is gone");
                kill(&daemon, answer["Id"].as_str().unwrap()).await;
            }
            404 => assert_eq!(image, 404),
            other => panic!("{other}: {answer}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_refused_leaves_the_restart_policy() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let more = json!({ "HostConfig": { "RestartPolicy": { "Name": "always" } } });
    let id = daemon
        .create("goes-on", &["sh", "-c", "sleep 1; exit 1"], more)
        .await;
    daemon.start(&id).await;
    let path = format!("/containers/{id}/stop?signal=BOGUS");
    assert_eq!(daemon.post(&path, Value::Null).await.0, 400);
    daemon.until(&id, "/RestartCount", json!(1)).await;
    kill(&daemon, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_removal_that_the_daemon_did_not_outlive_starts_nothing() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let policy = json!({ "Name": "always" });
    let more = json!({ "Env": ["SLOW_KILL=1"], "HostConfig": { "RestartPolicy": policy } });
    let id = daemon.create("goes", &["sleep", "60"], more).await;
    daemon.start(&id).await;
    let path = format!("/containers/{id}?force=1");
    let asked = daemon.send(Method::DELETE, &path, "");
    let asked = tokio::time::timeout(Duration::from_millis(400), asked).await;
    assert!(asked.is_err());
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    let inspect = daemon.until(&id, "/State/Running", json!(false)).await;
    assert_eq!(
        (&inspect["State"]["Status"], &inspect["RestartCount"]),
        (&json!("exited"), &json!(0))
    );
    assert_eq!(daemon.send(Method::DELETE, &path, "").await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_the_daemon_did_not_outlive_removes_nothing() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let more = json!({ "Env": ["SLOW_START=1"], "HostConfig": { "AutoRemove": true } });
    let id = daemon.create("stays", &["sleep", "60"], more).await;
    daemon.start(&id).await;
    let path = format!("/containers/{id}/restart?t=0");
    let asked = daemon.post(&path, Value::Null);
    let asked = tokio::time::timeout(Duration::from_millis(700), asked).await;
    assert!(asked.is_err());
    let inspect = daemon.get(&format!("/containers/{id}/json")).await;
    assert_eq!(inspect["State"]["Status"], "exited");
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    daemon.start(&id).await;
    // Then it goes with its end as before.
    let path = format!("/containers/{id}/kill");
    assert_eq!(daemon.post(&path, Value::Null).await.0, 204);
    let path = format!("/containers/{id}/json");
    for _ in 0..200 {
        if daemon.send(Method::GET, &path, "").await.0 == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is still there");
}

/// Another container in the VM of one.
fn within(other: &str, more: Value) -> Value {
    let mut host = json!({ "NetworkMode": format!("container:{other}") });
    for (key, value) in more.as_object().into_iter().flatten() {
        host[key] = value.clone();
    }
    json!({ "HostConfig": host })
}

async fn still_waits(daemon: &support::Daemon) {
    tokio::time::sleep(Duration::from_millis(700)).await;
    let inspect = daemon.get("/containers/in/json").await;
    assert_eq!(inspect["State"]["Status"], "restarting");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_waits_for_its_vm_over_the_daemons_end() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let own = daemon.create("own", &["sleep", "60"], Value::Null).await;
    daemon.start(&own).await;
    let policy = json!({ "RestartPolicy": { "Name": "always" } });
    let joined = daemon
        .create("in", &["sleep", "60"], within("own", policy))
        .await;
    daemon.start(&joined).await;
    let path = format!("/containers/{own}/kill");
    assert_eq!(daemon.post(&path, Value::Null).await.0, 204);
    // As the end of the VM does.
    let inspect = daemon.get(&format!("/containers/{joined}/json")).await;
    let pid = inspect["State"]["Pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    still_waits(&daemon).await;
    daemon.kill(Signal::KILL);
    let daemon = home.start().await;
    still_waits(&daemon).await;
    daemon.start(&own).await;
    daemon
        .until(&joined, "/State/Status", json!("running"))
        .await;
    kill(&daemon, &joined).await;
    kill(&daemon, &own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_vm_that_is_stopped_with_others_in_it_ends_last() {
    let home = Home::new();
    let daemon = home.start_with_image().await;
    let script = |then: &str| format!("trap '{then}' TERM; while :; do sleep 0.05; done");
    let own = script("exit 5");
    let own = daemon.create("own", &["sh", "-c", &own], Value::Null).await;
    daemon.start(&own).await;
    let joined = script("sleep 1; exit 6");
    let joined = daemon
        .create("in", &["sh", "-c", &joined], within("own", Value::Null))
        .await;
    daemon.start(&joined).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stop = |name| daemon.post(name, Value::Null);
    let (first, second) = tokio::join!(stop("/containers/own/stop"), stop("/containers/in/stop"));
    assert_eq!((first.0, second.0), (204, 204));
    let state = |inspect: Value| {
        let state = &inspect["State"];
        let finished = state["FinishedAt"].as_str().unwrap().to_owned();
        (state["ExitCode"].clone(), finished)
    };
    let own = state(daemon.get("/containers/own/json").await);
    let joined = state(daemon.get("/containers/in/json").await);
    assert_eq!((&own.0, &joined.0), (&json!(5), &json!(6)));
    assert!(joined.1 < own.1, "{} {}", joined.1, own.1);
}
