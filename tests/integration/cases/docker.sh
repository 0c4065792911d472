# dockerd with hull-runtime as one of its runtimes. Skipped where dockerd is not installed.

docker_start() {
    command -v dockerd >/dev/null || skip 'dockerd is not installed'
    # The overlay driver needs a real file system, and sockets need short paths.
    D=$(mktemp -d /var/lib/hull/dockerd.XXXXXX)
    S=$(mktemp -d /run/hull-dk.XXXX)
    echo "{\"runtimes\": {\"hull\": {\"path\": \"$(command -v hull-runtime)\"}}, \"default-runtime\": \"hull\"}" >"$S/daemon.json"
    export DOCKER_HOST=unix://$S/docker.sock
    dockerd --config-file "$S/daemon.json" -H "$DOCKER_HOST" --data-root "$D" --exec-root "$S/exec" -p "$S/pid" >"$D/log" 2>&1 &
    DOCKERD=$!
    trap 'docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1 || true; kill $DOCKERD; wait $DOCKERD 2>/dev/null || true; umount "$S"/exec/netns/* 2>/dev/null || true; rm -rf "$S" "$T" "$D" 2>/dev/null || true' EXIT
    wait_for 60 docker version >/dev/null 2>&1 || fail "dockerd did not start: $(tail -n 5 "$D/log")"
    mkdir -p "$T/root"/{bin,dev,etc,proc,sys,tmp,root}
    cp /bin/busybox "$T/root/bin/"
    for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln "$T/root/bin/busybox" "$T/root/bin/$applet"; done
    tar -C "$T/root" -c . | docker import -c 'ENV PATH=/bin' - hull-test >/dev/null
}

# Core.
case_docker_containers_have_their_networks() {
    docker_start
    capture timeout 60 docker run --rm hull-test sh -c 'uname -r; ip route; exit 7'
    expect_status 7
    expect_out_has -hull
    expect_out_has 'default via'
    # A published port, and a payload that arrives whole.
    docker run -d --name web -p 127.0.0.1:18099:80 hull-test \
        sh -c 'mkdir /www; head -c 2000000 /dev/urandom >/www/big; md5sum </www/big; exec httpd -f -p 80 -h /www' >/dev/null
    wait_for 20 sh -c 'docker logs web | grep -q -- -' || fail "$(docker logs web 2>&1)"
    wait_for 20 curl -s -o /dev/null http://127.0.0.1:18099/big || fail "the port is not served"
    expect_eq "$(curl -s -m 20 http://127.0.0.1:18099/big | md5sum)" "$(docker logs web)" payload
    # Names in a network of its own, by dockerd's resolver.
    docker network create net1 >/dev/null
    docker run -d --name two --network net1 --network-alias alias hull-test httpd -f -p 80 -h /etc >/dev/null
    capture timeout 60 docker run --rm --network net1 hull-test sh -c 'cat /etc/resolv.conf; nslookup alias; wget -q -O - http://two/hostname'
    expect_out_has 127.0.0.11
    expect_out_has "$(docker inspect -f '{{.Config.Hostname}}' two)"
    # None, and what a VM can't have.
    expect_eq "$(timeout 60 docker run --rm --network none hull-test sh -c 'ls /sys/class/net')" lo none
    capture timeout 60 docker run --rm --network host hull-test true
    expect_status 125
    expect_err_has "host's network is not supported"
    capture timeout 60 docker run --rm --network container:two hull-test true
    expect_status 125
    expect_err_has "two VMs can't share"
}

case_docker_builds_in_microvms() {
    docker_start
    printf 'FROM hull-test\nRUN uname -r >/built\nCMD ["cat", "/built"]\n' |
        DOCKER_BUILDKIT=0 timeout 120 docker build -q -t built - >/dev/null 2>&1
    capture timeout 60 docker run --rm built
    expect_out_has -hull
}
