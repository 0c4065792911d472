# The docker command line against hulld. Skipped where docker is not installed.

docker_cli() {
    command -v docker >/dev/null || skip 'the docker command line is not installed'
    export DOCKER_HOST=$HULL_HOST DOCKER_CONFIG=$T/docker
    unset DOCKER_CONTEXT
}

# answers STATUS TEXT ARGUMENT...: docker's exit status, and a text in what it prints.
answers() {
    local want=$1 text=$2
    shift 2
    capture timeout 60 docker "$@"
    [ "$status" = "$want" ] || fail "docker $*: exit status $status, expected $want: $out$err"
    [[ $out$err == *"$text"* ]] || fail "docker $*: no $(printf %q "$text") in: $out$err"
}

# The command line asks for a container first, and for an image where there is none.
case_docker_cli_a_name_with_slashes_is_an_images() {
    docker_cli
    answers 0 sha256: inspect -f '{{.Id}}' "$BUSYBOX"
    answers 1 'No such container: a/b' logs a/b
    answers 1 'network a/b not found' network inspect a/b
    answers 1 'get a/b: no such volume' volume inspect a/b
}

# Core.
case_docker_cli_bad_wishes_are_named() {
    docker_cli
    local run=(run --rm --network none)
    docker create --name t-taken "$BUSYBOX" >/dev/null
    answers 1 'Conflict. The container name' create --name t-taken "$BUSYBOX"
    answers 1 'Invalid container name' create --name a/b "$BUSYBOX"
    answers 125 'network nosuchnet not found' run --rm --network nosuchnet "$BUSYBOX" true
    [[ $err != *Pulling* ]] || fail "a missing network was taken for a missing image: $err"
    answers 125 'No such container: nosuch' "${run[@]}" --volumes-from nosuch "$BUSYBOX" true
    answers 125 'Minimum memory limit' "${run[@]}" -m 1m "$BUSYBOX" true
    answers 125 'Requested CPUs are not available' "${run[@]}" --cpuset-cpus 99 "$BUSYBOX" true
    answers 125 'CPU cfs period' "${run[@]}" --cpu-period 1 "$BUSYBOX" true
    answers 125 'minimum allowed cpu-shares' "${run[@]}" --cpu-shares 1 "$BUSYBOX" true
    answers 125 "only be used with 'on-failure'" run --network none --restart no:3 "$BUSYBOX" true
    answers 125 'unknown capability: "CAP_NOPE"' "${run[@]}" --cap-add NOPE "$BUSYBOX" true
    answers 125 'invalid signal: NOPE' "${run[@]}" --stop-signal NOPE "$BUSYBOX" true
    answers 125 'plugin "bogus" not found' "${run[@]}" --log-driver bogus "$BUSYBOX" true
    answers 125 'from 128 MiB' "${run[@]}" --storage-opt size=1m "$BUSYBOX" true
    answers 125 'invalid isolation (hyperv)' "${run[@]}" --isolation hyperv "$BUSYBOX" true
    answers 125 'HostConfig.Devices "/dev/kvm" is not supported' "${run[@]}" --device /dev/kvm "$BUSYBOX" true
    echo '{}' >"$T/empty.json"
    answers 125 'Decoding seccomp profile failed' "${run[@]}" --security-opt "seccomp=$T/empty.json" "$BUSYBOX" true
    answers 125 'invalid environment variable: =x' "${run[@]}" -e =x "$BUSYBOX" true
    answers 125 'HostConfig.DeviceRequests is not supported' "${run[@]}" --gpus all "$BUSYBOX" true
    answers 125 'invalid mode: ro,rw' "${run[@]}" -v t-vol:/x:ro,rw "$BUSYBOX" true
    answers 125 "needs the same NetworkMode" "${run[@]}" --pid container:t-taken "$BUSYBOX" true
    answers 0 'HostConfig.BlkioWeight is discarded' create --name t-warned --blkio-weight 20 "$BUSYBOX"
    answers 1 'No such container: nosuch' update -m 64m nosuch
    answers 1 'is not paused' unpause t-taken
    answers 1 "must be one of created, running" ps --filter status=bogus
    answers 1 "invalid filter 'bogus'" ps --filter bogus=1
    answers 1 "invalid filter 'bogus'" images --filter bogus=1
    answers 1 "invalid filter 'bogus'" container prune -f --filter bogus=1
    answers 1 'No such container: nosuch' ps -a --filter before=nosuch
}

# Core.
case_docker_cli_a_life() {
    docker_cli
    docker run -d --name t-cli --label a=b --storage-opt size=150M "$BUSYBOX" sh -c 'echo hello world; trap "exit 3" TERM; while :; do sleep 0.1; done' >/dev/null
    answers 0 "sh -c 'echo hello w" ps --filter 'name=^/t-cl[a-z]$' --filter label=a=b --filter network=bridge
    answers 0 running/64m/bridge/private/json-file inspect -f '{{.State.Status}}/{{if eq .HostConfig.ShmSize 67108864}}64m{{end}}/{{.HostConfig.NetworkMode}}/{{.HostConfig.IpcMode}}/{{.HostConfig.LogConfig.Type}}' t-cli
    answers 0 t-cli update --memory 64m --memory-swap 64m --pids-limit 77 --restart on-failure:2 t-cli
    answers 0 '67108864 77 on-failure:2' inspect -f '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}' t-cli
    capture docker exec t-cli sh -c 'dd if=/dev/zero of=/big bs=1M count=180; ls -l /big; rm /big'
    [[ $err == *'No space left'* ]] || fail "a layer of 150 MiB took 180: $out$err"
    answers 0 67108864 exec t-cli cat /sys/fs/cgroup/memory.max
    answers 0 77 exec t-cli cat /sys/fs/cgroup/pids.max
    answers 1 "invalid restart policy: unknown policy 'bogus'" update --restart bogus t-cli
    answers 1 'should be smaller than already set memoryswap' update --memory 256m t-cli
    answers 0 t-cli update --restart no t-cli
    curl -sf --unix-socket "${HULL_HOST#unix://}" http://x/hull/metrics >"$T/metrics"
    grep -q '^hull_containers{state="running"} [1-9]' "$T/metrics" || fail "$(cat "$T/metrics")"
    grep -q '^hull_container_memory_bytes{name="t-cli",.* [1-9]' "$T/metrics" || fail "$(cat "$T/metrics")"
    docker exec t-cli touch /made-before-the-pause
    docker pause t-cli >/dev/null
    answers 1 'is paused, unpause the container before exec' exec t-cli true
    answers 0 paused ps --filter status=paused --format '{{.State}}'
    answers 0 'A /made-before-the-pause' diff t-cli
    docker unpause t-cli >/dev/null
    # The client asks for events up to the last whole second.
    sleep 1
    answers 0 'unpause' events --since 1h --until 0s --filter container=t-cli --filter event=unpause
    answers 0 'hello world' logs --since 10m t-cli
    answers 0 'trap' top t-cli
    answers 0 t-cli stats --no-stream --format '{{.Name}}' t-cli
    answers 127 'not found' exec t-cli nosuchprogram
    answers 0 '' rename t-cli t-cli2
    answers 0 t-cli2 stop -t 10 t-cli2
    answers 0 3 inspect -f '{{.State.ExitCode}}' t-cli2
    answers 0 t-cli2 ps -a --filter exited=3 --filter name=t-cli2 --format '{{.Names}}'
    answers 0 t-cli2 rm t-cli2
}

case_docker_cli_execs_that_cannot_be() {
    docker_cli
    docker run -d --name t-ex --network none "$BUSYBOX" sleep 600 >/dev/null
    # Before it is started, so that clients which start it detached hear of it.
    answers 1 'unable to find user nosuch' exec -u nosuch t-ex true
    answers 1 'unable to find group nosuch' exec -d -u app:nosuch t-ex true
    answers 1 'must be in range 0-2147483647' exec -u 99999999999 t-ex true
    answers 0 1000:990 exec -u app:dock t-ex sh -c 'echo $(id -u):$(id -g)'
    answers 1 'Invalid escape keys (bogus) provided' exec --detach-keys bogus t-ex true
    expect_eq "$(curl -s --unix-socket "${HULL_HOST#unix://}" -H 'Content-Type: application/json' -d '{"Cmd":[]}' http://x/containers/t-ex/exec)" '{"message":"No exec command specified"}' 'an empty command'
    # At its start.
    answers 128 'OCI runtime exec failed: Cwd must be an absolute path' exec -w etc t-ex true
    answers 127 'no such file or directory' exec -w /nosuch t-ex true
    answers 127 'not a directory' exec -w /etc/passwd t-ex true
    answers 1 'OCI runtime exec failed: exec: "nosuch": executable file not found' exec -d t-ex nosuch
    # As dockerd, on standard output.
    answers 127 '' exec t-ex nosuch
    expect_out_has '"nosuch": executable file not found'
    # The size that an exec is made with.
    local made
    made=$(curl -s --unix-socket "${HULL_HOST#unix://}" -H 'Content-Type: application/json' -d '{"Cmd":["stty","size"],"Tty":true,"AttachStdout":true,"ConsoleSize":[57,123]}' http://x/containers/t-ex/exec | sed 's/.*"Id":"\([^"]*\)".*/\1/')
    curl -s --unix-socket "${HULL_HOST#unix://}" -H 'Content-Type: application/json' -d '{"Tty":true}' "http://x/exec/$made/start" >"$T/size"
    expect_eq "$(tr -d '\r\n' <"$T/size")" '57 123' 'size of its terminal'
    # What a container begins with.
    answers 125 'Cannot mkdir: /etc/passwd is not a directory' run --rm --network none -w /etc/passwd "$BUSYBOX" true
    answers 0 1000:990 run --rm --network none -u app:dock:x "$BUSYBOX" sh -c 'echo $(id -u):$(id -g)'
    answers 127 'executable file not found' run --rm --network none "$BUSYBOX" nosuch
    answers 126 'permission denied' run --rm --network none "$BUSYBOX" /etc/passwd
    answers 126 '/etc' run --rm --network none "$BUSYBOX" /etc
    answers 125 'must be in range 0-2147483647' run --rm --network none -u 99999999999 "$BUSYBOX" true
}

case_docker_cli_an_update_warns_of_what_it_sets() {
    docker_cli
    docker create --name t-upd --network none --blkio-weight 100 "$BUSYBOX" true >/dev/null 2>&1
    capture docker update --memory 64m --memory-swap 128m t-upd
    expect_eq "$status$err" 0 'no warning of what it has'
    answers 1 'Range of blkio weight is from 10 to 1000' update --blkio-weight 5 t-upd
    answers 125 'Range of blkio weight is from 10 to 1000' run --rm --network none --blkio-weight 1001 "$BUSYBOX" true
}

case_docker_cli_of_an_engine() {
    docker_cli
    answers 0 'Local Volumes' system df
    answers 0 'CONTAINER ID' system df -v
    answers 0 'Swarm: inactive' info
    answers 1 'This node is not a swarm manager' node ls
    answers 1 'This node is not a swarm manager' service ls
    answers 1 'This node is not part of a swarm' swarm leave
    answers 0 NAME plugin ls
    answers 1 x plugin inspect x
    answers 0 'reclaimed space' builder prune -f
    docker tag "$BUSYBOX" t-one:1
    docker tag "$BUSYBOX" t-two:1
    docker images --filter 'reference=t-o*' --format '{{.Repository}}:{{.Tag}}' >"$T/list"
    expect_eq "$(cat "$T/list")" t-one:1 'images by reference'
    answers 0 'Untagged: t-one:1' rmi t-one:1 t-two:1
    answers 0 'reclaimed space: 0B' image prune -f --filter until=24h --filter label=nosuch
    answers 0 container events --since 1h --until 0s --filter type=container
    answers 1 linux/arm64 create --pull never --platform linux/arm64 "$BUSYBOX"
}

case_docker_cli_asks_registries() {
    docker_cli
    answers 0 application/vnd manifest inspect --insecure "$BUSYBOX"
    answers 1 'manifest' manifest inspect --insecure "$REGISTRY/none:1"
    answers 1 'offers no search' search "$REGISTRY/busybox"
    curl -s --unix-socket "${HULL_HOST#unix://}" "http://x/distribution/$BUSYBOX/json" >"$T/distribution"
    grep -q '"architecture":"amd64"' "$T/distribution" || fail "$(cat "$T/distribution")"
    expect_eq "$(sed 's/.*"digest":"\([^"]*\)".*/\1/' "$T/distribution")" "$(docker image inspect -f '{{index .RepoDigests 0}}' "$BUSYBOX" | cut -d@ -f2)" digest
    curl -s -o "$T/none" -w '%{http_code}' --unix-socket "${HULL_HOST#unix://}" "http://x/distribution/$REGISTRY/none:1/json" >"$T/code"
    expect_eq "$(cat "$T/code")" 404 'what is not there'
}

case_docker_cli_links_tell_of_the_other() {
    docker_cli
    docker run -d --name t-db -e COLOUR=red --expose 5432 "$BUSYBOX" sleep 600 >/dev/null
    docker run -d --name t-web --link t-db:my-db "$BUSYBOX" sleep 600 >/dev/null
    answers 0 '' exec t-web sh -c 'env | grep ^MY_DB | sort'
    expect_out_has MY_DB_ENV_COLOUR=red
    expect_out_has MY_DB_NAME=/t-web/my-db
    expect_out_has "MY_DB_PORT_5432_TCP_ADDR=$(docker inspect -f '{{.NetworkSettings.IPAddress}}' t-db)"
    answers 0 '' exec t-web ping -c 1 my-db
    answers 0 '[/t-db:/t-web/my-db]' inspect -f '{{.HostConfig.Links}}' t-web
    answers 0 't-db,t-web/my-db' ps --no-trunc --filter name=t-db --format '{{.Names}}'
    answers 0 t-web/my-db rm --link t-web/my-db
    answers 1 '' exec t-web ping -c 1 -W 1 my-db
    answers 1 'No such container' rm --link t-web/my-db
}

case_docker_cli_devices_and_profiles_are_the_guests() {
    docker_cli
    cat >"$T/profile.json" <<'JSON'
{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["chown", "fchownat"], "action": "SCMP_ACT_ERRNO"},
    {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}}]}
JSON
    docker run -d --name t-own --device /dev/fuse --device /dev/net/tun:/dev/mine --device-cgroup-rule 'c 7:* rwm' \
        --security-opt "seccomp=$T/profile.json" --security-opt writable-cgroups=true "$BUSYBOX" sleep 600 >/dev/null
    answers 0 '' exec t-own stat -c '%n %t:%T' /dev/fuse /dev/mine
    expect_out $'/dev/fuse a:e5\n/dev/mine a:c8\n'
    answers 0 '' exec t-own sh -c ': <>/dev/fuse'
    answers 1 'Operation not permitted' exec t-own chown 7 /etc/passwd
    answers 0 '' exec t-own mkdir /sys/fs/cgroup/below /made
}

case_docker_cli_a_restart_of_what_removes_itself() {
    docker_cli
    docker run -d --rm --name t-auto --network none "$BUSYBOX" sleep 600 >/dev/null
    answers 0 t-auto restart -t 0 t-auto
    answers 0 running inspect -f '{{.State.Status}}' t-auto
    answers 0 t-auto stop -t 0 t-auto
    wait_for 20 sh -c '! docker inspect t-auto >/dev/null 2>&1' || fail 'it is still there after its end'
}

case_docker_cli_users_have_ports_and_pings() {
    docker_cli
    answers 0 '0 0 2147483647' run --rm --network none "$BUSYBOX" sh -c 'echo $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range)'
    docker run -d --name t-web --user 1000 "$BUSYBOX" httpd -f -p 80 -h /etc >/dev/null
    answers 0 t-web exec t-web sh -c 'wget -q -O - http://127.0.0.1/hosts; echo t-web'
    expect_out_has localhost
    answers 0 99 run --rm --network none --sysctl net.ipv4.ip_unprivileged_port_start=99 "$BUSYBOX" cat /proc/sys/net/ipv4/ip_unprivileged_port_start
}

case_docker_cli_filters_and_lists() {
    docker_cli
    docker create --name t-one --annotation who=me --publish 8099:80 --expose 90-92 "$BUSYBOX" >/dev/null
    answers 1 'invalid value for health (well)' ps --filter health=well
    answers 1 "invalid filter 'publish=x'" ps --filter publish=x
    answers 1 "invalid filter 'is-task=[x]'" ps --filter is-task=x
    answers 0 t-one ps -a --filter publish=70-90 --filter expose=91/tcp --filter is-task=false --format '{{.Names}}'
    answers 0 '' ps -aq --filter is-task=true
    expect_out ''
    answers 1 "invalid filter 'type=odd'" network ls --filter type=odd
    answers 1 "invalid filter 'dangling=[x]'" network ls --filter dangling=x
    answers 1 'cannot create a swarm scoped network' network create --scope swarm t-net
    curl -s -G --unix-socket "${HULL_HOST#unix://}" --data-urlencode 'filters={"name":["t-one"]}' 'http://x/v1.46/containers/json?all=1' >"$T/list"
    grep -q '"Annotations":{"who":"me"}' "$T/list" || fail "$(cat "$T/list")"
}

# Proxies find the port of a service by what its image exposes.
case_docker_cli_exposed_ports_are_listed() {
    docker_cli
    docker run -d --name t-expose --expose 90 --expose 53/udp -p 127.0.0.1:18119:80 "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(docker ps --filter name=t-expose --format '{{.Ports}}')" '53/udp, 90/tcp, 127.0.0.1:18119->80/tcp' 'the list'
    expect_eq "$(docker inspect -f '{{json .NetworkSettings.Ports}}' t-expose)" '{"53/udp":null,"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"18119"}],"90/tcp":null}' 'what is inspected'
    docker stop -t 0 t-expose >/dev/null
    expect_eq "$(docker inspect -f '{{json .NetworkSettings.Ports}}' t-expose)" '{}' 'of one that has ended'
    docker run -d --name t-apart --network none --expose 90 "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(docker inspect -f '{{json .NetworkSettings.Ports}}' t-apart)" '{}' 'of one without a network'
}

case_docker_cli_networks_of_a_stopped_container() {
    docker_cli
    docker network create --subnet 10.231.7.0/24 t-own >/dev/null
    trap 'hull rm -f t-one >/dev/null 2>&1; hull network rm t-own >/dev/null 2>&1; rm -rf "$T"' EXIT
    docker create --name t-one --network none "$BUSYBOX" sleep 600 >/dev/null
    docker rm t-one >/dev/null
    docker create --name t-one "$BUSYBOX" sleep 600 >/dev/null
    answers 1 'not in the subnet 10.231.7.0/24' network connect --ip 10.99.0.1 t-own t-one
    answers 1 'not in the subnet 10.231.7.0/24' create --network t-own --ip 10.99.0.1 "$BUSYBOX"
    docker network connect --ip 10.231.7.9 t-own t-one
    # What is said last counts, as long as it does not run.
    docker network connect --ip 10.231.7.10 t-own t-one
    docker start t-one >/dev/null
    answers 0 10.231.7.10 inspect -f '{{(index .NetworkSettings.Networks "t-own").IPAddress}}' t-one
    answers 1 'already exists in network t-own' network connect t-own t-one
}

case_docker_cli_a_login_with_nothing_in_it() {
    docker_cli
    local nothing
    # What clients of other languages write for a password that there is none of.
    nothing=$(printf '{"username":"me","password":null,"serveraddress":null}' | base64 -w0)
    curl -s -o "$T/pull" -w '%{http_code}' -X POST -H "X-Registry-Auth: $nothing" --unix-socket "${HULL_HOST#unix://}" "http://x/images/create?fromImage=$REGISTRY/busybox&tag=latest" >"$T/code"
    expect_eq "$(cat "$T/code")" 200 "$(cat "$T/pull")"
}

# Filters mean what they mean to dockerd, or are refused: what passes is often removed.
# Core.
case_docker_cli_filters_are_dockers() {
    docker_cli
    docker create --name t-anc "$BUSYBOX" true >/dev/null
    docker tag "$BUSYBOX" t-other:1
    answers 1 "invalid filter 'label!'" ps -a --filter 'label!=x'
    answers 1 "invalid filter 'reference'" ps -a --filter reference=x
    answers 0 t-anc ps -a --filter ancestor=t-other:1 --format '{{.Names}}'
    answers 0 t-anc ps -a --filter "ancestor=$(docker images --no-trunc -q t-other:1)" --format '{{.Names}}'
    expect_eq "$(docker ps -aq --filter ancestor=t-nosuch)" '' 'a name of no image'
    docker network create t-net >/dev/null
    docker network create t-net2 >/dev/null
    expect_eq "$(docker network ls --filter 'name=^t-net$' --format '{{.Name}}')" t-net 'a network by expression'
    expect_eq "$(docker network ls --filter "id=$(docker network ls -q --filter 'name=^t-net$')" --format '{{.Name}}')" t-net 'a network by id'
    answers 1 'cannot be after' events --since 20 --until 10
    docker rm t-anc >/dev/null
    sleep 1
    expect_eq "$(docker events --since 1m --until 0s --filter image="${BUSYBOX%:*}" --filter event=destroy --filter container=t-an --format '{{.Action}}')" destroy 'an event by the beginning of its name'
    answers 1 'range of CPUs' update --cpus 1000 "$(docker create --name t-cpu "$BUSYBOX" true)"
    answers 1 'CpuRealtimePeriod is not supported' update --cpu-rt-period 1000 t-cpu
    docker rm t-cpu >/dev/null
    docker rmi t-other:1 >/dev/null
}

# What is not there yet ends at once, with one error that names it.
case_what_is_not_built_says_so() {
    docker_cli
    mkdir "$T/context"
    printf 'FROM scratch\nCOPY x /\n' >"$T/context/Dockerfile"
    docker create --name t-wish --network none "$BUSYBOX" true >/dev/null
    export DOCKER_BUILDKIT=0
    answers 1 'not built yet' build "$T/context"
    unset DOCKER_BUILDKIT
    # docker asks for these of daemons with experimental features alone.
    capture curl -s --unix-socket "${HULL_HOST#unix://}" -X POST -w '%{http_code}' -d '{}' -H 'content-type: application/json' http://x/containers/t-wish/checkpoints
    expect_out_has 'checkpoints is not built yet'
    expect_out_has 501
}
