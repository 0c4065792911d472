//! What happened, for `/events`.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use bollard_stubs::models::{
    EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum,
};
use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::json::Filters;

/// Events kept for `since`, as many as Docker keeps.
const KEPT: usize = 256;
/// A reader that falls behind by so many events loses the oldest.
const QUEUE: usize = 1024;

/// Takes events and hands them to readers.
#[derive(Debug)]
pub struct EventBus {
    recent: Mutex<VecDeque<EventMessage>>,
    sender: broadcast::Sender<EventMessage>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self {
            recent: Mutex::default(),
            sender: broadcast::channel(QUEUE).0,
        }
    }
}

impl EventBus {
    /// Publishes an event that happens now.
    pub fn publish(
        &self,
        typ: EventMessageTypeEnum,
        action: impl Into<String>,
        id: &str,
        attributes: HashMap<String, String>,
    ) {
        let now = Timestamp::now();
        let action = action.into();
        log(typ, &action, id, &attributes);
        let event = EventMessage {
            typ: Some(typ),
            action: Some(action),
            actor: Some(EventActor {
                id: Some(id.to_owned()),
                attributes: Some(attributes),
            }),
            scope: Some(EventMessageScopeEnum::LOCAL),
            time: Some(now.as_second()),
            time_nano: i64::try_from(now.as_nanosecond()).ok(),
        };
        let mut recent = self
            .recent
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        // No reader is no error. Sent under the lock: a subscriber sees each event once.
        let _ = self.sender.send(event);
    }

    /// The kept events and a receiver of all later ones.
    pub fn subscribe(&self) -> (Vec<EventMessage>, broadcast::Receiver<EventMessage>) {
        let recent = self
            .recent
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        (recent.iter().cloned().collect(), self.sender.subscribe())
    }
}

/// Says it in the daemon's own log. Of health checks there are many.
fn log(typ: EventMessageTypeEnum, action: &str, id: &str, attributes: &HashMap<String, String>) {
    let (name, status) = (attributes.get("name"), attributes.get("exitCode"));
    match action.starts_with("exec_") {
        true => tracing::debug!(id, name, status, "{typ} {action}"),
        false => tracing::info!(id, name, status, "{typ} {action}"),
    }
}

/// Whether an event passes Docker's `filters` of `/events`.
pub fn matches(event: &EventMessage, filters: &Filters) -> bool {
    let none = HashMap::new();
    let actor_id = event
        .actor
        .as_ref()
        .and_then(|a| a.id.as_deref())
        .unwrap_or_default();
    let attributes = event
        .actor
        .as_ref()
        .and_then(|actor| actor.attributes.as_ref())
        .unwrap_or(&none);
    let typ = event.typ.map(|typ| typ.to_string()).unwrap_or_default();
    let action = event.action.as_deref().unwrap_or_default();
    let name = attributes
        .get("name")
        .map(String::as_str)
        .unwrap_or_default();
    filters.iter().all(|(key, wanted)| match key.as_str() {
        "type" => wanted.contains(&typ),
        // `exec_start: sh -c x` is found as `exec_start`.
        "event" => wanted
            .iter()
            .any(|w| action == w || action.starts_with(&format!("{w}:"))),
        "container" => {
            typ == "container"
                && wanted
                    .iter()
                    .any(|w| begins(w, name) || begins(w, actor_id))
        }
        "image" => {
            let is_image = typ == "image";
            let image = if is_image { "name" } else { "image" };
            let image = attributes.get(image).map(String::as_str);
            let mut names = image.into_iter().chain(is_image.then_some(actor_id));
            names.any(|found| wanted.iter().any(|w| is_image_name(w, found)))
        }
        "label" => wanted.iter().all(|w| label_matches(w, attributes)),
        "scope" => wanted.iter().any(|w| w == "local"),
        "network" | "volume" | "plugin" | "daemon" => {
            typ == *key
                && wanted
                    .iter()
                    .any(|w| begins(w, name) || begins(w, actor_id))
        }
        _ => true,
    })
}

/// As dockerd, of names as of ids.
fn begins(wanted: &str, text: &str) -> bool {
    !wanted.is_empty() && text.starts_with(wanted)
}

/// Whether an image is called so, with or without its tag.
fn is_image_name(wanted: &str, found: &str) -> bool {
    let whole = found.parse::<hull_image::Reference>();
    wanted == found || whole.is_ok_and(|whole| whole.familiar_name() == wanted)
}

/// `key` or `key=value` against labels.
pub fn label_matches(wanted: &str, labels: &HashMap<String, String>) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bus: &EventBus) -> EventMessage {
        bus.subscribe().0.remove(0)
    }

    #[test]
    fn images_are_named_with_or_without_their_tag() {
        for (wanted, found, is) in [
            ("busybox", "busybox:1.36", true),
            ("busybox:1.36", "busybox:1.36", true),
            ("busybox:1.36", "busybox", false),
            ("host:5000/a/b", "host:5000/a/b:x", true),
            ("busy", "busybox:1.36", false),
            ("sha256:ab", "sha256:ab", true),
        ] {
            assert_eq!(is_image_name(wanted, found), is, "{wanted} {found}");
        }
    }

    #[test]
    fn filters_select_by_type_action_container_and_label() {
        let bus = EventBus::default();
        let attributes = HashMap::from([
            ("name".to_owned(), "web".to_owned()),
            ("tier".to_owned(), "front".to_owned()),
        ]);
        bus.publish(
            EventMessageTypeEnum::CONTAINER,
            "exec_start: ls",
            "abcdef",
            attributes,
        );
        let event = event(&bus);
        let pass = |key: &str, value: &str| {
            matches(
                &event,
                &Filters::from([(key.to_owned(), vec![value.to_owned()])]),
            )
        };
        assert!(pass("type", "container") && !pass("type", "image"));
        assert!(pass("event", "exec_start") && !pass("event", "exec"));
        assert!(pass("container", "we") && !pass("container", "eb"));
        assert!(pass("container", "web") && pass("container", "abc") && !pass("container", "x"));
        assert!(pass("label", "tier=front") && pass("label", "tier") && !pass("label", "tier=db"));
    }
}
