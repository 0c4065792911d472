# containerd with Hull as its runtime: ctr, as its users type it.

# containerd_start [SCORE]: with this oom_score_adj.
containerd_start() {
    command -v containerd >/dev/null || skip 'containerd is not installed'
    # The overlay snapshotter needs a real file system, and sockets need short paths.
    C=$(mktemp -d /var/lib/hull/containerd.XXXXXX)
    S=$(mktemp -d /run/hull-ctr.XXXX)
    cat >"$C/config.toml" <<X
version = 2
root = "$C/root"
state = "$S/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$S/c.sock"
X
    (echo "${1:-0}" >/proc/self/oom_score_adj; exec containerd -c "$C/config.toml") >"$C/log" 2>&1 &
    CONTAINERD=$!
    export CONTAINERD_ADDRESS=$S/c.sock
    trap 'kill $CONTAINERD; wait $CONTAINERD 2>/dev/null; rm -rf "$C" "$S" "$T"' EXIT
    wait_for 30 ctr version >/dev/null 2>&1 || fail "containerd did not start: $(tail -n 5 "$C/log")"
    tar -C "$IMAGES/busybox" -cf "$C/image.tar" .
    ctr image import --base-name t "$C/image.tar" >/dev/null
    IMAGE=$(ctr image ls -q | head -n 1)
}

hull_ctr() { ctr run --runtime io.containerd.hull.v2 "$@"; }

# Core.
case_ctr_run() {
    containerd_start
    capture timeout 90 ctr run --rm --runtime io.containerd.hull.v2 "$IMAGE" one sh -c 'uname -r; echo err >&2; echo x >/written; exit 3'
    expect_status 3
    expect_out_has -hull
    expect_err_has err
    expect_clean_host
}

case_ctr_task() {
    containerd_start
    hull_ctr -d "$IMAGE" two sleep 600
    ctr task ls | grep two | grep -q RUNNING
    capture timeout 30 ctr task exec --exec-id e1 two sh -c 'echo in; exit 5'
    expect_status 5
    expect_out $'in\n'
    capture timeout 30 ctr task ps two
    expect_status 0
    capture timeout 30 ctr task metrics two
    expect_out_has memory.usage
    ctr task pause two
    ctr task ls | grep two | grep -q PAUSED
    ctr task resume two
    ctr task kill -s KILL two
    wait_for 20 sh -c 'ctr task ls | grep two | grep -q STOPPED'
    ctr task rm two >/dev/null 2>&1 || true
    ctr container rm two
    expect_clean_host
}

case_containerd_restarts_with_containers_alive() {
    containerd_start
    hull_ctr -d "$IMAGE" three sleep 600
    kill -9 "$CONTAINERD"
    sleep 1
    containerd -c "$C/config.toml" >>"$C/log" 2>&1 &
    CONTAINERD=$!
    wait_for 30 ctr version >/dev/null 2>&1
    ctr task ls | grep three | grep -q RUNNING
    capture timeout 30 ctr task exec --exec-id e1 three echo alive
    expect_out $'alive\n'
    ctr task kill -s KILL three
    wait_for 20 sh -c 'ctr task ls | grep three | grep -q STOPPED'
    ctr task rm three >/dev/null 2>&1 || true
    ctr container rm three
    expect_clean_host
}

case_containerd_killed_in_every_state_finds_its_containers_and_removes_them() {
    containerd_start
    local state
    hull_ctr -d "$IMAGE" running sleep 600
    hull_ctr -d "$IMAGE" paused sleep 600
    ctr task pause paused
    hull_ctr -d "$IMAGE" stopped true
    wait_for 20 sh -c 'ctr task ls | grep "stopped " | grep -q STOPPED'
    kill -9 "$CONTAINERD"
    wait "$CONTAINERD" 2>/dev/null || true
    containerd -c "$C/config.toml" >>"$C/log" 2>&1 &
    CONTAINERD=$!
    wait_for 30 ctr version >/dev/null 2>&1
    for state in running paused stopped; do
        ctr task ls | grep "^$state " | grep -qi "$state" || fail "$state: $(ctr task ls)"
    done
    ctr task resume paused
    capture timeout 30 ctr task exec --exec-id e1 paused echo thawed
    expect_out $'thawed\n'
    for state in running paused; do
        ctr task kill -s KILL "$state"
        wait_for 20 sh -c "ctr task ls | grep '^$state ' | grep -q STOPPED"
    done
    for state in running paused stopped; do
        ctr task rm "$state" >/dev/null 2>&1 || true
        ctr container rm "$state"
    done
    expect_clean_host
}

case_a_shim_killed_in_every_state_leaves_nothing() {
    containerd_start
    local state
    for state in running paused stopped; do
        case $state in
            stopped)
                hull_ctr -d "$IMAGE" "$state" true
                wait_for 20 sh -c 'ctr task ls | grep "stopped " | grep -q STOPPED'
                ;;
            *)
                hull_ctr -d "$IMAGE" "$state" sleep 600
                [ "$state" = running ] || ctr task pause "$state"
                ;;
        esac
        pkill -9 -f "[s]him-hull-v2.*-id $state"
        wait_for 20 sh -c "! ctr task ls | grep '^$state ' | grep -qE 'RUNNING|PAUSED'" || fail "$(ctr task ls)"
        ctr task rm "$state" >/dev/null 2>&1 || true
        ctr container rm "$state"
        expect_clean_host
    done
}

case_killed_vmm_is_an_exit_for_containerd() {
    containerd_start
    hull_ctr -d "$IMAGE" four sleep 600
    pkill -9 -x hull-vmm
    wait_for 10 sh -c 'ctr task ls | grep four | grep -q STOPPED'
    ctr task rm four >/dev/null 2>&1 || true
    ctr container rm four
    expect_clean_host
}

# CNI comes between create and start: the interface is plugged into the running VM.
# Core.
case_ctr_cni() {
    [ -x /usr/lib/cni/bridge ] || skip 'the CNI plugins are not installed'
    containerd_start
    mkdir -p /etc/cni/net.d /opt/cni
    [ -e /opt/cni/bin ] || ln -s /usr/lib/cni /opt/cni/bin
    cat >/etc/cni/net.d/10-hull-test.conflist <<X
{"cniVersion": "0.4.0", "name": "hull-test", "plugins": [{"type": "bridge", "bridge": "cnihull", "isGateway": true,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
X
    capture timeout 90 ctr run --rm --cni --runtime io.containerd.hull.v2 "$IMAGE" five sh -c 'ip addr show eth0; ping -c 1 -W 5 10.77.0.1'
    rm -f /etc/cni/net.d/10-hull-test.conflist
    expect_status 0
    expect_out_has 'inet 10.77.0'
    expect_out_has '1 packets received'
}

# As a CRI plugin does it: containers that name the sandbox of another run in its VM.
case_ctr_pod() {
    containerd_start
    local type=io.kubernetes.cri.container-type sandbox=io.kubernetes.cri.sandbox-id
    mkdir "$T/shared"
    hull_ctr -d --annotation "$type=sandbox" --annotation "$sandbox=pod" "$IMAGE" pod sleep 600
    # The host mounts it when the pod runs already, as it does a volume of one.
    mount -t tmpfs late "$T/shared"
    echo late >"$T/shared/late"
    hull_ctr -d --annotation "$type=container" --annotation "$sandbox=pod" \
        --mount "type=bind,src=$T/shared,dst=/shared,options=rbind:rw" "$IMAGE" web \
        sh -c 'echo page >/tmp/f; echo x >/shared/x; exec httpd -f -p 8080 -h /tmp'
    expect_eq "$(pgrep -c -x hull-vmm)" 1 VMs
    capture timeout 90 ctr run --rm --runtime io.containerd.hull.v2 --annotation "$type=container" --annotation "$sandbox=pod" \
        --mount "type=bind,src=$T/shared,dst=/shared,options=rbind:ro" "$IMAGE" client \
        sh -c 'cat /shared/x /shared/late; wget -q -O - http://127.0.0.1:8080/f; exit 4'
    expect_status 4
    expect_out $'x\nlate\npage\n'
    capture timeout 30 ctr task exec --exec-id e1 web cat /shared/x
    expect_out $'x\n'
    for id in web pod; do
        ctr task kill -s KILL "$id"
        wait_for 20 sh -c "ctr task ls | grep '$id ' | grep -q STOPPED"
        ctr task rm "$id" >/dev/null 2>&1 || true
        ctr container rm "$id"
    done
    umount "$T/shared"
    expect_clean_host
    # Without the pod's VM there is nothing to join.
    capture timeout 60 ctr run --rm --runtime io.containerd.hull.v2 --annotation "$type=container" --annotation "$sandbox=pod" "$IMAGE" late true
    [ "$status" != 0 ] || fail 'a container of a pod that is gone'
    expect_err_has 'does not run'
    ctr container rm late 2>/dev/null || true
}

# Whoever sees the end of a container has seen those of its execs, as with containerd's own shim.
case_events_have_containerds_order() {
    containerd_start
    hull_ctr -d "$IMAGE" events sleep 600
    ctr events >"$T/events" 2>&1 &
    local listens=$!
    sleep 2
    ctr task exec --exec-id e1 events true
    ctr task exec --exec-id e2 events sh -c 'while :; do echo x; done' >/dev/null 2>&1 &
    wait_for 20 grep -q 'exec-started.*e2' "$T/events" || fail "$(cat "$T/events")"
    ctr task pause events
    ctr task resume events
    ctr task kill -s KILL events
    wait_for 20 sh -c 'ctr task ls | grep events | grep -q STOPPED'
    ctr task rm events >/dev/null 2>&1 || true
    wait_for 20 grep -q '/tasks/delete' "$T/events" || fail "$(cat "$T/events")"
    kill "$listens"
    # The second of these ids is the exec's.
    expect_eq "$(sed -nE 's,.*(/tasks/[a-z-]+).*"(exec_id|id)":"(e[12]).*,\1 \3,p; t; s,.*(/tasks/[a-z-]+).*,\1,p' "$T/events" | tr '\n' ';')" \
        '/tasks/exec-added e1;/tasks/exec-started e1;/tasks/exit e1;/tasks/exec-added e2;/tasks/exec-started e2;/tasks/paused;/tasks/resumed;/tasks/exit e2;/tasks/exit;/tasks/delete;'
    ctr container rm events
    expect_clean_host
}

# A program that takes both streams, as nerdctl has one: told of by a URI, ready when it closes
# descriptor 5, and ended with its process.
case_containerd_loggers_and_log_files() {
    containerd_start
    cat >"$C/logger" <<'X'
#!/bin/sh
log=$2
[ "$1" = log ] || exit 1
echo "of $CONTAINER_NAMESPACE/$CONTAINER_ID $4" >"$log"
exec 5>&-
cat <&4 | sed -u 's/^/err /' >>"$log" &
sed -u 's/^/out /' <&3 >>"$log"
wait
echo ended >>"$log"
X
    # One that hangs, whatever it is told, and one that dies at once.
    printf '#!/bin/sh\ntrap "" TERM; exec 5>&-; while :; do sleep 1000; done\n' >"$C/hangs"
    printf '#!/bin/sh\nexec 5>&-; exit 3\n' >"$C/dies"
    chmod +x "$C/logger" "$C/hangs" "$C/dies"
    hull_ctr -d --log-uri "$(logger_uri c1)" "$IMAGE" c1 sh -c 'echo hello; echo wrong >&2; sleep 600'
    log_has c1 'of default/c1 a b'
    log_has c1 'out hello'
    log_has c1 'err wrong'
    # Execs have their own.
    ctr task exec --exec-id e1 --detach --log-uri "$(logger_uri e1)" c1 echo inside
    log_has e1 'of default/e1 a b'
    log_has e1 'out inside'
    log_has e1 ended
    pgrep -f "$C/logger log $C/c1.log" >/dev/null || fail 'the logger ended with an exec'
    logger_end c1
    log_has c1 ended
    # Neither holds the shim up, nor is left.
    hull_ctr -d --log-uri "binary://$C/hangs" "$IMAGE" c2 sh -c 'while :; do echo x; done'
    hull_ctr -d --log-uri "binary://$C/dies" "$IMAGE" c3 sh -c 'while echo x; do sleep 0.1; done; sleep 600'
    capture timeout 30 ctr task exec --exec-id e1 c2 echo goes on
    expect_out $'goes on\n'
    logger_end c2
    logger_end c3
    expect_eq "$(pgrep -f "$C/hangs|$C/dies")" '' 'loggers that are left'
    # With its owner killed nobody else would end it.
    hull_ctr -d --log-uri "binary://$C/hangs" "$IMAGE" c4 sleep 600
    pgrep -f "$C/hangs" >/dev/null || fail 'no logger'
    pkill -9 -f '[s]him-hull-v2.*-id c4'
    wait_for 20 sh -c "! pgrep -f '[h]ull/containerd.*/hangs' >/dev/null" || fail 'a logger outlives a killed shim'
    ctr task rm -f c4 >/dev/null 2>&1 || true
    ctr container rm c4
    # Files are made with their directories, and appended to.
    for id in f1 f2; do
        capture timeout 90 ctr run --rm --runtime io.containerd.hull.v2 --log-uri "file://$C/new/log" "$IMAGE" "$id" sh -c "echo $id; echo err >&2"
        expect_status 0
    done
    expect_eq "$(sort "$C/new/log" | tr '\n' ' ')" 'err err f1 f2 ' 'the log file'
    for uri in syslog:///x binary:///nonexistent "binary://$C/new"; do
        capture timeout 60 ctr run --rm --runtime io.containerd.hull.v2 --log-uri "$uri" "$IMAGE" wrong true
        [ "$status" != 0 ] || fail "$uri is taken"
        expect_err_has "${uri#binary://}"
        ctr container rm wrong 2>/dev/null || true
    done
    expect_clean_host
}
logger_uri() { echo "binary://$C/logger?log=$C/$1.log&flag=a+b"; }
log_has() { wait_for 20 grep -qx "$2" "$C/$1.log" || fail "$1 has no '$2': $(cat "$C/$1.log")"; }
logger_end() {
    ctr task kill -s KILL "$1"
    wait_for 20 sh -c "ctr task ls | grep '^$1 ' | grep -q STOPPED" || fail "$(ctr task ls)"
    ctr task rm "$1" >/dev/null 2>&1 || true
    ctr container rm "$1"
}

# The host's OOM killer takes a VM, not the engine that it belongs to.
case_a_vm_is_told_of_to_the_hosts_oom_killer() {
    containerd_start -500
    hull_ctr -d "$IMAGE" plain sleep 600
    expect_eq "$(cat "/proc/$(pgrep -x hull-vmm)/oom_score_adj")" 0 'of one that asks for nothing'
    ctr task kill -s KILL plain
    wait_for 20 sh -c 'ctr task ls | grep plain | grep -q STOPPED'
    ctr task rm plain >/dev/null 2>&1 || true
    ctr container rm plain
    expect_clean_host
}

# What can't be removed is told in a log: containerd takes all that a shim prints as its address.
case_a_leftover_that_stays_is_no_ones_failure() {
    containerd_start
    local left=/run/hull/sandboxes/t-left
    hull_ctr -d "$IMAGE" before sleep 600
    mkdir -p "$left" /sys/fs/cgroup/hull/t-left/sub
    jq '.pid = 4194000 | .cgroups = ["hull/t-left"]' /run/hull/sandboxes/*before/owner.json >"$left/owner.json"
    capture timeout 90 ctr run --rm --runtime io.containerd.hull.v2 "$IMAGE" after echo works
    rmdir /sys/fs/cgroup/hull/t-left/sub
    expect_status 0
    expect_out $'works\n'
    ctr task kill -s KILL before
    wait_for 20 sh -c 'ctr task ls | grep before | grep -q STOPPED'
    ctr task rm before >/dev/null 2>&1 || true
    ctr container rm before
    # With what kept it gone, the next start removes it.
    ctr run --rm --runtime io.containerd.hull.v2 "$IMAGE" last true
    [ ! -e "$left" ] || fail 'it is still there'
    expect_clean_host
}
