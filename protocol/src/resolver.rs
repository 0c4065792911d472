//! Questions to name servers that answer on the host: the frames on [`RESOLVER_PORT`].
//!
//! The host connects. The agent sends questions, the host answers them in any order, or never. A
//! frame is a header of eight bytes (little endian: a number that the agent chose, the index of the
//! name server in `ConfigureNetworkRequest.resolvers`, the transport, the length of the message)
//! and a DNS message without TCP's own length.

/// vsock port (in the guest) of the connection for names.
pub const RESOLVER_PORT: u32 = 1026;
/// Length of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 8;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a TCP connection.
    Tcp,
}

/// What precedes a DNS message. An answer repeats its question's number, server and transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Tells questions apart.
    pub number: u32,
    /// Index of the name server.
    pub server: u8,
    /// How the question came.
    pub transport: Transport,
    /// Bytes of the message.
    pub length: u16,
}

impl Header {
    /// As sent.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.number.to_le_bytes();
        let [low, high] = self.length.to_le_bytes();
        let transport = match self.transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
        };
        [a, b, c, d, self.server, transport, low, high]
    }

    /// As received; `None` for a transport that there is not.
    pub fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let [a, b, c, d, server, transport, low, high] = bytes;
        Some(Self {
            number: u32::from_le_bytes([a, b, c, d]),
            server,
            transport: match transport {
                0 => Transport::Udp,
                1 => Transport::Tcp,
                _ => return None,
            },
            length: u16::from_le_bytes([low, high]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_bytes() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let header = Header {
                number: 0x0102_0304,
                server: 3,
                transport,
                length: 0xfeff,
            };
            assert_eq!(Header::from_bytes(header.to_bytes()), Some(header));
        }
        assert_eq!(Header::from_bytes([0, 0, 0, 0, 0, 2, 0, 0]), None);
    }
}
