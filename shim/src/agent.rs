//! Client of the guest's agent.
//!
//! What it answers comes from a hostile guest: it is data to bound and pass on, never a promise.
//! Every call has a time limit, and ends at once with the reason when the VM ends.

mod frames;
#[cfg(test)]
mod hostile;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hull_protocol::agent::{ConfigureSandboxRequest, Empty, HelloRequest};
use hull_protocol::agent_ttrpc::AgentClient;
use hull_protocol::{AGENT_PORT, PROTOCOL_VERSION};
use ttrpc::asynchronous::transport::Socket;
use ttrpc::asynchronous::Client;
use ttrpc::context::Context;
use ttrpc::Code;

use self::frames::Frames;
use crate::vmm::{Vm, VmEnd, VmmError};

/// From the VMM's start to the agent's first answer: a guest that fails ends its VM at once, so this is for hosts
/// that are busy with others.
pub const BOOT_LIMIT: Duration = Duration::from_secs(150);
/// One ordinary call.
pub const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A connection that breaks is usually the first sign of a VM that ends: so long the reason is
/// waited for.
const REASON_LIMIT: Duration = Duration::from_secs(3);
/// Processes of a list that are passed on: a guest has no more.
pub(crate) const MAX_PROCESSES: usize = 32_768;
/// Longest text of a guest's error that is passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 4096;
/// Random bytes given to a new guest.
const ENTROPY_BYTES: usize = 64;

/// Why a call to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent answered with an error.
    #[error("{message}")]
    Status {
        /// The call.
        call: &'static str,
        /// Its class.
        code: Code,
        /// The agent's words.
        message: String,
    },
    /// No answer in time.
    #[error("the guest's agent did not answer {call} within {limit:?}")]
    TimedOut {
        /// The call.
        call: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The VM ended before the answer.
    #[error("the VM ended during {call}: {end}")]
    VmEnded {
        /// The call.
        call: &'static str,
        /// How the VM ended.
        end: Arc<VmEnd>,
    },
    /// The connection broke, or carried what is no answer.
    #[error("the connection to the guest's agent failed during {call}")]
    Connection {
        /// The call.
        call: &'static str,
        /// Why.
        source: ttrpc::Error,
    },
    /// No connection.
    #[error("failed to connect to the guest's agent")]
    Connect {
        /// Why.
        source: VmmError,
    },
    /// The agent is of another version.
    #[error("the guest's agent speaks protocol version {found}, this program {PROTOCOL_VERSION}: initramfs.cpio is of another release; install Hull again")]
    Version {
        /// The agent's version.
        found: u32,
    },
    /// The host has no random bytes.
    #[error("failed to get random bytes: {reason}")]
    Entropy {
        /// Why.
        reason: String,
    },
}

/// A guest's words, as others may read them.
fn bounded(message: &str) -> String {
    let text: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
    hull_vm_config::plain(&text)
}

/// A connection to the agent.
#[derive(Clone)]
pub struct Agent {
    client: AgentClient,
    vm: Vm,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("vm", &self.vm).finish()
    }
}

impl Agent {
    /// Connects, waits until the guest has booted, and compares versions.
    pub async fn connect(vm: &Vm) -> Result<Self, AgentError> {
        let stream = vm
            .connect(AGENT_PORT)
            .await
            .map_err(|source| AgentError::Connect { source })?;
        let client = Client::new(Socket::new(Frames::new(stream)));
        let agent = Self {
            client: AgentClient::new(client),
            vm: vm.clone(),
        };
        let request = HelloRequest {
            protocol_version: PROTOCOL_VERSION,
            ..Default::default()
        };
        let hello = agent
            .call("Hello", BOOT_LIMIT, |client, context| async move {
                client.hello(context, &request).await
            })
            .await?;
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(AgentError::Version {
                found: hello.protocol_version,
            });
        }
        Ok(agent)
    }

    /// The VM that the agent runs in.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Makes one call: `make` gets a client and a context.
    pub async fn call<T, F>(
        &self,
        call: &'static str,
        limit: Duration,
        make: impl FnOnce(AgentClient, Context) -> F,
    ) -> Result<T, AgentError>
    where
        F: Future<Output = ttrpc::Result<T>>,
    {
        match tokio::time::timeout(limit, self.call_unlimited(call, make)).await {
            Ok(answer) => answer,
            Err(_) => Err(AgentError::TimedOut { call, limit }),
        }
    }

    /// Makes one call that may take any time, such as waiting for a process.
    pub async fn call_unlimited<T, F>(
        &self,
        call: &'static str,
        make: impl FnOnce(AgentClient, Context) -> F,
    ) -> Result<T, AgentError>
    where
        F: Future<Output = ttrpc::Result<T>>,
    {
        let answer = make(self.client.clone(), Context::default());
        let failure = tokio::select! {
            answer = answer => match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            },
            end = self.vm.ended() => return Err(AgentError::VmEnded { call, end }),
        };
        match failure {
            ttrpc::Error::RpcStatus(status) => Err(AgentError::Status {
                call,
                code: status.code(),
                message: bounded(&status.message),
            }),
            source => match tokio::time::timeout(REASON_LIMIT, self.vm.ended()).await {
                Ok(end) => Err(AgentError::VmEnded { call, end }),
                Err(_) => Err(AgentError::Connection { call, source }),
            },
        }
    }

    /// Sets the guest's clock, feeds its random number generator, and applies `request`.
    pub async fn configure(&self, mut request: ConfigureSandboxRequest) -> Result<(), AgentError> {
        let mut entropy = vec![0; ENTROPY_BYTES];
        getrandom::fill(&mut entropy).map_err(|error| AgentError::Entropy {
            reason: error.to_string(),
        })?;
        request.entropy = entropy;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let since_epoch = since_epoch.unwrap_or_default().as_nanos();
        request.realtime_ns = u64::try_from(since_epoch).unwrap_or_default();
        self.call(
            "ConfigureSandbox",
            CALL_LIMIT,
            |client, context| async move { client.configure_sandbox(context, &request).await },
        )
        .await?;
        Ok(())
    }

    /// Asks the guest to sync its file systems and power off, then makes sure that the VM is over.
    pub async fn shut_down(&self, limit: Duration) -> Arc<VmEnd> {
        // However the call ends: what counts is the end of the VM.
        let asked = self.call("Shutdown", limit, |client, context| async move {
            client.shutdown(context, &Empty::default()).await
        });
        let over = async {
            let _ = asked.await;
            self.vm.ended().await
        };
        if let Ok(end) = tokio::time::timeout(limit, over).await {
            return end;
        }
        self.vm.kill();
        self.vm.ended().await
    }
}
