//! The driver `syslog`: each line to a server, in a form of RFC 3164 or RFC 5424.

mod format;

use std::collections::HashMap;

use super::address::{Address, Form};
use super::connection::Server;
use super::tls::{self, TlsOptions};
use super::{Message, SendError};
use format::{Facility, Format, Framing};

const ADDRESS: Form = Form {
    option: "syslog-address",
    port: 514,
    secure_port: 6514,
};
/// Options of this driver alone.
pub(in crate::logs) const OPTIONS: [&str; 7] = [
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    tls::CA,
    tls::CERTIFICATE,
    tls::KEY,
    tls::SKIP_VERIFY,
];

/// What they say.
#[derive(Debug, Clone)]
pub(in crate::logs) struct Options {
    address: Address,
    facility: Facility,
    format: Format,
    tls: TlsOptions,
}

impl Options {
    /// Reads them.
    pub(in crate::logs) fn parse(options: &HashMap<String, String>) -> Result<Self, String> {
        let text = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
        Ok(Self {
            address: match text(ADDRESS.option) {
                "" => Address::Local,
                text => ADDRESS.read(text)?,
            },
            facility: text("syslog-facility").parse()?,
            format: text("syslog-format").parse()?,
            tls: TlsOptions::parse(options)?,
        })
    }

    /// Looks for the files that they name.
    pub(in crate::logs) fn check_files(&self) -> Result<(), String> {
        if let Some(path) = self.address.socket() {
            std::fs::metadata(path)
                .map_err(|error| format!("syslog-address: stat {}: {error}", path.display()))?;
        }
        match self.address {
            Address::Tls(_) => tls::connector(&self.tls)
                .map(drop)
                .map_err(|e| e.to_string()),
            _ => Ok(()),
        }
    }
}

/// Sends to a server.
pub(super) struct Sink {
    format: Format,
    head: format::Head,
    framing: Framing,
    server: Server,
}

impl Sink {
    pub(super) fn new(options: Options, tag: String) -> Self {
        let secure = matches!(options.address, Address::Tls(_));
        Self {
            format: options.format,
            head: format::Head::of_this_host(options.facility, tag),
            framing: Framing::of(options.format, secure),
            server: Server::new(options.address, options.tls),
        }
    }

    pub(super) async fn send(&mut self, message: &Message) -> Result<(), SendError> {
        // As dockerd: an empty line is no message.
        if message.text.is_empty() {
            return Ok(());
        }
        let line = self.format.line(&self.head, message);
        self.server.send(&[self.framing.frame(line)]).await
    }
}

#[cfg(test)]
mod tests;
