# containerd with its CRI plugin, whose pods run in Hull, and a client of it. Sourced by cases, which have
# the harness's functions. Gives `cri` (tests/lib/cri.py), $C (containerd's folder), $S (its sockets).

# CRI_HANDLER=runc runs the same cases in runc, to see what is Hull's.
export CRI_HANDLER=${CRI_HANDLER:-${HULL_CRI_HANDLER:-hull}}
CRI_IMAGE_NAME=docker.io/library/t

CRI_PROGRAM=(/usr/bin/python3 -ISB tests/lib/cri.py)
cri() { "${CRI_PROGRAM[@]}" "$@"; }

cri_start() {
    command -v containerd >/dev/null || skip 'containerd is not installed'
    [ -x /usr/lib/cni/bridge ] || skip 'the CNI plugins are not installed'
    /usr/bin/python3 -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("grpc") and u.find_spec("grpc_tools")))' ||
        skip 'python3-grpcio or python3-grpc-tools is not installed'
    # The overlay snapshotter needs a real file system, and sockets need short paths.
    C=$(mktemp -d /var/lib/hull/cri.XXXXXX)
    S=$(mktemp -d /run/hull-cri.XXXX)
    export CRI_ENDPOINT=$S/c.sock CRI_SERVER=$S/client.sock CRI_HOME=$C CRI_IMAGE=$CRI_IMAGE_NAME:latest
    export CONTAINERD_ADDRESS=$S/c.sock CONTAINERD_NAMESPACE=k8s.io
    trap 'status=$?; cri_stop $status; rm -rf "$T"; exit $status' EXIT
    NETNS_BEFORE=$(ip netns list | grep -c cni-) || true
    cri_config "$@" >"$C/config.toml"
    cri_network
    /usr/bin/python3 -B tests/lib/cri.py serve 2>"$C/client.log" &
    CRI_CLIENT=$!
    containerd_up
    cri_image
}

# The table of containerd 1.x; what a case gives is put into the plugin's own.
cri_config() {
    cat <<C
version = 2
root = "$C/root"
state = "$S/state"
[grpc]
address = "$S/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$CRI_IMAGE_NAME:pause"
stream_server_address = "127.0.0.1"
$*
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$C/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "$CRI_HANDLER"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.hull]
runtime_type = "io.containerd.hull.v2"
pod_annotations = ["dev.hull.*"]
container_annotations = ["dev.hull.*"]
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
C
}

cri_network() {
    mkdir -p "$C/cni"
    cat >"$C/cni/10-test.conflist" <<C
{"cniVersion": "0.4.0", "name": "t-cri", "plugins": [
 {"type": "bridge", "bridge": "t-cri", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$C/ipam", "ranges": [[{"subnet": "10.78.0.0/24"}]],
           "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
C
}

# Also after its end: containers live on.
containerd_up() {
    containerd -c "$C/config.toml" >>"$C/log" 2>&1 &
    CONTAINERD=$!
    wait_for 200 cri version >/dev/null 2>&1 || fail "containerd did not start: $(tail -n 5 "$C/log" "$C/client.log")"
}

containerd_killed() {
    kill -9 "$CONTAINERD"
    wait "$CONTAINERD" 2>/dev/null || true
}

# Two names of one image: a pod's own process only waits.
cri_image() {
    cp -a "$IMAGES/busybox" "$C/image"
    umoci config --image "$C/image:latest" --tag pause --config.cmd sleep --config.cmd infinity
    tar -C "$C/image" -cf "$C/image.tar" .
    ctr image import --base-name "$CRI_IMAGE_NAME" "$C/image.tar" >/dev/null
}

# Of a case that failed, what there is to read; and everything that it left.
cri_stop() {
    local pod
    set +e
    if [ "$1" != 0 ] && [ "$1" != 75 ]; then
        echo "containerd's log:"
        grep -E 'level=(error|warning|fatal)' "$C/log" | grep -vE 'load plugin|skip loading|image_pull|CDI|NRI' | tail -n 12 | cut -c1-400
    fi
    for pod in $(timeout 20 "${CRI_PROGRAM[@]}" pods | cut -d' ' -f1); do
        timeout 60 "${CRI_PROGRAM[@]}" stopp "$pod"
        timeout 60 "${CRI_PROGRAM[@]}" rmp "$pod"
    done >/dev/null 2>&1
    jobs -p | grep -vx "$CONTAINERD" | xargs -r kill 2>/dev/null
    kill "$CONTAINERD" 2>/dev/null
    wait "$CONTAINERD" 2>/dev/null
    [ "$1" = 0 ] || pgrep -f "containerd-shim.*$S/c.sock" | xargs -r kill -9 2>/dev/null
    awk -v c="$C" -v s="$S" -v t="$T" 'index($2, c) == 1 || index($2, s) == 1 || index($2, t) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n 1 umount -l
    ip link del t-cri 2>/dev/null
    rm -rf "$C" "$S"
}

# What a case that removed its pods must not leave: the host is as before, and containerd knows nothing.
expect_no_pods() {
    expect_eq "$(cri pods)" '' 'pods left'
    expect_eq "$(ctr container ls -q)" '' 'containers left'
    expect_eq "$(find "$S/state" -path '*task/*' -mindepth 3 -maxdepth 3)" '' 'bundles left'
    expect_eq "$(ip netns list | grep -c cni-)" "$NETNS_BEFORE" 'network namespaces left'
    expect_clean_host
}
