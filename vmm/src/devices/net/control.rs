//! The control queue (virtio 1.2, 5.1.6.5): commands of the driver, each with one byte of answer.

use crate::devices::chain::Buffers;
use crate::devices::virtio::{DeviceFailure, QueueSet};

/// Commands before the other devices get their turn.
const BATCH_COMMANDS: usize = 16;
/// Bytes of the longest command that is understood: class, command, a hardware address.
const COMMAND_BYTES: usize = 8;
/// `VIRTIO_NET_CTRL_MAC` and its `ADDR_SET`.
const ADDRESS: [u8; 2] = [1, 1];
/// `VIRTIO_NET_CTRL_MQ` and its `VQ_PAIRS_SET`.
const QUEUE_PAIRS: [u8; 2] = [4, 0];
/// `VIRTIO_NET_OK` and `VIRTIO_NET_ERR`.
const OK: u8 = 0;
const ERROR: u8 = 1;

/// What a driver asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// So many pairs of queues are to be used.
    QueuePairs(u16),
    /// It has given its interface this hardware address.
    Address([u8; 6]),
}

/// `None`: something that was not offered, or of another length.
fn parse(request: &Buffers<'_>) -> Option<Command> {
    let mut bytes = [0; COMMAND_BYTES];
    let bytes = bytes.get_mut(..request.len())?;
    if request.copy_to(bytes) != bytes.len() {
        return None;
    }
    let (which, data) = bytes.split_first_chunk()?;
    match *which {
        QUEUE_PAIRS => Some(Command::QueuePairs(u16::from_le_bytes(
            (*data).try_into().ok()?,
        ))),
        ADDRESS => Some(Command::Address((*data).try_into().ok()?)),
        _ => None,
    }
}

/// Answers the commands in a queue; `carry_out` says whether one was carried out. `true`: there may
/// be more.
pub(super) fn serve(
    queues: &mut QueueSet<'_>,
    queue: usize,
    mut carry_out: impl FnMut(Command) -> bool,
) -> Result<bool, DeviceFailure> {
    let mut served = 0;
    while served < BATCH_COMMANDS {
        let Some(chain) = queues.pop(queue)? else {
            break;
        };
        // Without room for the answer nothing is done that nobody could be told of.
        let done = !chain.writable.is_empty() && parse(&chain.readable).is_some_and(&mut carry_out);
        let answer = if done { OK } else { ERROR };
        let written = chain.writable.copy_from(&[answer]);
        queues.complete(queue, chain.head, written as u32)?;
        served += 1;
    }
    if served > 0 {
        queues.notify(queue)?;
    }
    Ok(served == BATCH_COMMANDS)
}
