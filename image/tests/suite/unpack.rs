//! Layers to EROFS: archives as tools write them, merged and read back.

use crate::support::stack::{self, blob, failure, source, try_unpack, unpacked};
use crate::support::tarball::{self, gzip, seal, Header, Tarball};
use hull_image::unpack::{
    merge, read_layer, Budget, FileOutput, LayerIndex, Limits, NoProgress, UnpackError,
    UnpackedLayer,
};
use hull_image::{DiffId, Digest};

// --- Parts of an image ---

/// A layer, read to files of its own at places of a larger file, as on a block device.
fn parts(tar: &[u8], number: usize) -> (std::fs::File, UnpackedLayer) {
    let file = tempfile::tempfile().expect("temporary file");
    let place = |base| FileOutput::at(file.try_clone().expect("clone"), base);
    let (mut data, mut index) = (place(0), place(INDEX_PLACE));
    let budget = Budget::new(&Limits::default());
    let read = read_layer(
        number,
        source(tar),
        &budget,
        &mut data,
        &mut index,
        &NoProgress,
    );
    (file, read.expect("read"))
}

const INDEX_PLACE: u64 = 1 << 30;

#[test]
fn the_parts_of_an_image_are_the_image_that_is_made_at_once() {
    use std::os::unix::fs::FileExt as _;
    let first = Tarball::new()
        .file("a", &[1; 5000])
        .file("d/x", b"lower")
        .file("zeros", &[0; 9000])
        .finish();
    let second = Tarball::new()
        .file("d/.wh..wh..opq", b"")
        .file("d/y", &[2; 4097])
        .finish();
    let empty = Tarball::new().file("d/.wh.none", b"").finish();
    // One layer twice: its content is there once.
    let stack = [&first, &empty, &second, &first];
    let whole = unpacked(&stack.map(Clone::clone));
    let read: Vec<_> = stack[..3]
        .iter()
        .enumerate()
        .map(|(n, tar)| parts(tar, n))
        .collect();
    let layers = [0, 1, 2, 0].map(|at: usize| {
        let (file, lengths) = &read[at];
        let id = DiffId::of(stack[at]);
        LayerIndex::from_file_range(file, INDEX_PLACE, *lengths, id, Digest::of(stack[at]))
    });
    let output = tempfile::tempfile().expect("temporary file");
    let mut place = FileOutput::new(output.try_clone().expect("clone"));
    let merged = merge(layers.into(), &Limits::default(), &mut place).expect("merge");
    let bytes = |file: &std::fs::File, from: u64, to: u64| {
        let mut bytes = vec![0; usize::try_from(to - from).expect("length")];
        // What was left out at the end reads as zeros.
        let mut at = 0;
        while let Ok(count @ 1..) = file.read_at(&mut bytes[at..], from + at as u64) {
            at += count;
        }
        bytes
    };
    let mut device = bytes(&output, 0, 4096);
    for (file, lengths) in &read {
        device.extend(bytes(file, 0, lengths.data_length));
    }
    device.extend(bytes(&output, 4096, merged.image_length));
    assert_eq!(merged.files, whole.unpacked.files);
    assert_eq!(device.len() as u64, whole.unpacked.image_length);
    let one = bytes(whole.file.as_file(), 0, whole.unpacked.image_length);
    assert!(device == one, "the device differs from the file");
}

// --- Whiteouts, opaque directories, replaced types ---

#[test]
fn removing_one_name_keeps_the_other() {
    let lower = Tarball::new()
        .file("A", b"keep")
        .hard_link("B", "A")
        .finish();
    let upper = Tarball::new().file(".wh.A", b"").finish();
    let stack = unpacked(&[lower, upper]);
    assert!(!stack.has("A"));
    assert_eq!(
        (stack.text("B"), stack.inode("B").links),
        ("keep".into(), 1)
    );
}

#[test]
fn whiteout_may_be_of_any_type() {
    let lower = Tarball::new()
        .file("f", b"1")
        .directory("d", 0o755)
        .file("d/x", b"")
        .finish();
    let upper = Tarball::new()
        .hard_link(".wh.f", "f")
        .entry(
            b".wh.d",
            &Header {
                kind: b'3',
                ..Header::default()
            },
            b"",
        )
        .file(".wh.nothing", b"")
        .file("no/such/.wh.folder", b"")
        .finish();
    let stack = unpacked(&[lower, upper]);
    assert_eq!(stack.names(""), Vec::<String>::new());
}

#[test]
fn opaque_marker_hides_lower_entries_wherever_it_stands() {
    let lower = Tarball::new()
        .file("d/old1", b"")
        .file("d/sub/old2", b"")
        .file("e", b"")
        .finish();
    let marker = |tar: Tarball| tar.file("d/.wh..wh..opq", b"");
    let content = |tar: Tarball| tar.file("d/new", b"n").file("d/sub/x", b"x");
    for upper in [
        marker(content(Tarball::new())),
        content(marker(Tarball::new())),
    ] {
        let stack = unpacked(&[lower.clone(), upper.finish()]);
        assert_eq!(stack.names("d"), ["new", "sub"]);
        assert_eq!(stack.names("d/sub"), ["x"]);
        assert!(stack.has("e"));
    }
}

#[test]
fn whiteout_and_replacement_in_one_layer_do_not_depend_on_order() {
    let lower = Tarball::new()
        .directory("d", 0o700)
        .file("d/old", b"")
        .file("f", b"old")
        .finish();
    let whiteouts = |tar: Tarball| tar.file(".wh.d", b"").file(".wh.f", b"");
    let content = |tar: Tarball| tar.file("d/new", b"").file("f", b"new");
    let first = unpacked(&[lower.clone(), whiteouts(content(Tarball::new())).finish()]);
    let last = unpacked(&[lower, content(whiteouts(Tarball::new())).finish()]);
    for stack in [first, last] {
        assert_eq!(stack.names("d"), ["new"]);
        assert_eq!(stack.inode("d").mode, 0o040_755, "a new, implied directory");
        assert_eq!(stack.text("f"), "new");
    }
}

#[test]
fn types_replace_each_other() {
    let lower = Tarball::new()
        .file("a/x", b"")
        .file("b", b"file")
        .symlink("c", "a")
        .finish();
    let upper = Tarball::new()
        .file("a", b"file")
        .directory("b", 0o711)
        .file("b/y", b"")
        .directory("c", 0o755)
        .finish();
    let stack = unpacked(&[lower, upper]);
    assert_eq!(stack.text("a"), "file");
    assert_eq!(stack.names("b"), ["y"]);
    assert_eq!(
        (stack.inode("b").mode, stack.inode("c").mode),
        (0o040_711, 0o040_755)
    );
    assert!(!stack.has("a/x"));
}

#[test]
fn directory_entry_merges_and_its_metadata_wins() {
    let lower = Tarball::new()
        .directory("d", 0o755)
        .file("d/low", b"")
        .finish();
    let upper = Tarball::new()
        .entry(
            b"d/",
            &Header {
                kind: b'5',
                mode: 0o1777,
                uid: 7,
                ..Header::default()
            },
            b"",
        )
        .finish();
    let stack = unpacked(&[lower, upper]);
    assert_eq!(
        (stack.inode("d").mode, stack.inode("d").uid),
        (0o041_777, 7)
    );
    assert!(stack.has("d/low"));
}

#[test]
fn same_file_twice_the_last_wins() {
    let stack = unpacked(&[Tarball::new().file("f", b"one").file("f", b"two").finish()]);
    assert_eq!(stack.text("f"), "two");
}

#[test]
fn hundred_and_thirty_layers_are_one_image() {
    let layers: Vec<_> = (0..130)
        .map(|n| Tarball::new().file(&n.to_string(), b"x").finish())
        .collect();
    assert_eq!(unpacked(&layers).names("").len(), 130);
}

// --- Paths ---

#[test]
fn absolute_and_dotted_paths_are_inside_the_root() {
    let stack = unpacked(&[Tarball::new()
        .file("/abs", b"")
        .file("./dot", b"")
        .file("a//b/./c/../d", b"")
        .finish()]);
    assert_eq!(stack.names(""), ["a", "abs", "dot"]);
    assert_eq!(stack.names("a/b"), ["d"]);
}

#[test]
fn paths_through_symbolic_links_stay_inside_the_root() {
    let lower = Tarball::new()
        .directory("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("up", "/../../usr");
    let upper = Tarball::new()
        .file("lib/f", b"1")
        .file("up/g", b"2")
        .hard_link("h", "up/lib/f")
        .finish();
    let stack = unpacked(&[lower.finish(), upper]);
    assert_eq!(stack.inode("lib").mode & 0o170_000, 0o120_000);
    assert_eq!(stack.names("usr"), ["g", "lib"]);
    assert_eq!(stack.inode("usr/lib/f").nid, stack.inode("h").nid);
}

#[test]
fn symbolic_links_are_never_followed_out() {
    let tar = Tarball::new()
        .symlink("evil", "/etc")
        .symlink("dots", "../../../..")
        .file("evil/x", b"")
        .finish();
    let stack = unpacked(&[tar]);
    assert_eq!(stack.names("etc"), ["x"], "inside the image");
    assert_eq!(stack.text("dots"), "../../../..");
}

#[test]
fn escapes_loops_and_bad_names_are_named() {
    let cases: [(Tarball, &str); 7] = [
        (Tarball::new().file("../x", b""), "leads out"),
        (Tarball::new().file("a/../../x", b""), "leads out"),
        (
            Tarball::new()
                .file("f", b"")
                .hard_link("l", "../../etc/passwd"),
            "leads out",
        ),
        (
            Tarball::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", b""),
            "levels of symbolic links",
        ),
        (Tarball::new().file(".wh.", b""), "names nothing"),
        (
            Tarball::new().symlink("s", ""),
            "target of the symbolic link",
        ),
        (
            Tarball::new().directory("d", 0o755).hard_link("l", "d"),
            "hard link to a directory",
        ),
    ];
    for (tar, want) in cases {
        let error = failure(&[tar.finish()]).to_string();
        assert!(
            error.contains(want) && error.starts_with("layer sha256:"),
            "{error}"
        );
    }
}

#[test]
fn names_up_to_255_bytes_fill_directories_right() {
    let mut tar = Tarball::new();
    for n in 0..80 {
        let name = format!("long/{n:0>255}");
        tar = tar.pax(&[("path", name.as_bytes())]).file("cut", b"");
    }
    for n in 0..450 {
        tar = tar.symlink(&format!("links/{n}"), "somewhere");
    }
    for n in 0..20_000 {
        tar = tar.file(&format!("many/{n}"), b"");
    }
    let stack = unpacked(&[tar.finish()]);
    for (folder, count) in [("long", 80), ("links", 450), ("many", 20_000)] {
        assert_eq!(stack.names(folder).len(), count);
    }
    let name = "n".repeat(256);
    let error = failure(&[Tarball::new()
        .pax(&[("path", name.as_bytes())])
        .file("cut", b"")
        .finish()]);
    assert!(
        matches!(error, UnpackError::NameTooLong { length: 256, .. }),
        "{error}"
    );
}

#[test]
fn limits_are_named() {
    let deep = "a/".repeat(100_000) + "f";
    let deep = Tarball::new()
        .pax(&[("path", deep.as_bytes())])
        .file("cut", b"")
        .finish();
    let error = failure(std::slice::from_ref(&deep)).to_string();
    assert!(error.contains("path length limit of 4096"), "{error}");
    let unlimited = Limits {
        path_length: u32::MAX,
        path_depth: u32::MAX,
        ..Limits::default()
    };
    // Read back by the writer's own count only: 100,000 full paths would fill the memory.
    let file = tempfile::tempfile().expect("file");
    let mut output = hull_image::unpack::FileOutput::new(file);
    let progress = hull_image::unpack::NoProgress;
    let unpacked =
        hull_image::unpack::unpack(vec![source(&deep)], &unlimited, &mut output, &progress);
    assert_eq!(unpacked.expect("no limit").files, 100_002);
    let few = |limits: Limits| {
        let tar = Tarball::new()
            .file("a/b/c", &[1; 5000])
            .file("d", b"")
            .finish();
        try_unpack(vec![source(&tar)], &limits)
            .map(|_| ())
            .expect_err("limit")
            .to_string()
    };
    assert!(few(Limits {
        files: 1,
        ..Limits::default()
    })
    .contains("files limit of 1"));
    assert!(few(Limits {
        bytes: 4000,
        ..Limits::default()
    })
    .contains("bytes limit of 4000"));
    assert!(few(Limits {
        path_depth: 2,
        ..Limits::default()
    })
    .contains("path depth limit of 2"));
    assert!(few(Limits {
        stored: 8000,
        ..Limits::default()
    })
    .contains("No space left on device: there is room for 8000 bytes"));
    assert!(few(Limits {
        memory: 300,
        ..Limits::default()
    })
    .contains("memory limit of 300"));
}

// --- Links ---

#[test]
fn implied_parents_are_plain_directories() {
    let stack = unpacked(&[Tarball::new()
        .file("a/b/f", b"data")
        .hard_link("x/y/l", "a/b/f")
        .finish()]);
    for path in ["a", "a/b", "x", "x/y"] {
        let inode = stack.inode(path);
        assert_eq!((inode.mode, inode.uid, inode.gid), (0o040_755, 0, 0));
    }
    assert_eq!(stack.inode("a/b/f").nid, stack.inode("x/y/l").nid);
    assert_eq!(stack.inode("a/b/f").links, 2);
}

#[test]
fn hard_link_to_a_symbolic_link_is_one() {
    let stack = unpacked(&[Tarball::new()
        .symlink("s", "target")
        .hard_link("h", "s")
        .finish()]);
    assert_eq!(
        (stack.text("h"), stack.text("s")),
        ("target".into(), "target".into())
    );
    assert_eq!(stack.inode("h").nid, stack.inode("s").nid);
}

#[test]
fn hard_links_reach_into_lower_layers_and_replace_what_holds_them() {
    let lower = Tarball::new()
        .file("f", b"1")
        .file("d/inner", b"2")
        .finish();
    let upper = Tarball::new()
        .hard_link("g", "/f")
        .hard_link("g", "f")
        .hard_link("d", "d/inner")
        .finish();
    let stack = unpacked(&[lower, upper]);
    assert_eq!(stack.inode("g").links, 2);
    assert_eq!((stack.text("d"), stack.inode("d").links), ("2".into(), 1));
}

#[test]
fn missing_hard_link_target_is_named() {
    let error = failure(&[Tarball::new().hard_link("l", "nowhere").finish()]);
    assert!(error.to_string().contains("\"nowhere\""), "{error}");
    assert!(matches!(error, UnpackError::MissingLinkTarget { .. }));
}

// --- Metadata ---

#[test]
fn modes_owners_and_device_numbers_are_exact() {
    let with = |kind, mode, uid| Header {
        kind,
        mode,
        uid,
        gid: uid,
        ..Header::default()
    };
    let device = |kind, device| Header {
        kind,
        device,
        mode: 0o660,
        ..Header::default()
    };
    let tar = Tarball::new()
        .entry(b"ro/", &with(b'5', 0o555, 0), b"")
        .entry(b"ro/f", &with(b'0', 0, 65534), b"x")
        .entry(b"suid", &with(b'0', 0o4755, 0), b"")
        .entry(b"sgid/", &with(b'5', 0o2755, 1), b"")
        .entry(b"sticky/", &with(b'5', 0o1777, 4_000_000_000), b"")
        .entry(b"null", &device(b'3', (1, 3)), b"")
        .entry(b"disk", &device(b'4', (259, 300_000)), b"")
        .entry(b"pipe", &device(b'6', (0, 0)), b"")
        .finish();
    let stack = unpacked(&[tar]);
    let stat = |path: &str| {
        (
            stack.inode(path).mode,
            stack.inode(path).uid,
            stack.inode(path).gid,
        )
    };
    assert_eq!(stat("ro"), (0o040_555, 0, 0));
    assert_eq!(stat("ro/f"), (0o100_000, 65534, 65534));
    assert_eq!(stat("suid"), (0o104_755, 0, 0));
    assert_eq!(stat("sgid"), (0o042_755, 1, 1));
    assert_eq!(stat("sticky"), (0o041_777, 4_000_000_000, 4_000_000_000));
    assert_eq!(stack.inode("null").rdev, 0x103);
    // The kernel's new_encode_dev(259, 300000).
    assert_eq!(
        stack.inode("disk").rdev,
        (300_000 & 0xff) | 259 << 8 | (300_000 & !0xff) << 12
    );
    assert_eq!(stack.inode("pipe").mode, 0o010_660);
}

#[test]
fn times_have_nanoseconds_and_signs() {
    let stack = unpacked(&[Tarball::new()
        .pax(&[("mtime", b"1350244992.023960108")])
        .file("a", b"")
        .pax(&[("mtime", b"-1.5")])
        .file("b", b"")
        .file("c", b"")
        .finish()]);
    assert_eq!(stack.inode("a").mtime, (1_350_244_992, 23_960_108));
    assert_eq!(stack.inode("b").mtime, (-2, 500_000_000));
    assert_eq!(stack.inode("c").mtime, (1_000_000_000, 0));
}

#[test]
fn extended_attributes_are_kept_and_may_be_empty_or_large() {
    let capability =
        b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let large = vec![b'v'; 9000];
    let stack = unpacked(&[Tarball::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.overlay.origin", b""),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("LIBARCHIVE.xattr.user.l", b"aGk="),
            ("SCHILY.xattr.user.large", &large),
        ])
        .file("f", b"content")
        .pax(&[("SCHILY.xattr.user.d", b"1")])
        .directory("d/", 0o755)
        .finish()]);
    let xattrs = &stack.inode("f").xattrs;
    assert_eq!(xattrs["security.capability"], capability);
    assert_eq!(xattrs["user.overlay.origin"], b"");
    assert_eq!(
        (&xattrs["user.l"][..], &xattrs["user.large"]),
        (&b"hi"[..], &large)
    );
    assert_eq!(xattrs.len(), 4);
    assert_eq!(stack.text("f"), "content");
    assert_eq!(stack.inode("d").xattrs["user.d"], b"1");
}

#[test]
fn long_names_and_targets_are_whole() {
    let (target, path) = (
        "t".repeat(180),
        format!("{}/{}", "p".repeat(200), "q".repeat(199)),
    );
    let stack = unpacked(&[Tarball::new()
        .gnu_long(b'K', target.as_bytes())
        .symlink("gnu", "t")
        .gnu_long(b'L', path.as_bytes())
        .file("cut", b"long")
        .pax(&[
            ("path", b"pax"),
            ("linkpath", target.as_bytes()),
            ("uid", b"77"),
        ])
        .symlink("other", "other")
        .finish()]);
    assert_eq!(stack.text("gnu"), target);
    assert_eq!(stack.text(&path), "long");
    assert_eq!((stack.text("pax"), stack.inode("pax").uid), (target, 77));
    assert!(!stack.has("other"));
}

#[test]
fn prefix_field_counts_in_posix_headers_only() {
    let mut posix = tarball::header_block(b"name", &Header::default(), 0);
    posix[345..351].copy_from_slice(b"prefix");
    seal(&mut posix);
    let mut gnu = posix;
    gnu[..4].copy_from_slice(b"gnus");
    gnu[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut gnu);
    let stack = unpacked(&[Tarball::new().raw(&posix).raw(&gnu).finish()]);
    assert!(stack.has("prefix/name") && stack.has("gnus"));
}

// --- Content ---

#[test]
fn content_is_right_at_every_length_around_blocks() {
    let lengths = [
        0,
        1,
        511,
        512,
        513,
        4095,
        4096,
        4097,
        8192,
        1 << 20,
        (1 << 20) + 1,
    ];
    let content = |length: usize| {
        (0..length)
            .map(|n| (n * 7 + n / 251 + 1) as u8)
            .collect::<Vec<u8>>()
    };
    let tar = lengths.iter().fold(Tarball::new(), |tar, n| {
        tar.file(&n.to_string(), &content(*n))
    });
    let stack = unpacked(&[tar.finish()]);
    for length in lengths {
        assert!(
            stack.content(&length.to_string()) == content(length),
            "{length}"
        );
    }
}

#[test]
fn sizes_beyond_the_octal_field_are_understood() {
    let mut base_256 = tarball::header_block(b"small", &Header::default(), 5);
    base_256[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    seal(&mut base_256);
    let pax = Header {
        size: Some(0),
        ..Header::default()
    };
    let tar = Tarball::new()
        .raw(&base_256)
        .raw(b"small")
        .pax(&[("size", b"3")])
        .entry(b"pax", &pax, b"pax");
    let stack = unpacked(&[tar.file("after", b"after").finish()]);
    for name in ["small", "pax", "after"] {
        assert_eq!(stack.text(name), name);
    }

    // 9 GiB, as its header says it before any of it is read.
    let size = 9_u64 << 30;
    let huge = Tarball::new()
        .entry(
            b"big",
            &Header {
                size: Some(size),
                ..Header::default()
            },
            b"",
        )
        .unfinished();
    let limits = Limits {
        bytes: size - 1,
        ..Limits::default()
    };
    let error = try_unpack(vec![source(&huge)], &limits)
        .map(|_| ())
        .expect_err("limit")
        .to_string();
    assert!(
        error.contains("bytes limit") && error.contains("big"),
        "{error}"
    );
}

#[test]
fn zeros_take_no_space() {
    let stack = unpacked(&[Tarball::new()
        .file("zeros", &vec![0; 8 << 20])
        .file("after", b"x")
        .finish()]);
    assert_eq!(stack.content("zeros"), vec![0; 8 << 20]);
    assert_eq!(stack.text("after"), "x");
    assert!(stack.allocated() < 1 << 20, "{}", stack.allocated());
}

fn sparse_1_0(map: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for (offset, length) in map {
        text += &format!("{offset}\n{length}\n");
    }
    let mut data = text.into_bytes();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

#[test]
fn gnu_sparse_files_of_all_forms_are_equal() {
    const SIZE: u64 = 1 << 30;
    let offset = 700 << 20;
    let data: Vec<u8> = (0..4096_u32).map(|n| (n % 255 + 1) as u8).collect();
    let size = SIZE.to_string();
    let pax_1_0 = Tarball::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .file(
            "GNUSparseFile.0/s",
            &[sparse_1_0(&[(offset, 4096), (SIZE, 0)]), data.clone()].concat(),
        );
    let map = format!("{offset},4096,{SIZE},0");
    let pax_0_1 = Tarball::new()
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.name", b"s"),
        ])
        .file("GNUSparseFile.0/s", &data);
    let offset_text = offset.to_string();
    let pax_0_0 = Tarball::new()
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.offset", offset_text.as_bytes()),
            ("GNU.sparse.numbytes", b"4096"),
        ])
        .file("s", &data);
    let old = {
        let mut header = tarball::header_block(
            b"s",
            &Header {
                kind: b'S',
                ..Header::default()
            },
            4096,
        );
        header[257..265].copy_from_slice(b"ustar  \0");
        header[386..398].copy_from_slice(format!("{offset:011o}\0").as_bytes());
        header[398..410].copy_from_slice(format!("{:011o}\0", 4096).as_bytes());
        header[483..495].copy_from_slice(format!("{SIZE:011o}\0").as_bytes());
        seal(&mut header);
        Tarball::new().raw(&header).raw(&data)
    };
    for tar in [pax_1_0, pax_0_1, pax_0_0, old] {
        let stack = unpacked(&[tar.file("after", b"after").finish()]);
        let inode = stack.inode("s").clone();
        assert_eq!(inode.size, SIZE);
        assert!(stack.image().read(&inode, offset, 4096) == data);
        assert!(stack
            .image()
            .read(&inode, offset - 65536, 65536)
            .iter()
            .all(|byte| *byte == 0));
        assert!(stack
            .image()
            .read(&inode, offset + 4096, 65536)
            .iter()
            .all(|byte| *byte == 0));
        assert_eq!(stack.text("after"), "after");
        assert!(stack.allocated() < 1 << 20);
    }
}

#[test]
fn sparse_files_with_many_pieces_are_right() {
    let pieces = [
        (0, 10),
        (5000, 3),
        (70_000, 9000),
        (200_000, 1),
        (399_999, 1),
    ];
    let size = 400_000_u64;
    let mut whole = vec![0; size as usize];
    let mut stored = Vec::new();
    for (n, (offset, length)) in pieces.iter().enumerate() {
        let data = vec![n as u8 + 1; *length as usize];
        whole[*offset as usize..(*offset + *length) as usize].copy_from_slice(&data);
        stored.extend(data);
    }
    let size_text = size.to_string();
    let stack = unpacked(&[Tarball::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.realsize", size_text.as_bytes()),
        ])
        .file("s", &[sparse_1_0(&pieces), stored].concat())
        .file("after", b"after")
        .finish()]);
    assert!(stack.content("s") == whole);
    assert_eq!(stack.text("after"), "after");
}

#[test]
fn broken_sparse_maps_are_refused() {
    let sparse = |map: &[(u64, u64)], size: &str, data: &[u8]| {
        let tar = Tarball::new()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.realsize", size.as_bytes()),
            ])
            .file("s", &[sparse_1_0(map), data.to_vec()].concat());
        failure(&[tar.finish()]).to_string()
    };
    for (map, size, data) in [
        (&[(0, 10), (5, 10)][..], "100", &[1; 20][..]),
        (&[(0, 10)], "100", &[1; 9]),
        (&[(95, 10)], "100", &[1; 10]),
        (&[(u64::MAX, 10)], "100", &[1; 10]),
        (&[], "18446744073709551615", &[]),
    ] {
        let error = sparse(map, size, data);
        assert!(error.contains("sparse map does not fit"), "{error}");
    }
}

// --- Streams ---

#[test]
fn compressed_layers_give_the_same_image() {
    use ruzstd::encoding::{compress_to_vec, CompressionLevel};
    let tar = Tarball::new()
        .file("a", &[1; 100_000])
        .file("b", b"2")
        .finish();
    let (first, second) = tar.split_at(3000);
    let zstd = |part: &[u8]| compress_to_vec(part, CompressionLevel::Fastest);
    let blobs = [
        tar.clone(),
        gzip(&tar),
        [gzip(first), gzip(second)].concat(),
        zstd(&tar),
        [zstd(first), zstd(second)].concat(),
    ];
    let images: Vec<Vec<u8>> = blobs
        .iter()
        .map(|bytes| {
            let stack = try_unpack(vec![blob(bytes, DiffId::of(&tar))], &Limits::default())
                .expect("unpack");
            std::fs::read(stack.file.path()).expect("read")
        })
        .collect();
    assert!(
        images.windows(2).all(|pair| pair[0] == pair[1]),
        "the same bytes"
    );
}

#[test]
fn damaged_blobs_name_their_layer_and_leave_no_superblock() {
    let tar = Tarball::new()
        .file(
            "a",
            &(0..50_000_u32)
                .flat_map(|n| n.to_le_bytes())
                .collect::<Vec<u8>>(),
        )
        .finish();
    let whole = gzip(&tar);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    for bytes in [&whole[..whole.len() * 6 / 10], &flipped] {
        let layer = blob(bytes, DiffId::of(&tar));
        let digest = layer.digest.to_string();
        let error = try_unpack(vec![layer], &Limits::default())
            .map(|_| ())
            .expect_err("damaged");
        assert!(error.to_string().contains(&digest), "{error}");
    }
    let cut = &tar[..tar.len() - 5000];
    let file = tempfile::NamedTempFile::new().expect("file");
    let mut output = hull_image::unpack::FileOutput::new(file.reopen().expect("reopen"));
    let error = hull_image::unpack::unpack(
        vec![source(cut)],
        &Limits::default(),
        &mut output,
        &hull_image::unpack::NoProgress,
    );
    assert!(error
        .map(|_| ())
        .expect_err("cut")
        .to_string()
        .contains("ends inside an entry"));
    assert!(std::fs::read(file.path())
        .expect("read")
        .iter()
        .take(4096)
        .all(|byte| *byte == 0));
}

#[test]
fn diff_id_covers_what_lies_behind_the_end() {
    let mut tar = Tarball::new().file("a", b"1").finish();
    tar.extend_from_slice(&[7; 3000]);
    assert!(unpacked(&[tar.clone()]).has("a"));
    let want = DiffId::of(&tar);
    tar.push(8);
    let error = try_unpack(vec![blob(&tar, want)], &Limits::default())
        .map(|_| ())
        .expect_err("changed");
    assert!(
        matches!(error, UnpackError::DiffIdMismatch { .. }),
        "{error}"
    );
}

#[test]
fn archives_may_end_early_but_not_in_the_middle() {
    let tar = Tarball::new().file("a", b"1");
    assert!(unpacked(&[tar.clone().unfinished()]).has("a"));
    assert!(unpacked(&[tar.clone().raw(&[0; 512]).unfinished()]).has("a"));
    assert_eq!(unpacked(&[Vec::new()]).unpacked.files, 1);
    let single = tar.raw(&[0; 512]).file("b", b"").finish();
    assert!(failure(&[single])
        .to_string()
        .contains("single block of zeros"));
    let mut broken = Tarball::new().file("a", b"1").finish();
    broken[0] ^= 1;
    assert!(failure(&[broken]).to_string().contains("checksum"));
}

#[test]
fn unpacking_twice_gives_the_same_bytes() {
    let layers = [
        Tarball::new().file("d/a", b"1").symlink("s", "x").finish(),
        Tarball::new().file(".wh.s", b"").finish(),
    ];
    let read = |stack: stack::Stack| std::fs::read(stack.file.path()).expect("read");
    assert!(read(unpacked(&layers)) == read(unpacked(&layers)));
}
