# What stands between a guest and its host, seen from the host.

cgroups() { find /sys/fs/cgroup -mindepth 1 -type d | sort; }
same_cgroups() { [ "$(cgroups)" = "$1" ]; }
vmm_of() { hull inspect --vm "$1" | sed -n 's/.*"vmm_pid": *\([0-9]*\).*/\1/p'; }
cgroup_of() { sed -n 's/^0:://p' "/proc/$1/cgroup"; }
shim_of() { sed -n 's/^PPid:[[:space:]]*//p' "/proc/$(vmm_of "$1")/status"; }
in_shim_cgroup() { [[ $(cgroup_of "$1") == /hull/*:shim ]]; }

# Core.
case_each_sandbox_is_bounded_by_the_size_of_its_vm() {
    local before pid cgroup
    before=$(cgroups)
    mkdir "$T/shared"
    hull run -d --name t-b -m 128m -v "$T/shared:/s" "$BUSYBOX" sleep 600 >/dev/null
    pid=$(vmm_of t-b) cgroup=/sys/fs/cgroup$(cgroup_of "$pid")
    [[ $cgroup == /sys/fs/cgroup/hull/* ]] || fail "the VMM is in $cgroup"
    expect_eq "$(cat "$cgroup/cgroup.procs")" "$pid" "processes beside the guest"
    expect_eq "$(cat "$cgroup/cpu.max")" "200000 100000" cpu.max
    expect_eq "$(cat "$cgroup/pids.max")" 257 pids.max
    local guest=$(((128 + 16 + 2) << 20))
    expect_eq "$(cat "$cgroup/memory.max")" $((guest + guest / 128 + (258 << 20))) memory.max
    echo "the VMM's cgroup: $(cat "$cgroup/memory.current") bytes, $(cat "$cgroup/pids.current") threads"
    [ -n "$(cat "$cgroup:virtiofsd/cgroup.procs")" ] || fail "virtiofsd is not in its cgroup"
    expect_eq "$(cat "$cgroup:virtiofsd/memory.max")" $((2 * guest + (256 << 20))) "virtiofsd's memory.max"
    capture hull doctor --jail t-b
    expect_status 0
    expect_out_has "holds   memory, bytes"
    expect_out_has "its shim, PID $(shim_of t-b)"
    hull rm -f t-b >/dev/null
    wait_for 10 same_cgroups "$before" || fail "left: $(diff <(echo "$before") <(cgroups))"
}

# open_to_others DIRECTORY: what other users reach in it, if they may pass through it.
open_to_others() {
    find "$1" -mindepth 1 -type d ! -perm /001 -prune -o \
        \( -type f -perm /004 -o -type d -perm /004 -o -type s -perm /002 \) -printf '%M %P\n'
}

# A program of root's that sets the user id lies in the volume, a password in the record, the output in the log.
# Core.
case_local_users_reach_nothing_of_a_container() {
    hull run -d --name t-own -e KEY=secret -v t-own:/v "$BUSYBOX" sh -c 'cp /bin/busybox /v/sh; chmod 4755 /v/sh; echo secret; sleep 600' >/dev/null
    expect_eq "$(stat -c %a "$HARNESS/state")" 700 'the state directory'
    expect_eq "$(stat -c %a "$HARNESS/run")" 711 'the runtime directory'
    open_to_others "$HARNESS/run" >"$T/open"
    expect_eq "$(cat "$T/open")" '' 'what others may read, list or connect to in the runtime directory'
    hull rm -f t-own >/dev/null
    hull volume rm t-own >/dev/null
    expect_clean_host
}

# Core.
case_killed_shim_leaves_no_cgroup() {
    local before
    before=$(cgroups)
    hull run -d --name t-k "$BUSYBOX" sleep 600 >/dev/null
    pkill -9 -f '[c]ontainerd-shim-hull'
    wait_for 10 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-k)" = exited ]'
    hull rm t-k >/dev/null
    wait_for 10 same_cgroups "$before" || fail "left: $(diff <(echo "$before") <(cgroups))"
}

case_vmm_beyond_its_memory_dies_alone() {
    local cgroup
    hull run -d --name t-near "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-far -m 64m --tmpfs /m "$BUSYBOX" sh -c 'dd if=/dev/zero of=/m/f bs=1M count=24 2>&1; sleep 600' >/dev/null
    wait_for 30 sh -c 'hull logs t-far | grep -q "records out"' || fail "no file: $(hull logs t-far)"
    cgroup=/sys/fs/cgroup$(cgroup_of "$(vmm_of t-far)")
    # As if the process had grown: it has more than its bound, and nothing that could be given back.
    echo $((16 << 20)) >"$cgroup/memory.max"
    wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-far)" = exited ]' || fail "it lives on"
    expect_eq "$(hull inspect -f '{{.State.ExitCode}}' t-far)" 137 "exit status"
    hull exec t-near true
    hull rm -f t-near t-far >/dev/null
    expect_clean_host
}

case_untrusted_containers_reach_the_world_outside_alone() {
    ip link add t-outside type dummy
    ip addr add 10.233.0.1/32 dev t-outside
    capture hull run --rm "$BUSYBOX" ping -c 1 -W 5 10.233.0.1
    expect_status 0
    capture hull run --name t-mark --untrusted "$BUSYBOX" ping -c 1 -W 2 10.233.0.1
    expect_status 1
    capture hull inspect -f '{{index .HostConfig.Annotations "dev.hull.egress"}} {{index .HostConfig.Annotations "dev.hull.vhost-net"}} {{index .HostConfig.Annotations "dev.hull.io-uring"}}' t-mark
    expect_out $'outside false false\n'
    hull run -d --name t-more --untrusted --egress all --annotation dev.hull.vhost-net=true "$BUSYBOX" sleep 600 >/dev/null
    hull exec t-more ping -c 1 -W 5 10.233.0.1 >/dev/null
    ip link del t-outside
    capture hull run --rm --annotation dev.hull.untrusted=maybe "$BUSYBOX" true
    expect_status 125
    expect_err_has 'want true or false'
    capture hulld --validate --untrusted --egress allow:nowhere
    expect_status 1
    expect_err_has '"nowhere"'
    hull rm -f t-mark t-more >/dev/null
    expect_clean_host
}

# What talks to a guest's agent keeps the capabilities of SECURITY.md's table, runs nothing that has more,
# and costs the host no more than its cgroup lets it, also after it was killed.
case_a_shim_has_what_it_needs_and_no_more() {
    local before shim status set cgroup
    before=$(cgroups)
    mkdir "$T/shared"
    hull run -d --name t-shim -p 127.0.0.1:18080:80 -v "$T/shared:/s" "$BUSYBOX" sleep 600 >/dev/null
    shim=$(shim_of t-shim)
    status=$(cat "/proc/$shim/status")
    for set in CapPrm CapEff CapBnd; do
        expect_eq "$(sed -n "s/^$set:[[:space:]]*//p" <<<"$status")" 00000000892c55ff "the shim's $set"
    done
    for set in CapInh CapAmb; do
        expect_eq "$(sed -n "s/^$set:[[:space:]]*//p" <<<"$status")" 0000000000000000 "the shim's $set"
    done
    expect_eq "$(sed -n 's/^NoNewPrivs:[[:space:]]*//p' <<<"$status")" 1 no_new_privs
    # Each of its threads.
    expect_eq "$(sed -n 's/^Seccomp:[[:space:]]*//p' /proc/"$shim"/task/*/status | sort -u)" 2 'filters of its threads'
    wait_for 10 in_shim_cgroup "$shim" || fail "the shim is in $(cgroup_of "$shim")"
    cgroup=/sys/fs/cgroup$(cgroup_of "$shim")
    expect_eq "$(cat "$cgroup/memory.max")" $((512 << 20)) memory.max
    expect_eq "$(cat "$cgroup/pids.max")" 1024 pids.max
    expect_eq "$(cat "$cgroup/cpu.max")" '200000 100000' cpu.max
    expect_eq "$(cat "$cgroup/cgroup.procs")" "$shim" 'processes beside the shim'
    for _ in $(seq 16); do hull exec -d t-shim sleep 600; done
    hull exec t-shim sh -c 'echo kept >/s/file; dd if=/dev/zero bs=64k count=64 2>/dev/null' >/dev/null
    expect_eq "$(cat "$T/shared/file")" kept 'a shared directory'
    echo "a shim of 17 processes: $(cat "$cgroup/memory.peak" 2>/dev/null || cat "$cgroup/memory.current") bytes, $(cat "$cgroup/pids.current") threads"
    expect_eq "$(sed -n 's/^max //p' "$cgroup/memory.events")" 0 'times that it was short of memory'
    hull rm -f t-shim >/dev/null
    wait_for 10 same_cgroups "$before" || fail "left: $(diff <(echo "$before") <(cgroups))"
    hull run -d --name t-shim "$BUSYBOX" sleep 600 >/dev/null
    shim=$(shim_of t-shim)
    wait_for 10 in_shim_cgroup "$shim" || fail "the shim is in $(cgroup_of "$shim")"
    kill -9 "$shim"
    wait_for 10 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-shim)" = exited ]'
    hull rm t-shim >/dev/null
    wait_for 10 same_cgroups "$before" || fail "left: $(diff <(echo "$before") <(cgroups))"
}

# A guest that connects to a socket of the host as often as it can takes a bounded part of the host, and
# neither the engine behind that socket nor a neighbour waits for it. Its own way to the host is closed.
case_a_guest_floods_a_socket_of_the_host() {
    registry_push "$IMAGES/python" "$REGISTRY/python:latest" && hull pull -q "$REGISTRY/python:latest" >/dev/null
    local shim before
    hull run -d --name t-flood --privileged -v "${HULL_HOST#unix://}:/s.sock" "$REGISTRY/python:latest" sleep 600 >/dev/null
    shim=$(pgrep -f '[c]ontainerd-shim-hull' | head -n 1)
    before=$(ls "/proc/$shim/fd" | wc -l)
    hull exec t-flood python3 -c '
import os, socket
held = []
for _ in range(900):
    s = socket.socket(socket.AF_UNIX)
    s.setblocking(False)
    try:
        s.connect("/s.sock")
    except OSError:
        break
    held.append(s)
print(len(held), flush=True)
if os.fork():
    os._exit(0)
os.dup2(os.open("/dev/null", os.O_RDWR), 1)
os.dup2(1, 2)
import time; time.sleep(600)' >"$T/held" || fail 'the flood did not begin'
    [ "$(cat "$T/held")" -ge 256 ] || fail "only $(cat "$T/held") connections were tried"
    sleep 5
    # Two descriptors a connection at most, and 256 of those.
    [ "$(ls "/proc/$shim/fd" | wc -l)" -le $((before + 600)) ] || fail "the shim has $(ls "/proc/$shim/fd" | wc -l) files open, $before before"
    [ "$(ls "/proc/$(cat "$HARNESS/hulld.pid")/fd" | wc -l)" -le 600 ] || fail 'the engine has too many files open'
    timeout 20 hull ps -q >/dev/null || fail 'the engine does not answer'
    expect_eq "$(timeout 60 hull run --rm "$BUSYBOX" echo neighbour)" neighbour 'a neighbour'
    hull exec t-flood python3 -c '
import socket
for port in 1, 1024, 1029:
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(5)
    try:
        s.connect((2, port))
        raise SystemExit(f"port {port} of the host is reached")
    except OSError:
        pass' || fail 'a guest reaches the host'
    timeout 30 hull rm -f t-flood >/dev/null || fail 'it is not removed'
    expect_clean_host
}

# What serves the host in the guest serves nobody else: a container's process reaches the same ports by
# the guest's own addresses, and would be root of the VM and in all that is shared with it.
case_a_container_gives_the_agent_no_orders() {
    registry_push "$IMAGES/python" "$REGISTRY/python:latest" && hull pull -q "$REGISTRY/python:latest" >/dev/null
    hull run -d --name t-orders -u 1000 --cap-drop ALL --security-opt no-new-privileges "$REGISTRY/python:latest" sleep 600 >/dev/null
    capture hull exec t-orders python3 -c '
import fcntl, socket, struct
own = struct.unpack("I", fcntl.ioctl(open("/dev/vsock", "rb"), 0x7b9, b"0000"))[0] if __import__("os").access("/dev/vsock", 4) else None
# A request of ttrpc for a service that nobody has: who takes it answers that.
body = b"\x0a\x05hello\x12\x05world"
frame = struct.pack(">IIBB", len(body), 1, 1, 0) + body
for cid in {1, 3, own} - {None}:
    for port in range(1024, 1031):
        s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        s.settimeout(10)
        try:
            s.connect((cid, port))
            s.sendall(frame)
            answer = s.recv(1)
        except TimeoutError:
            answer = b"nothing, but it is still open"
        except OSError:
            answer = b""
        if answer:
            raise SystemExit(f"{cid}:{port} answers {answer}")
        s.close()
held = []
for _ in range(300):
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(10)
    try:
        s.connect((1, 1025))
    except OSError:
        pass
    held.append(s)
for port in range(1024, 1030):
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).bind((0xffffffff, port))
        raise SystemExit(f"a container can take port {port}")
    except OSError:
        pass
# Among themselves processes may.
server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
server.bind((0xffffffff, 5000))
server.listen()
client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
client.connect((1, 5000))
server.accept()[0].sendall(b"hello")
print(client.recv(5).decode())'
    expect_status 0
    expect_out $'hello\n'
    expect_eq "$(timeout 60 hull exec t-orders echo here)" here 'the host is still served'
}

# Links of /proc in a share mean the guest's files, not the host's.
case_magic_links_of_the_host_lead_nowhere() {
    echo secret >"$T/secret"
    (cd "$T" && exec 9<secret && exec sleep 600) &
    local pid=$!
    capture hull run --rm --privileged --network none -v /proc:/host/proc:ro "$BUSYBOX" sh -c "
        for link in root$T/secret cwd/secret fd/9; do cat /host/proc/$pid/\$link 2>/dev/null; done; ls /host/proc/$pid/root/bin/busybox"
    kill $pid
    [[ $out != *secret* ]] || fail 'a file of the host was read'
}

# A VM may be another container's, too: `mknod` alone must not open its disks.
case_a_container_opens_only_devices_that_it_asked_for() {
    local disk joined
    hull run -d --name t-first "$BUSYBOX" sleep 600 >/dev/null
    # A major number of disks, and the minor of the first: what the guest has is what an unconfined one sees.
    disk=$(hull run --rm --privileged "$BUSYBOX" sh -c 'cat /sys/block/vd*/dev | head -n 1')
    for joined in none container:t-first; do
        # Made it can be: it is what reads it that is refused.
        capture hull run --rm --network "$joined" "$BUSYBOX" sh -c "mknod /d b ${disk%:*} ${disk#*:} || exit 9; test -b /d && echo made && cat /d"
        expect_status 1
        expect_out $'made\n'
        expect_err_has 'Operation not permitted'
    done
    capture hull run --rm "$BUSYBOX" sh -c 'mknod /k c 1 11 || exit 9; : </k'
    [ "$status" != 9 ] || fail 'mknod is refused'
    expect_err_has 'not permitted'
    capture hull exec t-first sh -c 'mknod /k c 1 11 || exit 9; : </k'
    [ "$status" != 9 ] || fail 'mknod is refused'
    expect_err_has 'not permitted'
    capture hull run --rm --device /dev/kmsg:/dev/kmsg:r "$BUSYBOX" sh -c ': </dev/kmsg && echo read; : >/dev/kmsg'
    expect_out $'read\n'
    expect_err_has 'not permitted'
    capture hull run --rm --device-cgroup-rule 'c 1:11 r' "$BUSYBOX" sh -c 'mknod /k c 1 11; : </k && echo read'
    expect_out $'read\n'
    capture hull run --rm -t "$BUSYBOX" sh -c 'for d in null zero full random urandom tty ptmx; do : </dev/$d || echo $d; done; echo x >/dev/tty'
    expect_out $'x\r\n'
    capture hull run --rm --privileged "$BUSYBOX" sh -c 'mknod /k c 1 11; : </k && echo read'
    expect_out $'read\n'
}
