# Sourced by cases that need a dockerd of their own, whose default runtime is hull-runtime; with
# tests/integration/harness.sh.

# Leaves $D (its data), $S (its sockets), $DOCKERD (its PID) and an image `hull-test`; skips the case
# where dockerd is not installed.
docker_start() {
    command -v dockerd >/dev/null || skip 'dockerd is not installed'
    # The overlay driver needs a real file system, and sockets need short paths.
    D=$(mktemp -d /var/lib/hull/dockerd.XXXXXX)
    S=$(mktemp -d /run/hull-dk.XXXX)
    echo "{\"runtimes\": {\"hull\": {\"path\": \"$(command -v hull-runtime)\"}}, \"default-runtime\": \"hull\"}" >"$S/daemon.json"
    export DOCKER_HOST=unix://$S/docker.sock
    dockerd --config-file "$S/daemon.json" -H "$DOCKER_HOST" --data-root "$D" --exec-root "$S/exec" -p "$S/pid" >"$D/log" 2>&1 &
    DOCKERD=$!
    trap 'docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1 || true; docker network prune -f >/dev/null 2>&1 || true; kill $DOCKERD; wait $DOCKERD 2>/dev/null || true; umount "$S"/exec/netns/* 2>/dev/null || true; rm -rf "$S" "$T" "$D" 2>/dev/null || true' EXIT
    wait_for 60 docker version >/dev/null 2>&1 || fail "dockerd did not start: $(tail -n 5 "$D/log")"
    mkdir -p "$T/root"/{bin,dev,etc,proc,sys,tmp,root}
    cp /bin/busybox "$T/root/bin/"
    for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln "$T/root/bin/busybox" "$T/root/bin/$applet"; done
    tar -C "$T/root" -c . | docker import -c 'ENV PATH=/bin' - hull-test >/dev/null
}
