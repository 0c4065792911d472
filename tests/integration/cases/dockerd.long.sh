# docker compose and Swarm with a dockerd whose default runtime is hull-runtime. Skipped where dockerd
# is not installed.
# seconds: 900

. tests/lib/dockerd.sh

# A store with a health check and a page that waits for it, neither of which names a runtime.
case_docker_compose_runs_in_microvms() {
    docker compose version >/dev/null 2>&1 || skip 'docker compose is not installed'
    docker_start
    export COMPOSE_PROJECT_NAME=t-app COMPOSE_ANSI=never
    cat >"$T/app.yml" <<'YAML'
services:
  store:
    image: hull-test
    command: sh -c 'echo kept >/data/file; exec httpd -f -p 6379 -h /data'
    volumes: ["data:/data"]
    healthcheck: {test: ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1:6379/file"], interval: 2s, retries: 30}
  web:
    image: hull-test
    command: sh -c 'wget -q -O /tmp/index.html http://store:6379/file; exec httpd -f -p 80 -h /tmp'
    depends_on: {store: {condition: service_healthy}}
    ports: ["127.0.0.1:18098:80"]
volumes: {data: {}}
YAML
    capture timeout 240 docker compose -f "$T/app.yml" up -d --wait
    expect_status 0
    wait_for 20 curl -sf -o "$T/page" http://127.0.0.1:18098/ || fail "$(docker compose -f "$T/app.yml" logs)"
    expect_eq "$(cat "$T/page")" kept page
    capture docker compose -f "$T/app.yml" exec -T web uname -r
    expect_out_has -hull
    capture timeout 120 docker compose -f "$T/app.yml" down -v -t 1
    expect_status 0
    expect_eq "$(docker ps -aq; docker volume ls -q)" '' 'what down leaves'
}

# Each replica has three interfaces: of the service's network, of the mesh, and to the outside.
case_docker_swarm_replicas_share_an_overlay_network() {
    docker_start
    docker swarm init --advertise-addr 127.0.0.1 >/dev/null || fail "no swarm: $(tail -n 5 "$D/log")"
    trap 'docker rm -f asks >/dev/null 2>&1 || true; docker service rm web >/dev/null 2>&1 || true; wait_for 60 no_containers || true; docker swarm leave --force >/dev/null 2>&1 || true; kill $DOCKERD; wait $DOCKERD 2>/dev/null || true; umount "$S"/exec/netns/* 2>/dev/null || true; rm -rf "$S" "$T" "$D" 2>/dev/null || true' EXIT
    docker network create -d overlay --attachable ov >/dev/null
    docker service create --detach --name web --replicas 2 --network ov --publish 18097:18097 hull-test \
        sh -c 'mkdir /www; hostname >/www/name; exec httpd -f -p 18097 -h /www' >/dev/null 2>&1
    wait_for 300 two_tasks_run || fail "$(docker service ps --no-trunc web; docker ps -a)"
    expect_eq "$(docker service ps -q --filter desired-state=shutdown web)" '' 'tasks that failed'
    # From the host by the mesh, which takes turns.
    wait_for 60 both_answer curl -s -m 5 http://127.0.0.1:18097/name || fail "by the mesh: $(cat "$T/names")"
    # From another container, by the service's address and its tasks' own.
    # The manager has 20 s to attach it, which a slow machine may need more than once.
    wait_for 60 asking_runs || fail "no container in the network"
    wait_for 60 docker exec asks sh -c 'nslookup tasks.web >/dev/null' || fail "$(docker exec asks nslookup tasks.web 2>&1)"
    wait_for 60 both_answer docker exec asks timeout 10 wget -q -O - http://web:18097/name || fail "by the service: $(cat "$T/names")"
    docker exec asks nslookup tasks.web | grep -oE '10\.0\.1\.[0-9]+$' | sort -u >"$T/tasks"
    expect_eq "$(wc -l <"$T/tasks")" 2 'addresses of tasks'
    for task in $(cat "$T/tasks"); do
        docker exec asks timeout 10 wget -q -O - "http://$task:18097/name" >/dev/null || fail "$task does not answer"
    done
    # A task that dies is followed by another one.
    docker kill "$(docker ps -q --filter label=com.docker.swarm.service.name=web | head -n 1)" >/dev/null
    wait_for 120 a_third_task_runs || fail "$(docker service ps --no-trunc web)"
    docker rm -f asks >/dev/null
}
asking_runs() {
    docker rm -f asks >/dev/null 2>&1 || true
    docker run -d --name asks --network ov hull-test sleep 1000 >/dev/null
}
no_containers() { [ -z "$(docker ps -q)" ]; }
two_tasks_run() { [ "$(docker service ps --filter desired-state=running --format '{{.CurrentState}}' web | grep -c Running)" = 2 ]; }
a_third_task_runs() { [ "$(docker service ps -q web | wc -l)" = 3 ] && two_tasks_run; }
# both_answer COMMAND...: whether it gets to see both of the service's tasks.
both_answer() {
    "$@" >"$T/names" 2>/dev/null && "$@" >>"$T/names" 2>/dev/null && [ "$(sort -u "$T/names" | wc -l)" = 2 ]
}

# What libnetwork moves into a container's namespace while it runs is plugged into its VM, and what it
# takes out is unplugged.
case_docker_networks_come_and_go_while_a_container_runs() {
    docker_start
    docker network create one >/dev/null
    docker network create --subnet 10.66.0.0/24 two >/dev/null
    docker run -d --name peer --network one hull-test sh -c 'sleep 10000 | nc -l -p 5000 >/tmp/got' >/dev/null
    docker run -d --name there --network two hull-test sleep 1000 >/dev/null
    docker run -d --name main --network one hull-test sh -c 'while :; do echo x; sleep 0.2; done | nc peer 5000' >/dev/null
    # One without names of containers so far.
    docker run -d --name late hull-test sleep 1000 >/dev/null
    docker network connect two main
    wait_for 60 in_guest main 'ip addr show dev eth1' 'inet 10.66.0.' || fail "not plugged: $(docker exec main ip addr)"
    reach main there
    reach there main
    docker exec there ping -c 1 -W 10 "$(address_of main two)" >/dev/null || fail 'by its address'
    docker network disconnect two main
    wait_for 60 without main eth1 || fail "not unplugged: $(docker exec main ip addr)"
    expect_eq "$(taps_of main)" 1 'taps beside the one interface'
    docker exec there ping -c 1 -W 2 10.66.0.3 >/dev/null && fail 'it answers still'
    docker network connect --ip 10.66.0.77 --alias other two main
    wait_for 60 in_guest main 'ip addr' 'inet 10.66.0.77/24' || fail "again: $(docker exec main ip addr)"
    docker exec there ping -c 1 -W 10 other >/dev/null || fail 'by its alias'
    # All the while its first network works.
    carries_on
    docker network connect two late
    wait_for 60 in_guest late 'ip addr show dev eth1' 'inet 10.66.0.' || fail "late: $(docker exec late ip addr)"
    reach late there
    docker rm -f late there >/dev/null
    # Whoever else changes something there is followed as well.
    # dockerd counts on: it is another name than before.
    local again
    again=$(in_netns main ip -o -4 addr | awk '$4 == "10.66.0.77/24" {print $2}')
    in_netns main ip addr add 10.66.0.78/24 dev "$again"
    in_netns main ip route add 10.99.0.0/16 via 10.66.0.1
    wait_for 30 in_guest main 'ip addr; ip route' '10.66.0.78/24' || fail "$(docker exec main ip addr)"
    wait_for 30 in_guest main 'ip route' '10.99.0.0/16 via 10.66.0.1' || fail "$(docker exec main ip route)"
    in_netns main ip addr del 10.66.0.78/24 dev "$again"
    in_netns main ip route del 10.99.0.0/16
    wait_for 30 without_text main 10.66.0.78 || fail "$(docker exec main ip addr)"
    wait_for 30 without_text main 10.99.0.0 || fail "$(docker exec main ip route)"
    # A VM has four interfaces, of Ethernet: what is beyond waits for its turn.
    in_netns main ip tuntap add dev tun9 mode tun
    in_netns main ip addr add 10.97.0.1/24 dev tun9
    in_netns main ip link set tun9 up
    local number
    for number in 1 2 3; do
        in_netns main ip link add "d$number" type veth peer name "p$number"
        in_netns main ip addr add "10.98.$number.1/24" dev "d$number"
        in_netns main ip link set "d$number" up
    done
    wait_for 60 in_guest main 'ip addr' 10.98.2.1 || fail "$(docker exec main ip addr)"
    without main d3 && without main tun9 || fail "more than there is room for: $(docker exec main ip addr)"
    in_netns main ip link del d1
    wait_for 60 in_guest main 'ip addr' 10.98.3.1 || fail "no room was made: $(docker exec main ip addr)"
    without main d1 || fail 'one that is gone'
    carries_on
    docker rm -f main peer >/dev/null
    docker network rm one two >/dev/null
    expect_clean_host
}
# in_guest CONTAINER COMMANDS TEXT: whether they print it.
in_guest() { docker exec "$1" sh -c "$2" 2>/dev/null | grep -qF "$3"; }
# without CONTAINER INTERFACE, without_text CONTAINER TEXT: whether it has none. One that can't be asked is none.
without() {
    local links
    links=$(docker exec "$1" ip link) || return 1
    ! grep -qE "^[0-9]+: $2[@:]" <<<"$links"
}
without_text() {
    local all
    all=$(docker exec "$1" sh -c 'ip addr && ip route') || return 1
    ! grep -qF "$2" <<<"$all"
}
reach() { wait_for 30 docker exec "$1" ping -c 1 -W 5 "$2" >/dev/null 2>&1 || fail "$1 does not reach $2: $(docker exec "$1" ping -c 1 -W 5 "$2" 2>&1)"; }
address_of() { docker inspect -f "{{.NetworkSettings.Networks.$2.IPAddress}}" "$1"; }
in_netns() {
    local container=$1
    shift
    nsenter -t "$(docker inspect -f '{{.State.Pid}}' "$container")" -n "$@"
}
taps_of() { in_netns "$1" ip -o link show | grep -c ': hull'; }
# carries_on: whether what main sends still arrives at its peer.
carries_on() {
    local before
    before=$(docker exec peer wc -c /tmp/got | cut -d' ' -f1)
    wait_for 20 more_than "$before" || fail "nothing arrives at the peer any more"
}
more_than() { [ "$(docker exec peer wc -c /tmp/got | cut -d' ' -f1)" -gt "$1" ]; }
