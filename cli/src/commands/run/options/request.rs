//! The API's request that the flags mean.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig};

use super::CreateArgs;
use crate::commands::run::security::Security;
use crate::commands::run::values::{
    absolute_bind, exposed, pairs, restart_policy, some, split, swap, sysctls, ulimit,
};
use crate::commands::run::{mount, publish};
use crate::error::{CliError, Result};
use crate::terminal;
use crate::units::{env_word, parse_env_file, parse_label_file};

impl CreateArgs {
    /// The request.
    pub(in crate::commands::run) fn body(&self) -> Result<ContainerCreateBody> {
        let image = self.image()?.to_owned();
        Ok(ContainerCreateBody {
            image: Some(image),
            cmd: some(self.words.iter().skip(1).cloned().collect()),
            entrypoint: self.entrypoint.clone().map(|program| vec![program]),
            env: some(self.environment()?),
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            tty: Some(self.tty),
            open_stdin: Some(self.interactive),
            attach_stdin: Some(self.streams().stdin),
            attach_stdout: Some(self.streams().stdout),
            attach_stderr: Some(self.streams().stderr),
            stdin_once: Some(self.interactive && self.streams().stdin),
            labels: Some(self.labels()?),
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            host_config: Some(self.host_config()?),
            volumes: some(
                self.volume
                    .iter()
                    .filter(|text| !text.contains(':'))
                    .cloned()
                    .collect(),
            ),
            healthcheck: self.health()?,
            exposed_ports: some(self.exposed_ports()?),
            networking_config: self.networks.config()?,
            ..ContainerCreateBody::default()
        })
    }

    /// Files first: a flag overrides what a file says.
    fn labels(&self) -> Result<HashMap<String, String>> {
        let mut labels = HashMap::new();
        for path in &self.label_file {
            labels.extend(pairs(&parse_label_file(&read(path)?)?));
        }
        labels.extend(pairs(&self.label));
        Ok(labels)
    }

    fn health(&self) -> Result<Option<HealthConfig>> {
        let test = self
            .health_cmd
            .as_ref()
            .map(|command| match command.as_str() {
                "" => vec!["NONE".to_owned()],
                command => vec!["CMD-SHELL".to_owned(), command.to_owned()],
            });
        let config = HealthConfig {
            test,
            interval: self.health_interval,
            timeout: self.health_timeout,
            retries: self.health_retries,
            start_period: self.health_start_period,
            start_interval: self.health_start_interval,
        };
        let any = config != HealthConfig::default();
        if self.no_healthcheck && any {
            return Err(CliError::usage(
                "--no-healthcheck conflicts with --health-* options",
            ));
        }
        let none = HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        };
        Ok(match self.no_healthcheck {
            true => Some(none),
            false => any.then_some(config),
        })
    }

    /// What is exposed, and what is published.
    fn exposed_ports(&self) -> Result<Vec<String>> {
        let mut ports = Vec::new();
        for text in &self.expose {
            ports.extend(exposed(text)?);
        }
        ports.extend(publish::parse_all(&self.publish)?.into_keys());
        ports.sort();
        ports.dedup();
        Ok(ports)
    }

    fn annotations(&self) -> HashMap<String, String> {
        let mut all = pairs(&self.annotation);
        let own = [
            ("dev.hull.egress", &self.egress),
            ("dev.hull.net-rate", &self.net_rate),
        ];
        if self.untrusted {
            all.insert("dev.hull.untrusted".to_owned(), true.to_string());
        }
        for (name, value) in own {
            if let Some(value) = value {
                all.insert(name.to_owned(), value.clone());
            }
        }
        all
    }

    fn log_config(&self) -> Option<HostConfigLogConfig> {
        let any = self.log_driver.is_some() || !self.log_opt.is_empty();
        any.then(|| HostConfigLogConfig {
            typ: self.log_driver.clone(),
            config: (!self.log_opt.is_empty()).then(|| pairs(&self.log_opt)),
        })
    }

    fn host_config(&self) -> Result<HostConfig> {
        let size = terminal::size().filter(|_| self.tty);
        let security = Security::of(&self.security_opt)?;
        self.limits.fill(HostConfig {
            auto_remove: Some(self.rm),
            binds: some(
                self.volume
                    .iter()
                    .filter(|text| text.contains(':'))
                    .map(|text| absolute_bind(text))
                    .collect(),
            ),
            volumes_from: some(self.volumes_from.clone()),
            volume_driver: self.volume_driver.clone(),
            mounts: some(
                self.mount
                    .iter()
                    .map(|text| mount::parse(text))
                    .collect::<Result<_>>()?,
            ),
            tmpfs: Some(self.tmpfs.iter().map(|text| split(text, ':')).collect()),
            network_mode: self.networks.mode()?,
            port_bindings: Some(publish::parse_all(&self.publish)?),
            publish_all_ports: Some(self.publish_all),
            nano_cpus: self.cpus,
            memory: self.memory,
            memory_swap: self.memory_swap.as_deref().map(swap).transpose()?,
            pids_limit: self.pids_limit,
            shm_size: self.shm_size,
            ulimits: some(
                self.ulimit
                    .iter()
                    .map(|text| ulimit(text))
                    .collect::<Result<_>>()?,
            ),
            readonly_rootfs: Some(self.read_only),
            extra_hosts: some(self.add_host.clone()),
            dns: some(self.dns.clone()),
            dns_search: some(self.dns_search.clone()),
            dns_options: some(self.dns_option.clone()),
            links: some(self.networks.links()),
            group_add: some(self.group_add.clone()),
            restart_policy: self.restart.as_deref().map(restart_policy).transpose()?,
            cap_add: some(self.cap_add.clone()),
            cap_drop: some(self.cap_drop.clone()),
            privileged: Some(self.privileged),
            masked_paths: security.paths(),
            readonly_paths: security.paths(),
            security_opt: some(security.options),
            sysctls: Some(sysctls(&self.sysctl)?),
            annotations: Some(self.annotations()),
            oom_score_adj: self.oom_score_adj,
            init: self.init,
            log_config: self.log_config(),
            console_size: size.map(|(width, height)| vec![height.into(), width.into()]),
            ..HostConfig::default()
        })
    }

    /// Files first: a flag overrides what a file says.
    fn environment(&self) -> Result<Vec<String>> {
        let mut env = Vec::new();
        for path in &self.env_file {
            env.extend(parse_env_file(&read(path)?)?);
        }
        env.extend(self.env.iter().map(|word| env_word(word)));
        Ok(env)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(CliError::io(format!("cannot read {}", path.display())))
}
