//! Docker's rules for joining what an image says with what the user says.

use std::collections::HashMap;

use bollard_stubs::models::{ContainerConfig, HealthConfig};

use crate::error::{EngineError, Result};

/// Fills what the user left out from the image's configuration.
pub fn merge_image(mut user: ContainerConfig, image: &ContainerConfig) -> ContainerConfig {
    fill_text(&mut user.user, &image.user);
    fill_text(&mut user.working_dir, &image.working_dir);
    fill_text(&mut user.stop_signal, &image.stop_signal);
    user.env = Some(merge_env(
        user.env.take(),
        image.env.as_deref().unwrap_or_default(),
    ));
    merge_labels(&mut user.labels, image.labels.as_ref());
    merge_set(&mut user.exposed_ports, image.exposed_ports.as_deref());
    merge_set(&mut user.volumes, image.volumes.as_deref());
    // Clients send an empty set for none.
    user.volumes = user.volumes.filter(|targets| !targets.is_empty());
    fill_health(&mut user.healthcheck, image.healthcheck.as_ref());
    if user.shell.is_none() {
        user.shell.clone_from(&image.shell);
    }
    // A user's entrypoint resets the image's command, also when it is only `""`.
    if user.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if user.cmd.as_ref().is_none_or(Vec::is_empty) {
            user.cmd.clone_from(&image.cmd);
        }
        if user.entrypoint.is_none() {
            user.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if user
        .entrypoint
        .as_deref()
        .is_some_and(|entry| entry == [""])
    {
        user.entrypoint = None;
    }
    user
}

/// Program and arguments: the entrypoint followed by the command.
pub fn argv_of(config: &ContainerConfig) -> Result<Vec<String>> {
    let argv: Vec<String> = [&config.entrypoint, &config.cmd]
        .into_iter()
        .filter_map(Option::as_ref)
        .flatten()
        .cloned()
        .collect();
    if argv.is_empty() {
        return Err(EngineError::BadRequest("no command specified".to_owned()));
    }
    Ok(argv)
}

/// What the user leaves out of a health check is the image's.
fn fill_health(user: &mut Option<HealthConfig>, image: Option<&HealthConfig>) {
    let Some(image) = image else { return };
    let Some(user) = user else {
        *user = Some(image.clone());
        return;
    };
    if user.test.as_ref().is_none_or(Vec::is_empty) {
        user.test.clone_from(&image.test);
    }
    let times = [
        (&mut user.interval, image.interval),
        (&mut user.timeout, image.timeout),
        (&mut user.start_period, image.start_period),
        (&mut user.start_interval, image.start_interval),
        (&mut user.retries, image.retries),
    ];
    for (user, image) in times {
        if user.is_none_or(|value| value == 0) {
            *user = image;
        }
    }
}

fn fill_text(user: &mut Option<String>, image: &Option<String>) {
    if user.as_deref().unwrap_or_default().is_empty() {
        user.clone_from(image);
    }
}

/// The user's variables, then those of the image that the user did not set.
fn merge_env(user: Option<Vec<String>>, image: &[String]) -> Vec<String> {
    let mut env = user.unwrap_or_default();
    let set: Vec<String> = env.iter().map(|entry| key_of(entry).to_owned()).collect();
    env.extend(
        image
            .iter()
            .filter(|entry| !set.iter().any(|key| key == key_of(entry)))
            .cloned(),
    );
    env
}

/// The name part of `NAME=value`.
pub(super) fn key_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

fn merge_labels(
    user: &mut Option<HashMap<String, String>>,
    image: Option<&HashMap<String, String>>,
) {
    let labels = user.get_or_insert_default();
    for (key, value) in image.into_iter().flatten() {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn merge_set(user: &mut Option<Vec<String>>, image: Option<&[String]>) {
    let Some(image) = image.filter(|image| !image.is_empty()) else {
        return;
    };
    let set = user.get_or_insert_default();
    for item in image {
        if !set.contains(item) {
            set.push(item.clone());
        }
    }
}
