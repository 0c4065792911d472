//! What comes in at one interface goes out at another, by traffic control.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterMatchAllOption, TcFilterU32Option, TcHandle, TcMessage,
    TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use netlink_packet_route::RouteNetlinkMessage;

use super::HOST_SIDE_PORTS;
use crate::netlink::{Netlink, NetlinkError};

/// `ETH_P_ALL`, `ETH_P_ARP` and `ETH_P_IP`.
const ALL: u16 = 0x0003;
const ARP: u16 = 0x0806;
const IP: u16 = 0x0800;
/// The handle that an ingress discipline always has.
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
const UDP: u32 = 17;
const TCP: u32 = 6;
const DNS_PORT: u32 = 53;

/// Removes an interface's ingress discipline with all its filters; none is no error.
pub(super) fn clear(netlink: &Netlink, index: u32) -> Result<(), NetlinkError> {
    let message = discipline(index);
    let action = format!("free interface {index} of redirections");
    let request = RouteNetlinkMessage::DelQueueDiscipline(message);
    match netlink.ask(request, 0, &action) {
        Err(NetlinkError::Refused { source, .. })
            if matches!(
                source.raw_os_error(),
                Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
            ) =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Redirects `interface` to `tap` and back.
pub(super) fn both_ways(netlink: &Netlink, interface: u32, tap: u32) -> Result<(), NetlinkError> {
    for index in [interface, tap] {
        let action = format!("prepare interface {index} for redirection");
        let request = RouteNetlinkMessage::NewQueueDiscipline(discipline(index));
        netlink.ask(request, NLM_F_CREATE | NLM_F_EXCL, &action)?;
    }
    for (from, to) in [(interface, tap), (tap, interface)] {
        let redirect = action(TcMirrorActionType::EgressRedir, TcActionType::Stolen, to);
        add(netlink, match_all(from, 10, ALL, redirect))?;
    }
    Ok(())
}

/// Of what is redirected from `interface` to `tap`, the namespace's own stack still hears ARP and
/// the answers of name servers to [`HOST_SIDE_PORTS`].
pub(super) fn host_side(netlink: &Netlink, interface: u32, tap: u32) -> Result<(), NetlinkError> {
    let mirror = action(TcMirrorActionType::EgressMirror, TcActionType::Pipe, tap);
    add(netlink, match_all(interface, 1, ARP, mirror))?;
    for (priority, protocol) in [(2, UDP), (3, TCP)] {
        add(netlink, answers(interface, priority, protocol))?;
    }
    Ok(())
}

fn add(netlink: &Netlink, message: TcMessage) -> Result<(), NetlinkError> {
    let action = format!(
        "redirect what comes in at interface {}",
        message.header.index
    );
    let request = RouteNetlinkMessage::NewTrafficFilter(message);
    match netlink.ask(request, NLM_F_CREATE | NLM_F_EXCL, &action) {
        // The discipline is ours, and so is what is at this place of it: an attempt before got so far.
        Err(NetlinkError::Refused { source, .. })
            if source.raw_os_error() == Some(libc::EEXIST) =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

fn message(index: u32, parent: TcHandle) -> TcMessage {
    // The kernel's own type is signed, and indexes are positive.
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
    message.header.parent = parent;
    message
}

fn discipline(index: u32) -> TcMessage {
    let mut message = message(index, TcHandle::INGRESS);
    message.header.handle = INGRESS;
    message.attributes.push(TcAttribute::Kind("ingress".into()));
    message
}

/// A filter on what comes in; those of lower priority numbers are asked first.
fn filter(
    index: u32,
    priority: u16,
    protocol: u16,
    kind: &str,
    options: Vec<TcOption>,
) -> TcMessage {
    let mut message = message(index, INGRESS);
    message.header.info = u32::from(priority) << 16 | u32::from(protocol.to_be());
    message.attributes = vec![
        TcAttribute::Kind(kind.into()),
        TcAttribute::Options(options),
    ];
    message
}

fn match_all(index: u32, priority: u16, protocol: u16, action: TcAction) -> TcMessage {
    let options = vec![TcOption::MatchAll(TcFilterMatchAllOption::Action(vec![
        action,
    ]))];
    filter(index, priority, protocol, "matchall", options)
}

fn action(what: TcMirrorActionType, then: TcActionType, to: u32) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = then;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = what;
    mirror.ifindex = to;
    let parameters = TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror));
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".into()),
        TcActionAttribute::Options(vec![parameters]),
    ];
    action
}

/// IPv4 packets without options, from a name server to [`HOST_SIDE_PORTS`], stay here.
fn answers(index: u32, priority: u16, protocol: u32) -> TcMessage {
    let key = |off, mask, val| {
        let mut key = TcU32Key::default();
        (key.off, key.mask, key.val) = (off, mask, val);
        key
    };
    let first = u32::from(*HOST_SIDE_PORTS.start());
    let keys = vec![
        // Version and header length in words.
        key(0, 0xff00_0000, 0x4500_0000),
        key(8, 0x00ff_0000, protocol << 16),
        // Source and destination port: the range is the upper end of all ports.
        key(20, 0xffff_0000 | first, DNS_PORT << 16 | first),
    ];
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 3;
    selector.keys = keys;
    let options = vec![
        TcOption::U32(TcFilterU32Option::ClassId(TcHandle { major: 0, minor: 1 })),
        TcOption::U32(TcFilterU32Option::Selector(selector)),
    ];
    filter(index, priority, IP, "u32", options)
}
