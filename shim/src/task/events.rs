//! Events to containerd, in the order in which they happened.

use std::collections::VecDeque;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc::context;
use tokio::sync::mpsc;

use super::state::now;

/// Environment variable in which containerd names its events service.
pub(super) const TTRPC_ADDRESS_ENV: &str = "TTRPC_ADDRESS";
/// How often an event is sent before it is given up: the receiver may be restarting.
const ATTEMPTS: u32 = 5;
/// Between two attempts.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// One attempt.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// Most events that wait for a receiver; the oldest are dropped beyond it.
const MAX_WAITING: usize = 4096;

/// An event with its topic.
pub(super) trait Event: Message {
    /// containerd's topic.
    const TOPIC: &'static str;
    /// Full name of the message.
    const TYPE_URL: &'static str;
}

macro_rules! topics {
    ($($event:ty => $topic:literal),* $(,)?) => {
        $(impl Event for $event {
            const TOPIC: &'static str = $topic;
            const TYPE_URL: &'static str = concat!("containerd.events.", stringify!($event));
        })*
    };
}

topics! {
    TaskCreate => "/tasks/create",
    TaskStart => "/tasks/start",
    TaskOOM => "/tasks/oom",
    TaskExit => "/tasks/exit",
    TaskDelete => "/tasks/delete",
    TaskExecAdded => "/tasks/exec-added",
    TaskExecStarted => "/tasks/exec-started",
    TaskPaused => "/tasks/paused",
    TaskResumed => "/tasks/resumed",
}

/// Takes events; a task of its own sends them.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    namespace: String,
    sender: mpsc::UnboundedSender<Envelope>,
}

impl Publisher {
    /// Sends to the service at `address`; without one, events go nowhere.
    pub(super) fn new(namespace: &str, address: Option<String>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(send_all(address, receiver));
        Self {
            namespace: namespace.to_owned(),
            sender,
        }
    }

    /// Queues an event.
    pub(super) fn publish<E: Event>(&self, event: &E) {
        let any = Any {
            type_url: E::TYPE_URL.to_owned(),
            value: event.write_to_bytes().unwrap_or_default(),
            ..Any::default()
        };
        let envelope = Envelope {
            timestamp: MessageField::some(now()),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: MessageField::some(any),
            ..Envelope::default()
        };
        // The receiver lives as long as the process.
        let _ = self.sender.send(envelope);
    }
}

async fn send_all(address: Option<String>, mut receiver: mpsc::UnboundedReceiver<Envelope>) {
    let mut client = None;
    let mut waiting = VecDeque::new();
    while let Some(envelope) = receiver.recv().await {
        let Some(address) = &address else { continue };
        waiting.push_back(envelope);
        while let Some(envelope) = waiting.pop_front() {
            send(address, &mut client, envelope).await;
            while let Ok(next) = receiver.try_recv() {
                enqueue(&mut waiting, next);
            }
            let excess = waiting.len().saturating_sub(MAX_WAITING);
            waiting.drain(..excess);
        }
    }
}

/// A container decides how often it is short of memory: one word of that waits for each, so that it pushes
/// nothing else out.
fn enqueue(waiting: &mut VecDeque<Envelope>, next: Envelope) {
    let same = |other: &Envelope| (&other.topic, &other.event) == (&next.topic, &next.event);
    if next.topic == TaskOOM::TOPIC && waiting.iter().any(same) {
        return;
    }
    waiting.push_back(next);
}

async fn send(address: &str, client: &mut Option<EventsClient>, envelope: Envelope) {
    let topic = envelope.topic.clone();
    let request = ForwardRequest {
        envelope: MessageField::some(envelope),
        ..ForwardRequest::default()
    };
    for attempt in 0..ATTEMPTS {
        if 0 < attempt {
            tokio::time::sleep(RETRY_DELAY).await;
        }
        match try_send(address, client, &request).await {
            Ok(()) => return,
            Err(error) => {
                *client = None;
                tracing::debug!(topic, error, "an event was not taken");
            }
        }
    }
    tracing::warn!(topic, "an event is given up");
}

async fn try_send(
    address: &str,
    client: &mut Option<EventsClient>,
    request: &ForwardRequest,
) -> Result<(), String> {
    let connected = match client {
        Some(client) => client,
        None => {
            let url = match address.starts_with("unix://") {
                true => address.to_owned(),
                false => format!("unix://{address}"),
            };
            let connection = Client::connect(&url).await;
            client.insert(EventsClient::new(connection.map_err(|e| e.to_string())?))
        }
    };
    let sent = connected.forward(context::with_duration(SEND_LIMIT), request);
    let _: api::Empty = sent.await.map_err(|e| e.to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_of_a_container_short_of_memory_waits() {
        let oom = |id: &str| Envelope {
            topic: TaskOOM::TOPIC.to_owned(),
            event: MessageField::some(Any {
                value: id.as_bytes().to_vec(),
                ..Any::default()
            }),
            ..Envelope::default()
        };
        let exit = Envelope {
            topic: TaskExit::TOPIC.to_owned(),
            ..Envelope::default()
        };
        let mut waiting = VecDeque::new();
        for next in [oom("a"), exit.clone(), oom("a"), oom("b"), exit, oom("a")] {
            enqueue(&mut waiting, next);
        }
        let topics: Vec<_> = waiting.iter().map(|it| it.topic.as_str()).collect();
        assert_eq!(
            topics,
            ["/tasks/oom", "/tasks/exit", "/tasks/oom", "/tasks/exit"]
        );
    }
}
