//! Messages of SCTP with their streams, and options of its sockets (RFC 6458), which have no safe
//! interface.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Options (7.1.3, 7.1.5, 8.1.29).
const INITMSG: libc::c_int = 2;
const NODELAY: libc::c_int = 3;
const RECVRCVINFO: libc::c_int = 32;
/// Kinds of control messages (5.3.4, 5.3.5).
const SNDINFO: libc::c_int = 2;
const RCVINFO: libc::c_int = 3;
/// A message that does not wait for others of its stream.
const UNORDERED: u16 = 1;

/// Streams of an association, each way.
#[repr(C)]
struct InitMsg {
    outbound: u16,
    most_inbound: u16,
    attempts: u16,
    timeout: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SndInfo {
    stream: u16,
    flags: u16,
    payload: u32,
    context: u32,
    association: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RcvInfo {
    stream: u16,
    sequence: u16,
    flags: u16,
    payload: u32,
    number: u32,
    acknowledged: u32,
    context: u32,
    association: i32,
}

/// Room for either kind of control message, aligned as its header.
const CONTROL_WORDS: usize = 8;
type Control = [u64; CONTROL_WORDS];

/// What a message has beside its bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// Its stream.
    pub(super) stream: u16,
    /// It does not wait for others of its stream.
    pub(super) unordered: bool,
    /// What its sender says that it is, in the sender's byte order.
    pub(super) payload: u32,
}

/// A part of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Its bytes; 0: the peer ends the association.
    pub(super) length: usize,
    /// It is the last one.
    pub(super) last: bool,
    /// Of the whole message.
    pub(super) info: Info,
}

/// Bounds the streams of associations that a socket begins or takes.
pub(super) fn set_streams(socket: BorrowedFd<'_>, streams: u16) -> io::Result<()> {
    let init = InitMsg {
        outbound: streams,
        most_inbound: streams,
        attempts: 0,
        timeout: 0,
    };
    set(socket, INITMSG, &init)
}

/// Tells of each message's stream, and sends small messages at once.
pub(super) fn prepare(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    set(socket, RECVRCVINFO, &on)?;
    set(socket, NODELAY, &on)
}

fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes of the value as it has, and the value outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_SCTP,
            option,
            std::ptr::from_ref(value).cast(),
            bytes,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn header(bytes: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: `msghdr` is plain data, for which all zeroes is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = bytes;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>();
    header
}

/// The next part of a message, into `buffer`.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Part> {
    let mut bytes = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control: Control = [0; CONTROL_WORDS];
    let mut header = header(&mut bytes, &mut control);
    // SAFETY: the header names the buffer and the room for control messages with their lengths, and
    // both outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Part {
        length,
        last: header.msg_flags & libc::MSG_EOR != 0,
        info: info_of(&header).unwrap_or_default(),
    })
}

fn info_of(header: &libc::msghdr) -> Option<Info> {
    // SAFETY: the kernel has written control messages into the room that the header names, and set
    // their length; it is alive, as the caller's.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: the macros return null or a header that lies whole within the room.
        let (level, kind, length) =
            unsafe { ((*next).cmsg_level, (*next).cmsg_type, (*next).cmsg_len) };
        // SAFETY: it computes a length.
        let whole = unsafe { libc::CMSG_LEN(size_of::<RcvInfo>() as u32) } as usize;
        if (level, kind) == (libc::IPPROTO_SCTP, RCVINFO) && whole <= length {
            // SAFETY: the message is at least as long as what is read of it, which is plain data.
            let read = unsafe { libc::CMSG_DATA(next).cast::<RcvInfo>().read_unaligned() };
            return Some(Info {
                stream: read.stream,
                unordered: read.flags & UNORDERED != 0,
                payload: read.payload,
            });
        }
        // SAFETY: as for the first one.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    None
}

/// Sends a whole message.
pub(super) fn send(socket: BorrowedFd<'_>, message: &[u8], info: Info) -> io::Result<usize> {
    let mut bytes = libc::iovec {
        // The kernel only reads what is sent.
        iov_base: message.as_ptr().cast_mut().cast(),
        iov_len: message.len(),
    };
    let mut control: Control = [0; CONTROL_WORDS];
    let mut header = header(&mut bytes, &mut control);
    let size = size_of::<SndInfo>() as u32;
    // SAFETY: they compute lengths, which the room is larger than.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
    header.msg_controllen = space as usize;
    let wanted = SndInfo {
        stream: info.stream,
        flags: if info.unordered { UNORDERED } else { 0 },
        payload: info.payload,
        context: 0,
        association: 0,
    };
    // SAFETY: the room is aligned and large enough for a header and the value behind it, so the
    // first header is there.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        (*first).cmsg_level = libc::IPPROTO_SCTP;
        (*first).cmsg_type = SNDINFO;
        (*first).cmsg_len = length as usize;
        libc::CMSG_DATA(first)
            .cast::<SndInfo>()
            .write_unaligned(wanted);
    }
    // SAFETY: the header names the message and the control message with their lengths, and both
    // outlive the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
