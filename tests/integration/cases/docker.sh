# dockerd with hull-runtime as its runtime. Skipped where dockerd is not installed.

. tests/lib/dockerd.sh

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
}

# What dockerd saves is what Hull loads.
case_docker_an_image_moves_to_hull() {
    docker_start
    docker tag hull-test moved:1
    docker save moved:1 | hull load -q >"$T/loaded"
    grep -q 'moved:1' "$T/loaded" || fail "$(cat "$T/loaded")"
    expect_eq "$(hull run --rm moved:1 sh -c 'echo $PATH; uname -r | grep -c hull')" $'/bin\n1' 'what it runs'
    hull rmi moved:1 >/dev/null
}

case_docker_a_container_that_shares_anothers_network_is_in_its_vm() {
    docker_start
    docker run -d --name own --ipc shareable -p 127.0.0.1:18099:80 hull-test sh -c 'mkdir /www; exec sleep 1000' >/dev/null
    docker run -d --name in --network container:own --ipc container:own --pid container:own hull-test \
        sh -c 'mkdir /w; echo joined >/w/f; exec httpd -f -p 80 -h /w' >/dev/null
    expect_eq "$(pgrep -c -x hull-vmm)" 1 VMs
    wait_for 20 curl -s -o /dev/null http://127.0.0.1:18099/f || fail "$(docker logs in)"
    expect_eq "$(curl -s -m 10 http://127.0.0.1:18099/f)" joined 'the published port'
    expect_eq "$(docker exec in sh -c 'ps | grep -c "[s]leep 1000"; ls -d /www 2>/dev/null')" 1 'processes and files'
    docker rm -f in >/dev/null
    docker exec own true
    docker rm -f own >/dev/null
    ! pgrep -x hull-vmm || fail 'a VM is left'
}

case_docker_builds_in_microvms() {
    docker_start
    printf 'FROM hull-test\nRUN uname -r >/built\nCMD ["cat", "/built"]\n' |
        DOCKER_BUILDKIT=0 timeout 120 docker build -q -t built - >/dev/null 2>&1
    capture timeout 60 docker run --rm built
    expect_out_has -hull
}
