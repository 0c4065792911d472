#!/usr/bin/env python3
"""usage: archives.py SCENARIO OUT.tar

Writes an OCI layout archive (for `hull load`) whose layers are the named scenario: good and bad
layers that image builders and attackers make. Each image has busybox below the scenario's layers,
so that its content can be looked at from inside.
"""
import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

MEDIA = "application/vnd.oci.image"


def entry(name, kind=tarfile.REGTYPE, data=b"", mode=0o644, uid=0, gid=0, link="", mtime=1_600_000_000,
          pax=None, device=(0, 0)):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid, info.linkname = kind, mode, uid, gid, link
    info.mtime, info.size = mtime, len(data)
    info.pax_headers = dict(pax or {})
    info.devmajor, info.devminor = device
    return info, data


def directory(name, mode=0o755, **more):
    return entry(name, tarfile.DIRTYPE, mode=mode, **more)


def layer(*entries, format=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def busybox_layer():
    names = ["sh", "ls", "cat", "stat", "readlink", "sha256sum", "wc", "find", "echo", "id", "test", "env",
             "head", "tail", "sort", "getfattr", "cmp", "du", "od", "tr", "true", "sleep", "mount", "dd"]
    return layer(directory("bin"), directory("tmp", mode=0o1777), directory("etc"),
                 entry("bin/busybox", data=Path("/bin/busybox").read_bytes(), mode=0o755),
                 *[entry(f"bin/{n}", tarfile.LNKTYPE, link="bin/busybox", mode=0o755) for n in names])


def compressed(raw, how):
    """`zstd` is written as two frames, as builders that work piece by piece do."""
    if how == "gzip":
        return gzip.compress(raw, 1, mtime=0)
    if how == "zstd":
        half = len(raw) // 2
        return b"".join(subprocess.run(["zstd", "-q", "-c"], input=part, stdout=subprocess.PIPE, check=True).stdout
                        for part in (raw[:half], raw[half:]))
    return raw


class Packed(NamedTuple):
    """A layer that is too large for memory: its blob, and the sum of what that unpacks to."""
    blob: bytes
    sha256: str


class Layout:
    """An OCI image layout in memory."""

    def __init__(self):
        self.blobs = {}

    def add(self, data, media_type):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def document(self, value, media_type):
        return self.add(json.dumps(value).encode(), media_type)

    def image(self, layers, *, architecture="amd64", variant=None, os="linux", config_extra=None, compress="gzip",
              diff_ids=None, media=None):
        """The manifest's descriptor, and those of the layers."""
        suffix = {"gzip": "+gzip", "zstd": "+zstd"}.get(compress, "")
        packed = [each if isinstance(each, Packed) else Packed(compressed(each, compress), hashlib.sha256(each).hexdigest())
                  for each in layers]
        descriptors = [self.add(each.blob, media or f"{MEDIA}.layer.v1.tar{suffix}") for each in packed]
        ids = ["sha256:" + each.sha256 for each in packed]
        platform = {"architecture": architecture, "os": os, **({"variant": variant} if variant else {})}
        config = self.document({**platform, "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], **(config_extra or {})},
                                "rootfs": {"type": "layers", "diff_ids": diff_ids or ids or None}}, f"{MEDIA}.config.v1+json")
        manifest = self.document({"schemaVersion": 2, "mediaType": f"{MEDIA}.manifest.v1+json", "config": config,
                                  "layers": descriptors}, f"{MEDIA}.manifest.v1+json")
        return {**manifest, "platform": platform}, descriptors

    def index(self, entries):
        return self.document({"schemaVersion": 2, "mediaType": f"{MEDIA}.index.v1+json", "manifests": entries},
                             f"{MEDIA}.index.v1+json")

    def save(self, out, entry):
        name = Path(out).stem
        annotations = {"org.opencontainers.image.ref.name": f"{name}:latest",
                       "io.containerd.image.name": f"docker.io/library/{name}:latest"}
        index = {"schemaVersion": 2, "manifests": [{**entry, "annotations": annotations}]}
        with tarfile.open(out, "w") as tar:
            def put(path, data):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            put("index.json", json.dumps(index).encode())
            for digest, data in self.blobs.items():
                put("blobs/sha256/" + digest.split(":")[1], data)


def write_image(out, layers, *, damage=None, **more):
    """`damage` changes the last layer's blob after its digest was taken."""
    layout = Layout()
    manifest, descriptors = layout.image(layers, **more)
    if damage:
        last = descriptors[-1]["digest"]
        layout.blobs[last] = damage(layout.blobs[last])
    layout.save(out, {key: value for key, value in manifest.items() if key != "platform"})


def sparse_1_0(name, size, chunks):
    """A GNU sparse 1.0 entry: chunks are (offset, data)."""
    table = "".join(f"{o}\n{len(d)}\n" for o, d in chunks)
    head = f"{len(chunks)}\n{table}".encode()
    head += b"\0" * (-len(head) % 512)
    return entry(f"GNUSparseFile.0/{os.path.basename(name)}", data=head + b"".join(d for _, d in chunks),
                 pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name,
                      "GNU.sparse.realsize": str(size)})


def header(name, size_field, kind=b"0"):
    """A header whose size field is written as given."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136], block[156:157], block[148:156] = size_field, kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + b"\0" * (-len(data) % 512)


SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


@scenario
def whiteouts(out):
    write_image(out, [
        busybox_layer(),
        layer(directory("d"), entry("d/old1"), entry("d/old2"), entry("gone"), entry("f"), entry("linkwh"),
              directory("swap"), entry("swap/inner"), entry("A", data=b"keep\n"),
              entry("B", tarfile.LNKTYPE, link="A"), directory("again"), entry("again/x", data=b"1\n")),
        layer(entry("d/new"), directory("d/sub"), entry("d/sub/x"), entry("d/.wh..wh..opq"), entry(".wh.gone"),
              entry(".wh.linkwh", tarfile.LNKTYPE, link="linkwh"), entry(".wh.A"),
              entry("swap", data=b"now a file\n"), entry(".wh.again")),
        layer(directory("again"), entry("again/y", data=b"2\n"), entry(".wh.swap"), directory("swap"),
              entry("swap/back")),
    ])


@scenario
def links(out):
    write_image(out, [
        busybox_layer(),
        layer(entry("a/b/f", data=b"data\n"), entry("x/y/l", tarfile.LNKTYPE, link="a/b/f"),
              entry("target", data=b"t"), entry("s", tarfile.SYMTYPE, link="target"),
              entry("h", tarfile.LNKTYPE, link="s"), entry("long", tarfile.SYMTYPE, link="q" * 180),
              entry("out", tarfile.SYMTYPE, link="/etc/../../../etc/passwd")),
        layer(entry("x/y/l2", tarfile.LNKTYPE, link="a/b/f")),
    ])


# CAP_NET_BIND_SERVICE, permitted and effective.
MAY_BIND = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04" + "\x00" * 14}


@scenario
def attributes(out):
    write_image(out, [
        busybox_layer(),
        layer(directory("ro", mode=0o555), entry("ro/f", mode=0o000), entry("suid", mode=0o4755),
              directory("sgid", mode=0o2755), directory("sticky", mode=0o1777), entry("nobody", uid=65534, gid=65534),
              entry("bigid", uid=4_000_000_000, gid=4_000_000_000),
              entry("chr", tarfile.CHRTYPE, device=(1, 3), mode=0o666), entry("blk", tarfile.BLKTYPE, device=(7, 99)),
              entry("fifo", tarfile.FIFOTYPE), entry("old", mtime=-86400),
              entry("ns", pax={"mtime": "1600000000.123456789"}),
              entry("cap", mode=0o755, pax=MAY_BIND),
              directory("able"), entry("able/grep", data=Path("/bin/busybox").read_bytes(), mode=0o755, pax=MAY_BIND),
              entry("user", pax={"SCHILY.xattr.user.note": "hello"}),
              entry("empty", pax={"SCHILY.xattr.user.overlay.origin": ""})),
    ])


@scenario
def names(out):
    long_dir = [entry(f"wide/{i:03d}" + "n" * 252) for i in range(80)]
    symlinks = [entry(f"syms/{i}", tarfile.SYMTYPE, link=f"t{i}") for i in range(450)]
    small = [entry(f"many/f{i}", data=b"%d" % i) for i in range(20000)]
    path = "/".join(["p" * 49] * 8)
    gnu = layer(entry(path, data=b"deep\n"), entry("gnulong", tarfile.SYMTYPE, link="k" * 180),
                format=tarfile.GNU_FORMAT)
    write_image(out, [busybox_layer(), layer(*long_dir, *symlinks, *small), gnu])


@scenario
def sparse(out):
    layer_sparse = layer(sparse_1_0("sparse", 1 << 30, [(0, b"x" * 4096), (1 << 29, b"y" * 4096)]),
                         entry("after", data=b"after\n"))
    write_image(out, [busybox_layer(), layer_sparse])


@scenario
def size_fields(out):
    """A base-256 size, and a size that only the PAX header has."""
    data, after = padded(b"D" * 5000), header("after", b"00000000006\0") + padded(b"after\n")
    base256 = header("base256", b"\x80" + (5000).to_bytes(11, "big")) + data
    record = padded(b"13 size=5000\n")
    pax = header("x", b"%011o\0" % 13, b"x") + record + header("pax", b"0" * 11 + b"\0") + data
    write_image(out, [busybox_layer(), base256 + pax + after + b"\0" * 1024])


@scenario
def beyond_4_gib(out):
    """Two files that are longer than 32 bits can say: one has a base-256 size and a number each 64 MiB, the other a
    size of more than 8 GiB in its PAX header and is mostly holes. Prints the sum of the first."""
    count, step, tail = 65, 64 << 20, b"tail\n"
    zeros = bytes(step - 512)
    size = count * step + len(tail)
    whole, content, blob = hashlib.sha256(), hashlib.sha256(), []

    def put(data, frame=None, of_file=False):
        whole.update(data)
        if of_file:
            content.update(data)
        blob.append(frame or compressed(data, "zstd"))

    put(header("large", b"\x80" + size.to_bytes(11, "big")))
    frame = compressed(zeros, "zstd")
    for number in range(count):
        put(padded(b"%d\n" % number), of_file=True)
        put(zeros, frame, of_file=True)
    put(tail, of_file=True)
    put(bytes(-size % 512))
    put(layer(sparse_1_0("holes", (9 << 30) + 1, [(0, b"x" * 512), (5 << 30, b"y" * 512), (9 << 30, b"z")]),
              entry("after", data=b"after\n")))
    write_image(out, [busybox_layer(), Packed(b"".join(blob), whole.hexdigest())], compress="zstd")
    print(content.hexdigest())


@scenario
def zstd(out):
    write_image(out, [busybox_layer(), layer(entry("z", data=b"zstd\n"))], compress="zstd")


@scenario
def zstd_docker(out):
    write_image(out, [busybox_layer(), layer(entry("z", data=b"zstd\n"))], compress="zstd",
                media="application/vnd.docker.image.rootfs.diff.tar.zstd")


@scenario
def other_platforms(out):
    """An index with an attestation first, and arm64 without a variant."""
    layout = Layout()
    which = [(name, layout.image([busybox_layer(), layer(entry("which", data=name.encode() + b"\n"))], **platform)[0])
             for name, platform in [("v7", {"architecture": "arm", "variant": "v7"}), ("arm64", {"architecture": "arm64"}),
                                    ("amd64", {})]]
    attestation = layout.image([layer(entry("statement"))], architecture="unknown", os="unknown")[0]
    attestation["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    layout.save(out, layout.index([attestation] + [manifest for _, manifest in which]))


@scenario
def many_layers(out):
    write_image(out, [busybox_layer()] + [layer(entry(f"l/{i}", data=b"%d" % i)) for i in range(126)])


@scenario
def duplicate(out):
    write_image(out, [busybox_layer(), layer(entry("f", data=b"first"), entry("f", data=b"second"))])


@scenario
def dotdot(out):
    write_image(out, [busybox_layer(), layer(entry("../../escape", data=b"x"))])


@scenario
def absolute(out):
    write_image(out, [busybox_layer(), layer(entry("/abs", data=b"y"), entry("d/../up", data=b"z"))])


@scenario
def through_symlink(out):
    write_image(out, [busybox_layer(), layer(entry("evil", tarfile.SYMTYPE, link="/etc"), entry("evil/x", data=b"x"))])


@scenario
def name_too_long(out):
    write_image(out, [busybox_layer(), layer(entry("n" * 256))])


@scenario
def deep_path(out):
    write_image(out, [busybox_layer(), layer(entry("d/" * 100_000 + "f"))])


@scenario
def missing_link_target(out):
    write_image(out, [busybox_layer(), layer(entry("l", tarfile.LNKTYPE, link="nowhere/at/all"))])


@scenario
def wrong_diff_id(out):
    raw = layer(entry("f"))
    base = busybox_layer()
    write_image(out, [base, raw], diff_ids=["sha256:" + hashlib.sha256(base).hexdigest(), "sha256:" + "0" * 64])


@scenario
def truncated_layer(out):
    write_image(out, [busybox_layer(), layer(entry("f", data=os.urandom(200_000)))], damage=lambda b: b[:len(b) * 6 // 10])


@scenario
def flipped_byte(out):
    write_image(out, [busybox_layer(), layer(entry("f", data=os.urandom(200_000)))],
                damage=lambda b: b[:100_000] + bytes([b[100_000] ^ 1]) + b[100_001:])


@scenario
def other_architecture(out):
    write_image(out, [busybox_layer()], architecture="s390x")


@scenario
def foreign_layer(out):
    write_image(out, [busybox_layer()], media="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")


@scenario
def no_layers(out):
    write_image(out, [])


@scenario
def empty_entrypoint(out):
    write_image(out, [busybox_layer()], config_extra={"Entrypoint": [""], "Cmd": ["echo", "hi"]})


@scenario
def entrypoint(out):
    write_image(out, [busybox_layer()], config_extra={"Entrypoint": ["echo", "ep"], "Cmd": ["x"]})


@scenario
def workdir_entrypoint(out):
    script = entry("app/entrypoint.sh", data=b"#!/bin/sh\necho ran\n", mode=0o755)
    write_image(out, [busybox_layer(), layer(script)],
                config_extra={"WorkingDir": "/app", "Entrypoint": ["entrypoint.sh"], "Cmd": None})


@scenario
def unrunnable(out):
    aarch64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44)
    write_image(out, [busybox_layer(), layer(
        entry("lost", data=b"#!/no/such/interpreter\n", mode=0o755),
        entry("crlf", data=b"#!/bin/sh\r\necho ran\r\n", mode=0o755),
        entry("foreign", data=aarch64, mode=0o755),
        entry("text", data=b"echo ran\n", mode=0o755))])


@scenario
def no_image(out):
    with tarfile.open(out, "w") as tar:
        info = tarfile.TarInfo("readme.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))


class Stream:
    """A layer of many entries, compressed as it is made."""

    def __init__(self):
        self.packer, self.sum, self.blob = zlib.compressobj(1, wbits=31), hashlib.sha256(), []

    def put(self, data):
        self.sum.update(data)
        self.blob.append(self.packer.compress(data))

    def packed(self):
        self.put(bytes(1024))
        return Packed(b"".join([*self.blob, self.packer.flush()]), self.sum.hexdigest())


def headers(names, kind=b"0"):
    """Headers of empty files, made faster than tarfile does."""
    plain = bytearray(header("", b"%011o\0" % 0, kind))
    plain[148:156] = b" " * 8
    base = sum(plain)
    for name in names:
        block = bytearray(plain)
        block[:len(name)] = name
        block[148:156] = b"%06o\0 " % (base + sum(name))
        yield bytes(block)


def raw(data):
    """A text that tarfile writes as these bytes."""
    return data.decode("utf-8", "surrogateescape")


@scenario
def exact(out):
    """What is easily lost: access lists, times with fractions, files with several names, names that are no UTF-8."""
    # user::rw-, user:1000:rw-, group::r--, mask::rw-, other::r--
    acl = struct.pack("<I" + "HHI" * 5, 2, 1, 6, 0xffffffff, 2, 6, 1000, 4, 4, 0xffffffff, 16, 6, 0xffffffff, 32, 4, 0xffffffff)
    write_image(out, [
        busybox_layer(),
        layer(directory("e"), entry("e/acl", mode=0o664, pax={"SCHILY.xattr.system.posix_acl_access": raw(acl)}),
              entry("e/old", pax={"mtime": "-86400.25"}), entry("e/note", pax={"SCHILY.xattr.user.note": "hello"}),
              entry("e/linked", data=b"x", pax={"mtime": "1600000000.5"}),
              entry("e/also", tarfile.LNKTYPE, link="e/linked", pax={"mtime": "1600000000.5"}),
              entry("e/odd", tarfile.SYMTYPE, link="a//b/./c/.")),
        layer(directory(raw(b"e/caf\xe9")), entry(raw(b"e/caf\xe9/\xff\xfe"), data=b"raw\n"),
              entry(raw(b"e/link\xe9"), tarfile.SYMTYPE, link=raw(b"\xfftarget")), format=tarfile.GNU_FORMAT),
        layer(entry("e/third", tarfile.LNKTYPE, link="e/linked", pax={"mtime": "1600000000.5"}), entry("e/.wh.also")),
    ])


@scenario
def million(out):
    stream = Stream()
    for n in range(1000):
        stream.put(b"".join(headers(b"m/%d/f%d" % (n, m) for m in range(1000))))
    write_image(out, [busybox_layer(), stream.packed()])


def hostile(out, *blobs, **more):
    """An image whose second layer is so many pieces of a compressed archive, of which nobody knows the sum."""
    base = busybox_layer()
    write_image(out, [base, Packed(b"".join(blobs), "")],
                diff_ids=["sha256:" + hashlib.sha256(base).hexdigest(), "sha256:" + "0" * 64], **more)


@scenario
def bomb(out):
    """A file of 1000 GiB of zeros, 1 GiB a piece."""
    zeros = compressed(bytes(512 << 20), "zstd")  # two frames, of 256 MiB each
    hostile(out, compressed(header("bomb", b"\x80" + (1000 << 30).to_bytes(11, "big")), "zstd"), *[zeros] * 2000, compress="zstd")


@scenario
def bomb_of_files(out):
    """The same, in files of 64 MiB that are not zeros."""
    size = 64 << 20
    piece = compressed(header("f", b"%011o\0" % size) + b"x" * size, "zstd")
    hostile(out, *[piece] * 16_000, compress="zstd")


@scenario
def many_files(out):
    """More than may be: 11,000,000 entries, of 100,000 names."""
    piece = gzip.compress(b"".join(headers(b"m/f%d" % n for n in range(100_000))), 1)
    hostile(out, *[piece] * 110)


@scenario
def heavy_attributes(out):
    """8000 files with 240 KiB of attributes each, in few bytes."""
    one = layer(entry("a", pax={f"SCHILY.xattr.user.{n}": "v" * 60_000 for n in range(4)})).rstrip(b"\0")
    extension = gzip.compress(one[:len(one) // 512 * 512], 1)
    hostile(out, *[extension + gzip.compress(each, 1) for each in headers(b"a%d" % n for n in range(8000))])


@scenario
def link_cycle(out):
    write_image(out, [busybox_layer(), layer(entry("a", tarfile.LNKTYPE, link="b"), entry("b", tarfile.LNKTYPE, link="a"))])


@scenario
def broken_pax(out):
    record = padded(b"99 path=x\n")
    write_image(out, [busybox_layer(), header("x", b"%011o\0" % 10, b"x") + record + header("f", b"0" * 11 + b"\0") + bytes(1024)])


@scenario
def overlapping_extents(out):
    write_image(out, [busybox_layer(), layer(sparse_1_0("s", 1 << 20, [(0, b"x" * 4096), (2048, b"y" * 4096)]))])


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SCENARIOS:
        sys.exit(f"usage: archives.py SCENARIO OUT.tar; scenarios: {' '.join(SCENARIOS)}")
    SCENARIOS[sys.argv[1]](sys.argv[2])
