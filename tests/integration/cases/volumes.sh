# Directories and files of the host in a container.

# Core.
case_bind_mounts_are_shared_both_ways() {
    mkdir "$T/d"
    echo host >"$T/d/f"
    hull run --rm -v "$T/d:/data" "$BUSYBOX" sh -c 'cat /data/f; echo guest >/data/g; mkdir /data/sub; ln -s g /data/l; ln /data/g /data/h; chown 1234:4321 /data/g; chmod 640 /data/g' >"$T/out"
    expect_eq "$(cat "$T/out")" host 'what the guest read'
    expect_eq "$(cat "$T/d/g" "$T/d/h")" $'guest\nguest' 'what the guest wrote'
    expect_eq "$(stat -c '%u:%g %a %h' "$T/d/g")" '1234:4321 640 2' 'owner, mode and links'
    expect_eq "$(readlink "$T/d/l")" g 'a symbolic link'
    expect_clean_host
}

# Core.
case_read_only_bind_and_single_file() {
    mkdir "$T/d"
    echo one >"$T/f"
    capture hull run --rm -v "$T/d:/data:ro" -v "$T/f:/etc/single" "$BUSYBOX" sh -c 'touch /data/x || echo refused; cat /etc/single; echo two >/etc/single; mount -o remount,rw /data 2>/dev/null; touch /data/y || echo refused'
    expect_out $'refused\none\nrefused\n'
    expect_eq "$(cat "$T/f")" two 'a single file written from inside'
    expect_eq "$(ls "$T/d")" '' 'a read-only directory'
}

case_host_changes_are_seen_within_a_second() {
    mkdir "$T/d"
    echo 1 >"$T/d/f"
    hull run -d --name t-vol -v "$T/d:/data" "$BUSYBOX" sh -c 'while :; do sleep 1; done' >/dev/null
    expect_eq "$(hull exec t-vol cat /data/f)" 1 before
    echo 2222 >>"$T/d/f"
    sleep 1.2
    expect_eq "$(hull exec t-vol cat /data/f)" $'1\n2222' appended
    : >"$T/d/f"
    sleep 1.2
    expect_eq "$(hull exec t-vol stat -c %s /data/f)" 0 truncated
    rm "$T/d/f"
    sleep 1.2
    hull exec t-vol sh -c 'echo anew >/data/f'
    expect_eq "$(cat "$T/d/f")" anew 'made again from inside'
    mkdir "$T/d/new"
    echo n >"$T/d/new/n"
    sleep 1.2
    expect_eq "$(hull exec t-vol cat /data/new/n)" n 'a new directory'
}

case_nested_mounts_of_the_host_are_seen() {
    mkdir -p "$T/d/m"
    mount -t tmpfs none "$T/d/m"
    echo inner >"$T/d/m/f"
    capture hull run --rm -v "$T/d:/data" "$BUSYBOX" cat /data/m/f
    umount "$T/d/m"
    expect_out $'inner\n'
}

case_programs_and_large_files_in_a_share() {
    mkdir "$T/d"
    cp /bin/busybox "$T/d/busybox"
    dd if=/dev/urandom of="$T/d/big" bs=1M count=64 status=none
    capture hull run --rm -v "$T/d:/data" "$BUSYBOX" sh -c '/data/busybox echo ran; sha256sum </data/big; cp /data/big /data/copy; dd if=/dev/zero of=/data/sparse bs=1 count=1 seek=5G 2>/dev/null; i=0; while [ $i -lt 300 ]; do echo $i >/data/many.$i; i=$((i+1)); done; ls /data | wc -l'
    expect_status 0
    expect_eq "$(sed -n 1p "$T/out")" ran 'a program of the share'
    expect_eq "$(sed -n 2p "$T/out")" "$(sha256sum <"$T/d/big")" 'a large file'
    expect_eq "$(sed -n 3p "$T/out")" 304 'number of files'
    cmp "$T/d/big" "$T/d/copy"
    expect_eq "$(stat -c %s "$T/d/sparse")" 5368709121 'a file beyond 4 GiB'
    expect_eq "$(cat "$T/d/many.299")" 299 'one of many'
}

# Core.
case_missing_source_and_bad_forms() {
    hull run --rm -v "$T/made:/data" "$BUSYBOX" touch /data/x
    [ -f "$T/made/x" ] || fail 'a missing source directory was not made, as docker does'
    capture hull run --rm --mount "type=bind,source=$T/none,target=/d" "$BUSYBOX" true
    expect_status 125
    expect_err_has "$T/none"
    capture hull run --rm -v "$T/made:relative" "$BUSYBOX" true
    expect_status 125
}

case_killed_virtiofsd_ends_its_container() {
    mkdir "$T/d"
    hull run -d --name t-vk -v "$T/d:/data" "$BUSYBOX" sleep 600 >/dev/null
    pkill -9 -x virtiofsd
    wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-vk)" = exited ]'
    hull rm t-vk
    expect_clean_host
}

case_mounts_of_the_host_are_followed_only_where_that_is_asked_for() {
    mkdir -p "$T/p/n"
    mount --bind "$T/p" "$T/p"
    mount --make-shared "$T/p"
    trap 'umount -lR "$T/p"; hull ps -aq --filter "name=^t-" | xargs -r hull rm -f >/dev/null; rm -rf "$T"' EXIT
    hull run -d --name t-follows -v "$T/p:/p:rslave" "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-private --mount "type=bind,src=$T/p,dst=/p,bind-propagation=rprivate" "$BUSYBOX" sleep 600 >/dev/null
    mount -t tmpfs none "$T/p/n"
    echo new >"$T/p/n/f"
    wait_for 5 hull exec t-follows cat /p/n/f >/dev/null 2>&1 || fail 'a mount of the host is not seen'
    expect_eq "$(hull exec t-private ls /p/n)" '' 'a mount of the host, with rprivate'
    hull rm -f t-private >/dev/null
    capture hull run --rm -v "$T/p:/p:rshared" "$BUSYBOX" true
    expect_status 125
    expect_err_has 'shared propagation'
}

# A socket of the host: of the engine itself, as tools that start containers from within one want it.
case_a_socket_of_the_host() {
    registry_push "$IMAGES/python" "$REGISTRY/python:latest" && hull pull -q "$REGISTRY/python:latest" >/dev/null
    local socket=${HULL_HOST#unix://} docker
    docker=$(command -v docker) || skip 'no docker client'
    cat >"$T/ask.py" <<'END'
import http.client, json, os, socket, sys, threading

class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

def get(path):
    engine = Engine("x")
    engine.request("GET", path)
    return engine.getresponse()

print(get("/_ping").read().decode())
found = []
def ask():
    found.append(json.load(get("/containers/json"))[0]["Names"][0])
threads = [threading.Thread(target=ask) for _ in range(50)]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(found), set(found))
# More than one buffer both ways, and the end of what was sent first is told.
pair = socket.socket(socket.AF_UNIX)
pair.connect("/run/echo.sock")
sent = os.urandom(3_000_000)
def send():
    pair.sendall(sent)
    pair.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
back = b""
while part := pair.recv(1 << 16):
    back += part
print(back == sent)
END
    cat >"$T/echo.py" <<'END'
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    client, _ = server.accept()
    data = b""
    while part := client.recv(1 << 16):
        data += part
    client.sendall(data)
    client.close()
END
    python3 "$T/echo.py" "$T/echo.sock" &
    local echo=$!
    wait_for 10 test -S "$T/echo.sock"
    chmod 640 "$T/echo.sock"
    chown 7:8 "$T/echo.sock"
    capture hull run --rm --name t-tools -v "$socket:/var/run/docker.sock" -v "$T/echo.sock:/run/echo.sock:ro" \
        -v "$T/ask.py:/ask.py:ro" -v "$docker:/usr/bin/docker:ro" "$REGISTRY/python:latest" \
        sh -c 'python3 /ask.py; docker ps --format "{{.Names}}"; stat -c "%F %a %u:%g" /run/echo.sock
            docker run --rm '"$BUSYBOX"' echo from within
            (sleep 2; docker run --rm --name t-told '"$BUSYBOX"' true) &
            timeout 60 docker events --filter container=t-told --format "{{.Action}}" | head -n 1'
    kill "$echo"
    expect_status 0
    expect_out $'OK\n50 {\'/t-tools\'}\nTrue\nt-tools\nsocket 640 7:8\nfrom within\ncreate\n'
    # Nobody listens, nobody is reached; datagrams are refused.
    capture hull run --rm -v "$T/echo.sock:/run/echo.sock" "$REGISTRY/python:latest" python3 -c '
import socket
pair = socket.socket(socket.AF_UNIX)
pair.connect("/run/echo.sock")
print(pair.recv(1))'
    expect_out $'b\'\'\n'
    python3 -c "
import socket, time
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind('$T/log')
time.sleep(60)" &
    local log=$!
    wait_for 10 test -S "$T/log"
    capture hull run --rm -v "$T/log:/dev/log" "$BUSYBOX" true
    kill "$log"
    expect_status 125
    expect_err_has 'socket for datagrams'
    expect_clean_host
}

case_an_image_is_mounted_read_only() {
    hull run --name t-made --network none "$BUSYBOX" sh -c 'mkdir -p /opt/tools/bin; echo tool >/opt/tools/bin/t; chmod 755 /opt/tools/bin/t; ln -s /opt/tools /opt/link; chown -R 7:8 /opt/tools'
    hull commit t-made t-tools >/dev/null
    hull rm t-made >/dev/null
    local image=type=image,source=t-tools
    hull run -d --name t-img --mount "$image,target=/all" --mount "$image,target=/part,image-subpath=opt/tools" --mount "$image,target=/one,image-subpath=opt/link/bin/t" \
        --mount "type=image,source=$BUSYBOX,target=/new/place" "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull exec t-img sh -c 'cat /all/opt/tools/bin/t /part/bin/t /one; stat -c "%u:%g %a" /part/bin/t; ls /new/place/bin/busybox')" \
        "$(printf 'tool\ntool\ntool\n7:8 755\n/new/place/bin/busybox')" 'what is mounted'
    capture hull exec t-img sh -c 'echo x >/part/bin/t'
    expect_err_has 'Read-only file system'
    expect_eq "$(hull inspect -f '{{range .Mounts}}{{if eq .Destination "/part"}}{{.Type}} {{.Name}} {{.RW}}{{end}}{{end}}' t-img)" 'image t-tools false' 'what is told of it'
    # It stays as long as somebody has it.
    capture hull rmi -f t-tools
    expect_status 1
    expect_err_has 'is being used by running container'
    hull stop -t 0 t-img >/dev/null
    capture hull rmi t-tools
    expect_status 1
    expect_eq "$(hull cp t-img:/part/bin/t - | tar -xO)" tool 'a file of it while the container is stopped'
    hull start t-img >/dev/null
    hull exec t-img cat /one >/dev/null
    hull rm -f t-img >/dev/null
    # What cannot be.
    capture hull create --mount type=image,source=t-nowhere,target=/x "$BUSYBOX" true
    expect_status 1
    expect_err_has t-nowhere
    capture hull create --mount "$image,target=/x,image-subpath=../a" "$BUSYBOX" true
    expect_err_has 'must be a relative path within the image'
    capture hull create --mount "$image,target=/x" -v /tmp:/x "$BUSYBOX" true
    expect_err_has 'Duplicate mount point'
    capture hull run --rm --network none --mount "$image,target=/x,image-subpath=nosuch" "$BUSYBOX" true
    expect_status 125
    expect_err_has '"nosuch" in the volume'
    hull rmi t-tools >/dev/null
    expect_clean_host
}

# What programs that are not root do in a directory of the host: files without a name, files that only
# they may read, access lists.
case_files_without_a_name_and_access_lists() {
    registry_push "$IMAGES/python" "$REGISTRY/python:latest" && hull pull -q "$REGISTRY/python:latest" >/dev/null
    local dir=$T/nameless
    mkdir "$dir"; chown 1000:1000 "$dir"
    hull run --rm -i -u 1000:1000 -v "$dir:/s" -w /s "$REGISTRY/python:latest" python3 - <<'END' || fail 'a program failed'
import os
# With a directory Python follows the link, without one it does not.
root = os.open("/", os.O_RDONLY)
fd = os.open("object", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
assert os.write(fd, b"blob") == 4
os.close(fd)

fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
assert os.fstat(fd).st_nlink == 0 and os.listdir(".") == ["object"]
os.write(fd, b"nameless"); os.ftruncate(fd, 4); os.lseek(fd, 0, os.SEEK_SET)
assert os.read(fd, 10) == b"name"
os.link(f"/proc/self/fd/{fd}", "named", src_dir_fd=root, follow_symlinks=True)
assert os.stat("named").st_ino == os.fstat(fd).st_ino and os.stat("named").st_nlink == 1
os.close(fd)

fd = os.open(".", os.O_TMPFILE | os.O_EXCL | os.O_RDWR, 0o600)
try:
    os.link(f"/proc/self/fd/{fd}", "never", src_dir_fd=root, follow_symlinks=True)
    raise SystemExit("a file that was to stay without a name has one")
except OSError:
    pass
os.close(fd)
# More of them than anybody may have open at once.
for n in range(1500):
    os.close(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600))

# user::rw-, user:1001:rw-, group::r--, mask::rw-, other::---
entry = lambda tag, bits, who=0xffffffff: tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
acl = (2).to_bytes(4, "little") + entry(1, 6) + entry(2, 6, 1001) + entry(4, 4) + entry(16, 6) + entry(32, 0)
os.setxattr("named", "system.posix_acl_access", acl)
assert oct(os.stat("named").st_mode) == "0o100660", oct(os.stat("named").st_mode)
END
    expect_eq "$(stat -c '%u:%g %s %h' "$dir/named")" '1000:1000 4 1' 'the file that got a name'
    expect_eq "$(ls "$dir" | xargs)" 'named object' 'all that is there'
    expect_eq "$(cd "$dir" && setpriv --reuid 1001 --regid 1001 --clear-groups cat named)" 'name' 'who is in the list may read'
    expect_eq "$(hull run --rm -u 1001:1001 -v "$dir:/s" "$BUSYBOX" cat /s/named)" 'name' 'the same in another guest'
    (cd "$dir" && setpriv --reuid 1002 --regid 1002 --clear-groups cat named 2>/dev/null) && fail 'anybody may read'
    hull run --rm -v "$dir:/s:ro" "$REGISTRY/python:latest" python3 -c 'import os; os.open("/s", os.O_TMPFILE | os.O_RDWR)' 2>"$HARNESS/ro.log" && fail 'made in a read-only share'
    grep -q 'Read-only file system' "$HARNESS/ro.log" || fail "$(cat "$HARNESS/ro.log")"
}

case_volumes_from_brings_all_kinds_of_mounts() {
    mkdir "$T/host"
    echo host >"$T/host/f"
    hull create --name t-has --network none -v t-vf:/data -v "$T/host:/host" --mount "type=image,source=$BUSYBOX,target=/tools" --mount type=tmpfs,target=/mem,tmpfs-size=2m "$BUSYBOX" true >/dev/null
    hull create --name t-too --network none -v t-vf2:/data "$BUSYBOX" true >/dev/null
    expect_eq "$(hull run --rm --network none --volumes-from t-has:ro "$BUSYBOX" sh -c 'cat /host/f; ls /tools/bin/busybox; grep -c " /mem tmpfs ro" /proc/mounts; touch /data/x 2>/dev/null || echo refused')" \
        "$(printf 'host\n/tools/bin/busybox\n1\nrefused')" 'what comes from another'
    # What is asked for by itself counts more, and the last one of several.
    hull run --name t-last --network none --volumes-from t-has --volumes-from t-too --tmpfs /host "$BUSYBOX" sh -c 'ls -A /host; touch /data/mine'
    expect_eq "$(hull inspect -f '{{range .Mounts}}{{.Type}}:{{.Destination}} {{end}}' t-last | xargs -n 1 | sort | xargs)" 'image:/tools tmpfs:/mem volume:/data' 'what is told'
    expect_eq "$(hull inspect -f '{{range .Mounts}}{{if eq .Destination "/data"}}{{.Name}}{{end}}{{end}}' t-last)" t-vf2 'whose data'
    # An image is not removed under somebody who has it from another.
    hull rm t-has t-too >/dev/null
    hull rm t-last >/dev/null
    hull volume rm t-vf t-vf2 >/dev/null
    expect_clean_host
}

# An overlay file system in a container may write to a shared directory, as an engine in a container does
# with its layers. What it keeps in attributes of its own is out of reach for anybody else.
case_an_overlay_on_a_shared_directory() {
    # Not on another overlay, which could not hold it either.
    local dir=/var/lib/hull/overlay-case
    rm -rf "$dir"
    mkdir -p "$dir"
    touch "$dir/f"
    setfattr -n trusted.host -v x "$dir/f"
    setfattr -n user.virtiofs.trusted.guest -v x "$dir/f"
    registry_push "$IMAGES/python" "$REGISTRY/python:latest" && hull pull -q "$REGISTRY/python:latest" >/dev/null
    expect_eq "$(hull run --rm --privileged -v "$dir:/v" "$BUSYBOX" sh -c 'cd /v && mkdir up work low low/d /m && echo low >low/f && touch low/d/x &&
        mount -t overlay none -o lowerdir=low,upperdir=up,workdir=work /m && cat /m/f && rm -r /m/f /m/d && mkdir /m/d &&
        echo new >/m/new && umount /m && mount -t overlay none -o lowerdir=low,upperdir=up,workdir=work /m && find /m | sort | xargs')" \
        $'low\n/m /m/d /m/new' 'what was removed and made'
    expect_eq "$(stat -c '%F %t:%T' "$dir/up/f")" 'character special file 0:0' 'a whiteout on the host'
    expect_eq "$(getfattr --absolute-names --only-values -n user.virtiofs.trusted.overlay.opaque "$dir/up/d")" y 'an opaque directory on the host'
    # The guest has trusted attributes of its own, and the host's are out of its sight and reach.
    capture hull run --rm --privileged -v "$dir:/v" "$REGISTRY/python:latest" python3 -c '
import os
def attempt(call, *arguments):
    try: print(call("/v/f", *arguments))
    except OSError as error: print(error.strerror)
attempt(os.listxattr)
attempt(os.getxattr, "trusted.host")
attempt(os.getxattr, "user.virtiofs.trusted.guest")
attempt(os.setxattr, "user.virtiofs.trusted.overlay.opaque", b"y")
attempt(os.setxattr, "trusted.own", b"1")
attempt(os.getxattr, "trusted.own")
attempt(os.setxattr, "user.own", b"2")
print(sorted(os.listxattr("/v/f")))'
    expect_out "['trusted.guest']
No data available
No data available
Operation not permitted
None
b'1'
None
['trusted.guest', 'trusted.own', 'user.own']
"
    rm -rf "$dir"
}

# The guest's kernel is asked for it in every way that a container with all rights has.
case_a_read_only_share_stays_so_for_a_guest_with_all_rights() {
    mkdir -p "$T/d/sub"
    echo one >"$T/d/f"
    local before
    before=$(cd "$T/d" && find . -printf '%p %m %s %T@\n' | sort)
    capture hull run --rm --privileged -v "$T/d:/d:ro" "$BUSYBOX" sh -c '
        try() { sh -c "$1" 2>/dev/null && echo "worked: $1"; }
        mount -o remount,rw /d; mount -o remount,rw,bind /d
        mkdir -p /m; mount -t virtiofs hull /m && echo mounted
        for f in /d/f $(find /m -name f); do
            try "echo x >$f"; try "chmod 777 $f"; try "chown 7 $f"; try "rm -f $f && [ ! -e $f ]"; try "mv $f $f.new"
            try "echo x >${f%/f}/g"; try "mkdir ${f%/f}/made"; try "rmdir ${f%/f}/sub"; try "ln -s x ${f%/f}/link"; try "mknod ${f%/f}/node b 8 0"
        done'
    expect_out $'mounted\n'
    expect_eq "$(cd "$T/d" && find . -printf '%p %m %s %T@\n' | sort)" "$before" 'the directory on the host'
}

# Device nodes are for containers that may make them, whatever their kernel wants.
case_device_nodes_on_the_host_are_for_containers_that_may_make_them() {
    mkdir "$T/d"
    capture hull run --rm -v "$T/d:/d" "$BUSYBOX" mknod /d/may b 8 0
    expect_status 0
    [ -b "$T/d/may" ] || fail 'no node was made'
    hull run -d --name t-not --cap-drop MKNOD -v "$T/d:/d" "$BUSYBOX" sleep 600 >/dev/null
    capture hull exec --privileged t-not mknod /d/not b 8 0
    [ "$status" != 0 ] || fail 'a node was made'
    capture hull exec t-not sh -c 'mkfifo /d/fifo && echo x >/d/file && chmod 4755 /d/file'
    expect_status 0
    expect_eq "$(ls "$T/d" | tr '\n' ' ')" 'fifo file may ' 'on the host'
    hull rm -f t-not >/dev/null
}
