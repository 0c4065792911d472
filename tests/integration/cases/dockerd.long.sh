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
