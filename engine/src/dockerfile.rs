//! Those instructions of a Dockerfile that change an image's configuration, for `commit` and
//! `import`.

mod expand;

use std::collections::{HashMap, HashSet};

use bollard_stubs::models::{ContainerConfig, HealthConfig};

use crate::network;
use crate::spec::parse_signal;

/// Applies instructions; `Err` says what is wrong with one.
pub(crate) fn apply<'a>(
    config: &mut ContainerConfig,
    lines: impl IntoIterator<Item = &'a str>,
) -> Result<(), String> {
    let lines = lines.into_iter().map(str::trim);
    let mut said_command = false;
    for line in lines.filter(|line| !line.is_empty()) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let word = word.to_ascii_uppercase();
        apply_one(config, &word, rest.trim())?;
        // The command from before was for another entry point.
        match word.as_str() {
            "CMD" => said_command = config.cmd.as_ref().is_some_and(|cmd| !cmd.is_empty()),
            "ENTRYPOINT" if !said_command => config.cmd = None,
            _ => {}
        }
    }
    Ok(())
}

fn apply_one(config: &mut ContainerConfig, word: &str, rest: &str) -> Result<(), String> {
    if rest.is_empty() {
        return Err(format!("{word} requires at least one argument"));
    }
    // As it was before this instruction.
    let environment = config.env.clone().unwrap_or_default();
    let expand = |text: &str| expand::word(text, &environment);
    match word {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
        "USER" => config.user = Some(expand(rest)?),
        "WORKDIR" => config.working_dir = Some(directory(config, &expand(rest)?)),
        "STOPSIGNAL" => {
            let signal = expand(rest)?;
            parse_signal(&signal).map_err(|error| error.message())?;
            config.stop_signal = Some(signal);
        }
        "HEALTHCHECK" => config.healthcheck = Some(health_check(rest)?),
        "ONBUILD" => {
            let what = rest.split_whitespace().next().unwrap_or_default();
            let what = what.to_ascii_uppercase();
            match what.as_str() {
                "ONBUILD" => {
                    return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned())
                }
                "MAINTAINER" | "FROM" => {
                    return Err(format!("{what} isn't allowed as an ONBUILD trigger"))
                }
                _ => config
                    .on_build
                    .get_or_insert_default()
                    .push(rest.to_owned()),
            }
        }
        "ENV" => {
            for (key, value) in pairs(rest, &environment)? {
                let env = config.env.get_or_insert_default();
                let prefix = format!("{key}=");
                env.retain(|entry| !entry.starts_with(&prefix));
                env.push(format!("{key}={value}"));
            }
        }
        "LABEL" => {
            let labels: &mut HashMap<_, _> = config.labels.get_or_insert_default();
            labels.extend(pairs(rest, &environment)?);
        }
        "EXPOSE" => {
            let ports = config.exposed_ports.get_or_insert_default();
            let mut known: HashSet<String> = ports.iter().cloned().collect();
            for port in expand::words(rest, &environment)? {
                let keys = network::exposed_keys(&port);
                let keys = keys.map_err(|_| format!("Invalid containerPort: {port}"))?;
                ports.extend(keys.filter(|key| known.insert(key.clone())));
            }
        }
        "VOLUME" => {
            let wanted = match serde_json::from_str::<Vec<String>>(rest) {
                Ok(list) => list
                    .iter()
                    .map(|path| expand(path))
                    .collect::<Result<_, _>>()?,
                Err(_) => expand::words(rest, &environment)?,
            };
            let volumes = config.volumes.get_or_insert_default();
            volumes.extend(wanted);
            volumes.sort();
            volumes.dedup();
        }
        other => {
            return Err(format!(
                "{} is not a valid change command",
                other.to_uppercase()
            ))
        }
    }
    Ok(())
}

/// The exec form (JSON), or the shell's.
fn command(text: &str) -> Vec<String> {
    serde_json::from_str(text)
        .unwrap_or_else(|_| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// `[--OPTION=VALUE ...] CMD COMMAND`, or `NONE`.
fn health_check(text: &str) -> Result<HealthConfig, String> {
    let mut config = HealthConfig::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(char::is_whitespace)
            .unwrap_or((option, ""));
        rest = after.trim_start();
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let time = || {
            let time = crate::filters::duration(value);
            let nanoseconds = time.and_then(|time| i64::try_from(time.as_nanos()).ok());
            let bad =
                || format!("invalid HEALTHCHECK --{name}: {value:?} is no duration such as 30s");
            nanoseconds.map(Some).ok_or_else(bad)
        };
        match name {
            "interval" => config.interval = time()?,
            "timeout" => config.timeout = time()?,
            "start-period" => config.start_period = time()?,
            "start-interval" => config.start_interval = time()?,
            "retries" => {
                let bad = |_| format!("invalid HEALTHCHECK --retries: {value:?} is no number");
                config.retries = Some(value.parse().map_err(bad)?);
            }
            _ => return Err(format!("unknown flag of HEALTHCHECK: --{name}")),
        }
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    config.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => Some(vec!["NONE".to_owned()]),
        "CMD" if !command.is_empty() => Some(test_of(command)),
        _ => return Err("HEALTHCHECK wants CMD with a command, or NONE".to_owned()),
    };
    crate::health::check(&config).map_err(|error| error.message())?;
    Ok(config)
}

fn test_of(command: &str) -> Vec<String> {
    let (kind, words) = match serde_json::from_str::<Vec<String>>(command) {
        Ok(words) => ("CMD", words),
        Err(_) => ("CMD-SHELL", vec![command.to_owned()]),
    };
    std::iter::once(kind.to_owned()).chain(words).collect()
}

/// A relative directory is below the one before.
fn directory(config: &ContainerConfig, text: &str) -> String {
    if text.starts_with('/') {
        return text.to_owned();
    }
    let before = config.working_dir.as_deref().unwrap_or_default();
    format!("{}/{text}", before.trim_end_matches('/'))
}

/// `KEY=VALUE ...` with quotes, or the older `KEY VALUE`.
fn pairs(text: &str, environment: &[String]) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
        let [key, value] = [key, value.trim()].map(|text| expand::word(text, environment));
        return Ok(vec![(key?, value?)]);
    }
    expand::words(text, environment)?
        .into_iter()
        .map(|word| {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("syntax error: can't find = in {word:?}"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_configuration() {
        let mut config = ContainerConfig {
            env: Some(vec!["A=0".into(), "B=1".into()]),
            working_dir: Some("/srv".into()),
            ..ContainerConfig::default()
        };
        for line in [
            "entrypoint run it",
            r#"CMD ["a", "b c"]"#,
            r#"ENV A=1 C="x y" D=it\\'s"#,
            "ENV OLD form of it",
            "WORKDIR sub",
            "EXPOSE 80 53/udp",
            "LABEL k=v",
            "VOLUME /data",
            "USER me",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f http://localhost/",
            "ONBUILD RUN make",
        ] {
            apply(&mut config, [&*line.replace("\\\\", "\\")]).unwrap();
        }
        assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "run it"]);
        let env = config.env.unwrap();
        assert!(env.contains(&"A=1".to_owned()) && env.contains(&"C=x y".to_owned()));
        assert!(env.contains(&"OLD=form of it".to_owned()), "{env:?}");
        assert_eq!(config.working_dir.unwrap(), "/srv/sub");
        assert_eq!(config.exposed_ports.unwrap(), ["80/tcp", "53/udp"]);
        assert_eq!(config.labels.unwrap()["k"], "v");
        assert_eq!(config.on_build.unwrap(), ["RUN make"]);
        let health = config.healthcheck.unwrap();
        let test = ["CMD-SHELL", "curl -f http://localhost/"];
        assert_eq!(health.test.unwrap(), test);
        assert_eq!(
            (health.interval, health.retries),
            (Some(90_000_000_000), Some(2))
        );
    }

    #[test]
    fn an_entry_point_has_no_command_of_another_one() {
        let after = |lines: &[&str]| {
            let mut config = ContainerConfig {
                cmd: Some(vec!["before".into()]),
                ..ContainerConfig::default()
            };
            apply(&mut config, lines.iter().copied()).unwrap();
            config.cmd.unwrap_or_default()
        };
        assert_eq!(after(&["ENV A=b"]), ["before"]);
        assert!(after(&["ENTRYPOINT [\"x\"]"]).is_empty());
        assert_eq!(after(&["CMD [\"y\"]", "ENTRYPOINT [\"x\"]"]), ["y"]);
        assert_eq!(after(&["ENTRYPOINT [\"x\"]", "CMD [\"y\"]"]), ["y"]);
    }

    #[test]
    fn variables_are_those_before_the_instruction() {
        let mut config = ContainerConfig {
            env: Some(vec!["PATH=/bin".into(), "D=/srv".into(), "P=80 81".into()]),
            ..ContainerConfig::default()
        };
        for line in [
            "ENV PATH=/usr/bin:$PATH NEW=$PATH",
            "ENV OLD ${D}/x y",
            "WORKDIR $D/app",
            "USER ${U:-me}",
            r#"VOLUME ["$D/data"]"#,
            "LABEL d=$D",
            "EXPOSE ${N:-90} 91 90-92/UDP",
            "CMD echo $PATH",
        ] {
            apply(&mut config, [line]).unwrap();
        }
        let env = config.env.unwrap();
        for entry in ["PATH=/usr/bin:/bin", "NEW=/bin", "OLD=/srv/x y"] {
            assert!(env.contains(&entry.to_owned()), "{env:?}");
        }
        assert_eq!(config.working_dir.unwrap(), "/srv/app");
        assert_eq!(config.user.unwrap(), "me");
        assert_eq!(config.volumes.unwrap(), ["/srv/data"]);
        assert_eq!(config.labels.unwrap()["d"], "/srv");
        let ports = ["90/tcp", "91/tcp", "90/udp", "91/udp", "92/udp"];
        assert_eq!(config.exposed_ports.unwrap(), ports);
        assert_eq!(config.cmd.unwrap()[2], "echo $PATH");
    }

    #[test]
    fn what_is_no_change_is_refused() {
        let mut config = ContainerConfig::default();
        for line in [
            "RUN x",
            "CMD",
            "ENV A",
            r#"ENV A="x"#,
            "NONSENSE 1",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=x CMD true",
            "HEALTHCHECK --odd=1 NONE",
            "STOPSIGNAL BOGUS",
            "ONBUILD onbuild RUN x",
            "ONBUILD FROM x",
            "EXPOSE foo",
            "EXPOSE 90-80",
            "EXPOSE 80/foo",
        ] {
            assert!(apply(&mut config, [line]).is_err(), "{line}");
        }
    }
}
