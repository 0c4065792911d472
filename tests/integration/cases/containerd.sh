# containerd with Hull as its runtime: ctr, as its users type it.

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
    containerd -c "$C/config.toml" >"$C/log" 2>&1 &
    CONTAINERD=$!
    export CONTAINERD_ADDRESS=$S/c.sock
    trap 'kill $CONTAINERD; wait $CONTAINERD 2>/dev/null; rm -rf "$C" "$S" "$T"' EXIT
    wait_for 30 ctr version >/dev/null 2>&1 || fail "containerd did not start: $(tail -n 5 "$C/log")"
    tar -C "$IMAGES/busybox" -cf "$C/image.tar" .
    ctr image import --base-name t "$C/image.tar" >/dev/null
    IMAGE=$(ctr image ls -q | head -n 1)
}

hull_ctr() { ctr run --runtime io.containerd.hull.v2 "$@"; }

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

case_killed_vmm_is_an_exit_for_containerd() {
    containerd_start
    hull_ctr -d "$IMAGE" four sleep 600
    pkill -9 -x hull-vmm
    wait_for 10 sh -c 'ctr task ls | grep four | grep -q STOPPED'
    ctr task rm four >/dev/null 2>&1 || true
    ctr container rm four
    expect_clean_host
}
