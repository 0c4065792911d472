# podman with hull-runtime, through conmon. Skipped where podman is not installed.

# Where the logs of containers that are gone are kept: their end is conmon's to clean up.
PODMAN_LOGS=/run/hull-podman-test

podman_hull() { podman --runtime "$PODMAN_LOGS/hull-runtime" --cgroup-manager cgroupfs --events-backend file "$@"; }

# hull-runtime, but for a copy of each shim's log before a delete.
podman_runtime() {
    mkdir -p "$PODMAN_LOGS"
    rm -f "$PODMAN_LOGS"/*.log
    cat >"$PODMAN_LOGS/hull-runtime" <<EOF
#!/bin/bash
if [[ " \$* " == *" delete "* ]]; then
    for log in /run/hull-runtime/*/shim.log; do
        [ ! -s "\$log" ] || cp "\$log" "$PODMAN_LOGS/\$(basename "\$(dirname "\$log")").log" 2>/dev/null
    done
fi
exec "$(command -v hull-runtime)" "\$@"
EOF
    chmod +x "$PODMAN_LOGS/hull-runtime"
}

# The reason of an unexpected end is in the shims' logs.
fail() {
    echo "failed: $*"
    tail -n 30 "$PODMAN_LOGS"/*.log /run/hull-runtime/*/shim.log 2>/dev/null | cut -c1-2000
    exit 1
}

podman_setup() {
    command -v podman >/dev/null || skip "podman is not installed"
    podman_runtime
    podman rm -f -t 0 hull-test >/dev/null 2>&1 || true
    podman image exists localhost/hull-test && return
    mkdir -p "$T/root"/{bin,dev,etc,proc,sys,tmp,root}
    cp /bin/busybox "$T/root/bin/"
    for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln "$T/root/bin/busybox" "$T/root/bin/$applet"; done
    tar -C "$T/root" -c . | podman import -c 'ENV PATH=/bin' - localhost/hull-test >/dev/null
}

# Core.
case_podman_run_has_output_and_status() {
    podman_setup
    capture podman_hull run --rm --network none localhost/hull-test sh -c 'echo out; echo err >&2; exit 7'
    expect_status 7
    expect_out $'out\n'
    expect_err_has err
    capture podman_hull run --rm --network none localhost/hull-test no-such-program
    expect_status 127
    expect_eq "$(echo in | podman_hull run -i --rm --network none localhost/hull-test cat)" in stdin
}

case_podman_a_container_lives_and_stops() {
    podman_setup
    podman_hull run -d --name hull-test --network none localhost/hull-test \
        sh -c 'trap "echo bye; exit 3" TERM; echo up; while :; do sleep 0.2; done' >/dev/null
    wait_for 10 sh -c 'podman logs hull-test | grep -q up' || fail "logs: $(podman logs hull-test)"
    expect_eq "$(podman_hull exec hull-test echo hi)" hi exec
    capture podman_hull exec hull-test sh -c 'exit 9'
    expect_status 9
    echo copied >"$T/file"
    podman_hull cp "$T/file" hull-test:/tmp/file
    expect_eq "$(podman_hull exec hull-test cat /tmp/file)" copied cp
    [ ! -e /tmp/file ] || [ "$(cat /tmp/file)" != copied ] || fail "copied to the host"
    podman_hull pause hull-test >/dev/null
    expect_eq "$(podman_hull inspect -f '{{.State.Status}}' hull-test)" paused
    podman_hull unpause hull-test >/dev/null
    podman_hull stop -t 10 hull-test >/dev/null
    expect_eq "$(podman_hull inspect -f '{{.State.Status}} {{.State.ExitCode}}' hull-test)" "exited 3"
    expect_eq "$(podman logs hull-test | tail -n 1)" bye logs
    podman_hull rm hull-test >/dev/null
}

case_podman_containers_have_their_network() {
    podman_setup
    podman_hull run -d --name hull-test -p 127.0.0.1:18098:80 localhost/hull-test \
        sh -c 'mkdir /www; echo served >/www/f; exec httpd -f -p 80 -h /www' >/dev/null
    wait_for 20 curl -s -o /dev/null http://127.0.0.1:18098/f || fail "the port is not served"
    expect_eq "$(curl -s -m 10 http://127.0.0.1:18098/f)" served port
    local address
    address=$(podman inspect -f '{{.NetworkSettings.IPAddress}}' hull-test)
    expect_eq "$(podman_hull run --rm localhost/hull-test wget -q -O - "http://$address/f")" served neighbour
    podman_hull rm -f -t 0 hull-test >/dev/null
    capture podman_hull run --rm --network host localhost/hull-test true
    expect_status 126
    expect_err_has "host's network is not supported"
}

# podman's defaults for the first container of a pod are not there: an image of its own.
podman_pod_setup() {
    podman_setup
    podman pod rm -f -t 0 hull-pod >/dev/null 2>&1 || true
    podman image exists localhost/hull-infra ||
        printf 'FROM localhost/hull-test\nCMD ["sleep", "100000"]\n' | podman build --network none -q -t localhost/hull-infra - >/dev/null 2>&1
    printf '[engine]\ninfra_image = "localhost/hull-infra"\ninfra_command = "sleep 100000"\n' >"$T/containers.conf"
    export CONTAINERS_CONF=$T/containers.conf
}

case_podman_a_pod_is_one_vm() {
    podman_pod_setup
    podman_hull pod create --name hull-pod -p 127.0.0.1:18097:80 --hostname podhost >/dev/null
    podman_hull run -d --name hull-test --pod hull-pod localhost/hull-test \
        sh -c 'mkdir /www; echo pod >/www/f; exec httpd -f -p 80 -h /www' >/dev/null
    expect_eq "$(pgrep -c -x hull-vmm)" 1 VMs
    capture podman_hull run --rm --pod hull-pod localhost/hull-test \
        sh -c 'wget -q -O - http://127.0.0.1/f; hostname; ls /www; echo shared >/dev/shm/file'
    expect_out $'pod\npodhost\n'
    expect_eq "$(podman_hull exec hull-test cat /dev/shm/file)" shared shm
    wait_for 20 curl -s -o /dev/null http://127.0.0.1:18097/f || fail "the port is not served"
    expect_eq "$(curl -s -m 10 http://127.0.0.1:18097/f)" pod port
    # Its first container is made anew, in a network of its own, while the other one still runs.
    podman_hull pod restart hull-pod >/dev/null 2>&1
    wait_for 30 curl -s -o /dev/null http://127.0.0.1:18097/f || fail "not served after a restart: $(podman ps -a)"
    expect_eq "$(pgrep -c -x hull-vmm)" 1 'VMs after a restart'
    podman_hull pod rm -f -t 0 hull-pod >/dev/null
    ! pgrep -x hull-vmm || fail 'a VM is left'
}

case_podman_plays_a_kubernetes_pod() {
    podman_pod_setup
    cat >"$T/pod.yaml" <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: hull-pod}
spec:
  restartPolicy: Never
  initContainers:
  - {name: prepare, image: localhost/hull-test, command: [sh, -c, "echo prepared >/data/f"], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - name: web
    image: localhost/hull-test
    command: [sh, -c, "exec httpd -f -p 80 -h /data"]
    ports: [{containerPort: 80, hostPort: 18097, hostIP: 127.0.0.1}]
    volumeMounts: [{name: data, mountPath: /data}, {name: conf, mountPath: /conf}]
    resources: {limits: {memory: 64Mi}}
  - {name: side, image: localhost/hull-test, command: [sleep, "1000"]}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: conf, configMap: {name: conf}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {key: value}
YAML
    capture podman_hull play kube "$T/pod.yaml"
    expect_status 0
    expect_eq "$(pgrep -c -x hull-vmm)" 1 VMs
    wait_for 20 curl -s -o /dev/null http://127.0.0.1:18097/f || fail "the port is not served"
    expect_eq "$(curl -s -m 10 http://127.0.0.1:18097/f)" prepared port
    expect_eq "$(podman_hull exec hull-pod-web cat /conf/key /sys/fs/cgroup/memory.max)" value67108864 'configuration and limit'
    expect_eq "$(podman_hull exec hull-pod-side wget -q -O - http://127.0.0.1/f)" prepared localhost
    podman_hull play kube --down "$T/pod.yaml" >/dev/null 2>&1
    ! pgrep -x hull-vmm || fail 'a VM is left'
}

case_podman_an_overlay_of_a_directory_leaves_it_as_it_was() {
    podman_setup
    mkdir "$T/own"
    echo before >"$T/own/f"
    capture podman_hull run --rm --network none -v "$T/own:/d:O" localhost/hull-test sh -c 'cat /d/f; echo after >/d/f; cat /d/f'
    expect_status 0
    expect_out $'before\nafter\n'
    expect_eq "$(cat "$T/own/f")" before 'the directory'
}

# podman mounts memory before /proc.
case_podman_a_read_only_container_has_memory_where_it_asks_for_it() {
    podman_setup
    capture podman_hull run --rm --network none --read-only --tmpfs /opt:size=5m localhost/hull-test \
        sh -c 'for d in /tmp /run /var/tmp /opt; do touch $d/x && echo $d; done; touch /x'
    expect_status 1
    expect_out $'/tmp\n/run\n/var/tmp\n/opt\n'
    expect_err_has 'Read-only file system'
}

# The ids of a user namespace on the host are those of its virtiofsd, which passes through the runtime
# directory as any other user.
case_podman_files_have_the_ids_of_a_user_namespace() {
    podman_setup
    mkdir -m 777 "$T/volume"
    echo secret >"$T/volume/of-root"
    chmod 600 "$T/volume/of-root"
    capture podman_hull run --rm --uidmap 0:100000:65536 --gidmap 0:200000:65536 -v "$T/volume:/v" localhost/hull-test \
        sh -c 'touch /v/made && stat -c %u:%g /v/made; cat /v/of-root || stat -c %u /v/of-root; ip -o addr show dev eth0 | grep -c "inet "'
    expect_status 0
    expect_out $'0:0\n65534\n1\n'
    expect_err_has 'Permission denied'
    expect_eq "$(stat -c %u:%g "$T/volume/made")" 100000:200000 'ids on the host'
}
