use std::collections::HashMap;
use std::path::Path;

use bollard_stubs::models::{ContainerConfig, HostConfig, ResourcesUlimits};
use oci_spec::runtime::Spec;

use super::*;

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

fn record(config: ContainerConfig, host: HostConfig) -> Record {
    Record {
        argv: argv_of(&config).unwrap(),
        config,
        host,
        ..crate::record::tests::record()
    }
}

fn build_checked(record: &Record) -> Value {
    let spec = build(
        record,
        Host {
            volumes: &[],
            defaults: &Defaults {
                vhost_net: true,
                io_uring: true,
                ..Defaults::default()
            },
            linked: &[],
            joined: None,
            disks: &[],
            bundle: Path::new("/run/hull/bundles/x"),
        },
    )
    .unwrap();
    let typed: Spec = serde_json::from_value(spec.clone()).unwrap();
    assert!(typed.process().is_some());
    spec
}

#[test]
fn what_the_operator_turned_off_no_container_turns_on() {
    let config = ContainerConfig {
        cmd: words(&["true"]),
        ..ContainerConfig::default()
    };
    let wanted = |key: &str, value: &str| HostConfig {
        annotations: Some(HashMap::from([(key.to_owned(), value.to_owned())])),
        ..HostConfig::default()
    };
    let built = |key: &str, value: &str, may| {
        let host = Host {
            volumes: &[],
            defaults: &Defaults {
                vhost_net: may,
                io_uring: may,
                ..Defaults::default()
            },
            linked: &[],
            joined: None,
            disks: &[],
            bundle: Path::new("/run/hull/bundles/x"),
        };
        let spec = build(&record(config.clone(), wanted(key, value)), host).unwrap();
        spec["annotations"][key].clone()
    };
    use hull_shim::annotations::{IO_URING, VHOST_NET};
    for key in [VHOST_NET, IO_URING] {
        assert_eq!(built(key, "true", false), "false");
        assert_eq!(built(key, "false", true), "false");
        assert_eq!(built(key, "true", true), "true");
    }
}

#[test]
fn whose_vm_a_container_is_in_is_the_engines_to_say() {
    let key = hull_shim::annotations::JOIN;
    let config = ContainerConfig {
        cmd: words(&["true"]),
        ..ContainerConfig::default()
    };
    let wanted = HostConfig {
        annotations: Some(HashMap::from([(key.to_owned(), "stranger".to_owned())])),
        pid_mode: Some("container:other".to_owned()),
        ipc_mode: Some("container:other".to_owned()),
        ..HostConfig::default()
    };
    let built = |joined| {
        let host = Host {
            disks: &[],
            volumes: &[],
            defaults: &Defaults::default(),
            linked: &[],
            bundle: Path::new("/run/hull/bundles/x"),
            joined,
        };
        build(&record(config.clone(), wanted.clone()), host).unwrap()
    };
    assert_eq!(built(None)["annotations"][key], Value::Null);
    let joined = Joined { id: "first" };
    let spec = built(Some(joined));
    assert_eq!(spec["annotations"][key], "first");
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    let pids = namespaces.iter().find(|one| one["type"] == "pid").unwrap();
    assert_eq!(pids["path"], "/.hull/containers/other/ns/pid");
    let mounts = spec["mounts"].as_array().unwrap();
    let memory = mounts.iter().find(|one| one["destination"] == "/dev/shm");
    let memory = &memory.unwrap()["source"];
    assert_eq!(memory, "/.hull/containers/other/root/dev/shm");
}

#[test]
fn defaults_are_dockers() {
    let config = ContainerConfig {
        cmd: words(&["true"]),
        ..ContainerConfig::default()
    };
    insta::assert_json_snapshot!(build_checked(&record(config, HostConfig::default())));
}

#[test]
fn every_honoured_field_is_in_the_specification() {
    let config = ContainerConfig {
        cmd: words(&["sh"]),
        env: words(&["PATH=/opt/x/bin:/bin", "A=2", "B=3"]),
        user: Some("daemon:tty".into()),
        working_dir: Some("/srv".into()),
        hostname: Some("web".into()),
        domainname: Some("example.org".into()),
        tty: Some(true),
        ..ContainerConfig::default()
    };
    let host = HostConfig {
        memory: Some(256 << 20),
        nano_cpus: Some(1_500_000_000),
        pids_limit: Some(64),
        binds: words(&["/srv/data:/data:ro", "/srv/data/x:/data/x"]),
        tmpfs: Some(HashMap::from([(
            "/run".to_owned(),
            "exec,size=1m".to_owned(),
        )])),
        readonly_rootfs: Some(true),
        shm_size: Some(1 << 20),
        cap_add: words(&["SYS_PTRACE"]),
        cap_drop: words(&["MKNOD"]),
        group_add: words(&["20", "audio"]),
        oom_score_adj: Some(500),
        security_opt: words(&["no-new-privileges"]),
        sysctls: Some(HashMap::from([(
            "net.core.somaxconn".to_owned(),
            "9".to_owned(),
        )])),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("nofile".into()),
            soft: Some(64),
            hard: Some(128),
        }]),
        console_size: Some(vec![24, 80]),
        ..HostConfig::default()
    };
    insta::assert_json_snapshot!(build_checked(&record(config, host)));
}

#[test]
fn privileged_means_all_of_the_vm() {
    let config = ContainerConfig {
        cmd: words(&["sh"]),
        ..ContainerConfig::default()
    };
    let host = HostConfig {
        privileged: Some(true),
        ..HostConfig::default()
    };
    let spec = build_checked(&record(config, host));
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(
        spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        41
    );
}

#[test]
fn user_environment_overrides_the_image_and_keeps_its_path() {
    let user = ContainerConfig {
        env: words(&["A=2", "B=3"]),
        ..ContainerConfig::default()
    };
    let image = ContainerConfig {
        env: words(&["PATH=/opt/x/bin:/usr/bin:/bin", "A=1"]),
        cmd: words(&["env"]),
        ..ContainerConfig::default()
    };
    let spec = build_checked(&record(merge_image(user, &image), HostConfig::default()));
    let env: Vec<&str> = spec["process"]["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        env,
        [
            "PATH=/opt/x/bin:/usr/bin:/bin",
            "HOSTNAME=0123456789ab",
            "A=2",
            "B=3"
        ]
    );
}

/// Entrypoint and command of user and image, and the argv (or error) they give.
#[test]
fn entrypoint_and_command_follow_dockers_rules() {
    type Words = Option<&'static [&'static str]>;
    type Case = (
        Words,
        Words,
        Words,
        Words,
        Result<&'static [&'static str], &'static str>,
    );
    let cases: &[Case] = &[
        // An empty first element is no program.
        (
            None,
            None,
            Some(&[""]),
            Some(&["echo", "hi"]),
            Ok(&["echo", "hi"]),
        ),
        (
            Some(&[""]),
            Some(&["echo", "hi"]),
            Some(&["echo", "ep"]),
            Some(&["x"]),
            Ok(&["echo", "hi"]),
        ),
        (
            Some(&[""]),
            None,
            Some(&["echo", "ep"]),
            Some(&["x"]),
            Err("no command specified"),
        ),
        (
            Some(&[]),
            None,
            Some(&["echo", "ep"]),
            Some(&["x"]),
            Ok(&["x"]),
        ),
        (
            None,
            Some(&["y"]),
            Some(&["echo"]),
            Some(&["x"]),
            Ok(&["echo", "y"]),
        ),
        (
            Some(&["cat"]),
            None,
            Some(&["echo"]),
            Some(&["x"]),
            Ok(&["cat"]),
        ),
        (None, None, None, None, Err("no command specified")),
    ];
    let config = |entrypoint: Words, cmd: Words| ContainerConfig {
        entrypoint: entrypoint.and_then(words),
        cmd: cmd.and_then(words),
        ..ContainerConfig::default()
    };
    for (user_entry, user_cmd, image_entry, image_cmd, want) in cases {
        let merged = merge_image(
            config(*user_entry, *user_cmd),
            &config(*image_entry, *image_cmd),
        );
        match (argv_of(&merged), want) {
            (Ok(found), Ok(want)) => assert_eq!(found, *want),
            (Err(found), Err(want)) => assert_eq!(found.to_string(), *want),
            (found, want) => panic!("{found:?} instead of {want:?}"),
        }
    }
}

#[test]
fn what_runs_later_in_a_privileged_container_is_privileged() {
    let held = |privileged| {
        let host = HostConfig {
            privileged: Some(privileged),
            ..HostConfig::default()
        };
        let record = record(
            ContainerConfig {
                cmd: Some(vec!["x".into()]),
                ..ContainerConfig::default()
            },
            host,
        );
        let process = super::exec_process(&record, &super::ExecSpec::default()).unwrap();
        process["capabilities"]["effective"]
            .as_array()
            .unwrap()
            .len()
    };
    assert!(held(false) < held(true));
}
