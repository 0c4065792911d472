//! Against the server of a shared directory: FUSE requests that no kernel would make.
//!
//! The directory holds `f`, `d/` and `link`, which leads to a file beside the directory. That file
//! holds [`CANARY`]: no answer may. `swap/` and `swapped`, a link to what is beside the directory,
//! change places all the time.

use super::{with_share, Attack, Outcome};
use crate::code::{Code, Width};
use crate::driver::{available, descriptor, parts, reg, window, DATA, NEXT, WRITE};
use hull_vm_config::Slot;

/// What the file outside of the directory holds.
pub(crate) const CANARY: [u8; 4] = [0xca, 0x9a, 0x21, 0xe5];

const LAYER: &str = "virtiofsd in its namespaces";

pub(super) const ATTACKS: &[Attack] = &[
    with_share(
        "names_that_lead_out_of_the_share",
        LAYER,
        "looks up, makes, links, renames and removes `..`, `../canary`, `a/b`, absolute paths, links, empty and endless names",
        names,
    ),
    with_share(
        "nodes_and_handles_that_were_never_given",
        LAYER,
        "opens, reads, lists and changes nodes 0 to 40 and all ones by handles 0 to 3 and all ones",
        nodes,
    ),
    with_share(
        "links_in_the_place_of_directories",
        LAYER,
        "looks up, makes, reads and removes through a directory that another side swaps with a link to the outside all the time, 60 times",
        swapped,
    ),
    malformed(
        "names_without_an_end",
        "names without their zero, or with one inside",
        endless,
    ),
    malformed(
        "every_operation_with_any_body",
        "operations 0 to 60, CUSE's and all ones, before and after INIT, with bodies of nothing, zeros and ones",
        operations,
    ),
    malformed(
        "requests_of_false_length",
        "headers that say 0, 39 or 4 GiB, answers without room, reads of 4 GiB, writes that carry less than they say",
        lengths,
    ),
    with_share(
        "device_reset_while_files_are_read",
        "shadow queue",
        "200 times: eight reads under way, a reset at once, INIT again",
        resets,
    ),
];

/// What is no request at all ends the server, and the VM goes with it.
const fn malformed(name: &'static str, what: &'static str, write: fn(&mut Code)) -> Attack {
    Attack {
        outcome: Outcome::Contained,
        ..with_share(name, "shadow queue and virtiofsd", what, write)
    }
}

mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const CREATE: u32 = 35;
    pub(super) const READDIRPLUS: u32 = 44;
    pub(super) const RENAME2: u32 = 45;
}

const REQUESTS: u32 = 1;
const ROOT: u64 = 1;
const ANSWER: u32 = DATA + 0x1_0000;
const ROOM: u32 = 0x1_0000;

/// A driver that makes one request after the other.
struct Client<'a> {
    code: &'a mut Code,
    asked: u16,
}

impl<'a> Client<'a> {
    fn new(code: &'a mut Code) -> Self {
        code.clear(2).drive(window(Slot::FS), 2);
        Self { code, asked: 0 }
    }

    fn started(code: &'a mut Code) -> Self {
        let mut client = Self::new(code);
        client.init();
        client
    }

    fn init(&mut self) {
        let mut body = Vec::new();
        for word in [7u32, 38, 0x2_0000, 0] {
            body.extend(word.to_le_bytes());
        }
        body.extend([0; 48]);
        self.ask(op::INIT, ROOT, &body);
    }

    /// A whole request and the room for its answer, as the descriptors say it.
    fn send(&mut self, request: &[u8], length: u32, room: u32) {
        let [table, ring, used] = parts(REQUESTS);
        self.asked += 1;
        let mut chain = vec![descriptor(DATA.into(), length, 0, 0)];
        if room > 0 {
            chain[0] = descriptor(DATA.into(), length, NEXT, 1);
            chain.push(descriptor(ANSWER.into(), room, WRITE, 0));
        }
        self.code
            .place(DATA, request)
            .place(table, &chain.concat())
            .place(ring, &available(self.asked, &[0; 16]))
            .set(window(Slot::FS) + reg::NOTIFY, REQUESTS)
            .wait_used(used, self.asked, window(Slot::FS));
    }

    fn ask(&mut self, operation: u32, node: u64, body: &[u8]) {
        let request = request(operation, node, body);
        let length = u32::try_from(request.len()).unwrap();
        self.send(&request, length, ROOM);
    }

    /// The answer does not hold what is outside.
    fn no_canary(&mut self) {
        let canary = u32::from_le_bytes(CANARY);
        self.code.sweep(ANSWER, ANSWER + 256, 1, |code| {
            code.load_at_edi(Width::Long)
                .forbid(canary, "a file outside of the share was read");
        });
    }

    /// Opens a node and reads from it, by a handle of the guest's choice.
    fn read(&mut self, node: u64, handle: u64) {
        self.ask(op::OPEN, node, &[0; 8]);
        let mut body = handle.to_le_bytes().to_vec();
        body.extend(0u64.to_le_bytes());
        body.extend(4096u32.to_le_bytes());
        body.extend([0; 20]);
        self.ask(op::READ, node, &body);
        self.no_canary();
    }
}

fn request(operation: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(40 + body.len()).unwrap();
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(operation.to_le_bytes());
    bytes.extend(7u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

fn bad_names() -> Vec<Vec<u8>> {
    let long = [b'x'; 300];
    let names: [&[u8]; 12] = [
        b"..",
        b".",
        b"",
        b"a/b",
        b"../canary",
        b"../../../../etc/passwd",
        b"/etc/passwd",
        b"link",
        b"link/x",
        b"d/../../canary",
        &long,
        b"\xff\xfe",
    ];
    let ended = |name: &&[u8]| [name, &b"\0"[..]].concat();
    names.iter().map(ended).collect()
}

fn names(code: &mut Code) {
    let mut client = Client::started(code);
    for name in bad_names() {
        let with = |before: &[u8], after: &[u8]| [before, &name, after].concat();
        client.ask(op::LOOKUP, ROOT, &name);
        client.ask(
            op::MKNOD,
            ROOT,
            &with(&[0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], b""),
        );
        client.ask(op::MKDIR, ROOT, &with(&[0xff, 1, 0, 0, 0, 0, 0, 0], b""));
        client.ask(
            op::CREATE,
            ROOT,
            &with(&[1, 0, 0, 0, 0xa4, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], b""),
        );
        client.ask(op::SYMLINK, ROOT, &with(b"", b"../canary\0"));
        client.ask(op::LINK, ROOT, &with(&2u64.to_le_bytes(), b""));
        client.ask(
            op::RENAME,
            ROOT,
            &with(&[1, 0, 0, 0, 0, 0, 0, 0], b"../stolen\0"),
        );
        client.ask(
            op::RENAME,
            ROOT,
            &with(&[1, 0, 0, 0, 0, 0, 0, 0, b'f', 0], b""),
        );
        client.ask(
            op::RENAME2,
            ROOT,
            &with(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], b"f\0"),
        );
        client.ask(op::UNLINK, ROOT, &name);
        client.ask(op::RMDIR, ROOT, &name);
        client.ask(op::GETXATTR, ROOT, &with(&[64, 0, 0, 0, 0, 0, 0, 0], b""));
        client.ask(
            op::SETXATTR,
            ROOT,
            &with(&[4, 0, 0, 0, 0, 0, 0, 0], b"abcd"),
        );
    }
    // The link by itself, then whatever nodes came of all that.
    client.ask(op::LOOKUP, ROOT, b"link\0");
    for node in 2..12 {
        client.ask(op::READLINK, node, &[]);
        for handle in 0..3 {
            client.read(node, handle);
        }
        client.ask(op::LOOKUP, node, b"..\0");
    }
}

/// See [`crate::share`] for who swaps them.
fn swapped(code: &mut Code) {
    let base = window(Slot::FS);
    Client::started(code);
    // The rings go on from where INIT left them, so each round begins anew.
    code.repeat(60, |code| {
        code.set(base + reg::STATUS, 0);
        let mut client = Client::started(code);
        for name in [&b"swap\0"[..], b"swapped\0"] {
            client.ask(op::LOOKUP, ROOT, name);
        }
        for node in 2..4 {
            client.ask(op::LOOKUP, node, b"canary\0");
            client.ask(op::MKDIR, node, b"\xff\x01\0\0\0\0\0\0made\0");
            client.ask(op::SYMLINK, node, b"stolen\0canary\0");
            client.ask(op::RENAME, node, b"\x01\0\0\0\0\0\0\0canary\0f\0");
            client.ask(op::UNLINK, node, b"canary\0");
            client.ask(op::RMDIR, node, b"made\0");
        }
        for node in 2..8 {
            client.ask(op::READLINK, node, &[]);
            client.read(node, 0);
        }
    });
}

fn endless(code: &mut Code) {
    for name in [&b"no end"[..], b"f\0hidden\0", b""] {
        let mut client = Client::started(code);
        for operation in [op::LOOKUP, op::UNLINK, op::RMDIR, op::RENAME, op::LINK] {
            client.ask(operation, ROOT, name);
        }
    }
}

fn nodes(code: &mut Code) {
    let mut client = Client::started(code);
    client.ask(op::LOOKUP, ROOT, b"f\0");
    // What may be read is read: the suite would notice.
    client.read(2, 0);
    let first = u32::from_le_bytes(*b"of t");
    let code = client.code.load(Width::Long, ANSWER + 16);
    code.expect(u32::MAX, first, "the file of the share cannot be read");
    for node in (0..=40).chain([1 << 32, u64::MAX]) {
        client.ask(op::GETATTR, node, &[0; 16]);
        client.ask(op::OPENDIR, node, &[0; 8]);
        client.ask(op::LOOKUP, node, b"..\0");
        client.ask(op::FORGET, node, &[0xff; 8]);
    }
    for handle in [0, 1, 2, 3, u64::MAX] {
        for node in [0, 1, 2, 3, u64::MAX] {
            client.read(node, handle);
            let mut body = handle.to_le_bytes().to_vec();
            body.extend([0; 8]);
            body.extend(4096u32.to_le_bytes());
            body.extend([0; 20]);
            client.ask(op::READDIR, node, &body);
            client.ask(op::READDIRPLUS, node, &body);
            let mut change = [0xff; 88];
            change[8..16].copy_from_slice(&handle.to_le_bytes());
            client.ask(op::SETATTR, node, &change);
        }
    }
}

fn operations(code: &mut Code) {
    let all = || (0..=60).chain([4096, 4097, u32::MAX]);
    for initialised in [false, true] {
        let mut client = match initialised {
            false => Client::new(code),
            true => Client::started(code),
        };
        for operation in all() {
            for body in [&[][..], &[0; 128], &[0xff; 128]] {
                client.ask(operation, ROOT, body);
            }
        }
    }
}

fn lengths(code: &mut Code) {
    let mut client = Client::started(code);
    for (said, carried) in [
        (0, 40),
        (39, 40),
        (u32::MAX, 40),
        (40, 1),
        (40, 39),
        (4096, 40),
    ] {
        for room in [0, 1, 15, 16, ROOM] {
            let mut whole = request(op::GETATTR, ROOT, &[0; 16]);
            whole[..4].copy_from_slice(&u32::to_le_bytes(said));
            client.send(&whole, carried, room);
        }
    }
    for size in [0, 1, 0x1_0000, 0x20_0001, u32::MAX] {
        for operation in [op::READ, op::READDIR, op::READDIRPLUS, op::WRITE] {
            let mut body = [0; 40];
            body[16..20].copy_from_slice(&size.to_le_bytes());
            client.ask(operation, ROOT, &body);
        }
        client.ask(
            op::GETXATTR,
            ROOT,
            &[&size.to_le_bytes()[..], &[0; 4], b"user.x\0"].concat(),
        );
        client.ask(
            op::SETXATTR,
            ROOT,
            &[&size.to_le_bytes()[..], &[0; 4], b"user.x\0"].concat(),
        );
    }
}

fn resets(code: &mut Code) {
    let base = window(Slot::FS);
    let [table, ring, _] = parts(REQUESTS);
    let content = request(op::GETATTR, ROOT, &[0; 16]);
    let length = u32::try_from(content.len()).unwrap();
    let chain = [
        descriptor(DATA.into(), length, NEXT, 1),
        descriptor(ANSWER.into(), 128, WRITE, 0),
    ];
    code.clear(2)
        .place(DATA, &content)
        .place(table, &chain.concat())
        .place(ring, &available(8, &[0; 8]))
        .repeat(200, |code| {
            code.drive(base, 2)
                .set(base + reg::NOTIFY, REQUESTS)
                .set(base + reg::STATUS, 0);
        });
    let mut client = Client::started(code);
    client.ask(op::LOOKUP, ROOT, b"f\0");
}
