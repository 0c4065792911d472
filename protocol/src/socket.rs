//! UNIX sockets of the host in the guest. The guest never connects to the host: for each socket the
//! host keeps one connection to [`SOCKET_PORT`] waiting, on which it has said which socket it is
//! for. The agent says [`TAKEN`] on it when a client has connected; from then on it carries the
//! client's bytes and those of a connection that the host makes, and the host keeps another waiting.

/// vsock port (in the guest) for connections that wait for clients.
pub const SOCKET_PORT: u32 = 1029;
/// What the agent says once a client is there.
pub const TAKEN: u8 = 1;
/// Longest name of a socket, in bytes: the path in the guest of its volume.
pub const MAX_NAME: usize = 4095;

/// What the host says first: the length of the socket's name (little endian) and the name. `None`
/// for a name that is too long.
pub fn preamble(name: &str) -> Option<Vec<u8>> {
    let length = u16::try_from(name.len()).ok();
    let length = length.filter(|length| usize::from(*length) <= MAX_NAME)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(name.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_follows_its_length() {
        assert_eq!(preamble("/a"), Some(vec![2, 0, b'/', b'a']));
        assert_eq!(preamble(&"x".repeat(MAX_NAME + 1)), None);
    }
}
