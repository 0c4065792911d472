# docker compose against hulld. Skipped where neither compose v2 nor docker-compose is installed.

compose_start() {
    command -v docker >/dev/null || skip 'the docker command line is not installed'
    if docker compose version >/dev/null 2>&1; then
        COMPOSE=(docker compose)
    elif command -v docker-compose >/dev/null; then
        COMPOSE=(docker-compose)
    else
        skip 'docker compose is not installed'
    fi
    export DOCKER_HOST=$HULL_HOST COMPOSE_PROJECT_NAME=t-app COMPOSE_ANSI=never
    unset DOCKER_CONTEXT
    cd "$T"
    trap '"${COMPOSE[@]}" -f "$T/app.yml" down -v -t 0 >/dev/null 2>&1 || true; rm -rf "$T"' EXIT
}

# A store with a health check, a page before it, and a worker that waits for both.
case_compose_three_services() {
    compose_start
    cat >app.yml <<YAML
version: "2.4"
services:
  store:
    image: $BUSYBOX
    command: sh -c 'echo kept >/data/file; exec httpd -f -p 6379 -h /data'
    volumes: ["data:/data"]
    networks: [back]
    healthcheck: {test: ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1:6379/file"], interval: 1s, retries: 30}
  web:
    image: $BUSYBOX
    command: sh -c 'while :; do wget -q -O /tmp/index.html http://store:6379/file && break; sleep 0.2; done; exec httpd -f -p 80 -h /tmp'
    depends_on: {store: {condition: service_healthy}}
    networks: [front, back]
    ports: ["127.0.0.1:18090:80"]
  worker:
    image: $BUSYBOX
    command: sh -c 'wget -q -O - http://web/; wget -q -O - http://store:6379/file || echo apart; sleep 1000'
    depends_on: [web]
    networks: [front]
    environment: {A: "b c"}
    labels: {tier: work}
networks: {front: {}, back: {}}
volumes: {data: {}}
YAML
    capture timeout 150 "${COMPOSE[@]}" -f app.yml up -d
    expect_status 0
    wait_for 30 curl -sf -o "$T/page" http://127.0.0.1:18090/ || fail "$("${COMPOSE[@]}" -f app.yml logs)"
    expect_eq "$(cat "$T/page")" kept page
    wait_for 20 sh -c "docker logs \$(docker ps -q --filter label=tier=work) 2>&1 | grep -q apart" || fail "$(docker ps -a; "${COMPOSE[@]}" -f app.yml logs)"
    capture "${COMPOSE[@]}" -f app.yml logs worker
    expect_out_has kept
    expect_eq "$("${COMPOSE[@]}" -f app.yml exec -T worker sh -c 'echo "$A"')" 'b c' 'environment'
    expect_eq "$("${COMPOSE[@]}" -f app.yml ps -q | wc -l)" 3 services
    # Nothing has changed: nothing is made anew.
    local before
    before=$("${COMPOSE[@]}" -f app.yml ps -q | sort)
    timeout 60 "${COMPOSE[@]}" -f app.yml up -d >/dev/null 2>&1
    expect_eq "$("${COMPOSE[@]}" -f app.yml ps -q | sort)" "$before" 'containers of a second up'
    capture timeout 60 "${COMPOSE[@]}" -f app.yml down -v -t 1
    expect_status 0
    expect_eq "$(docker ps -aq --filter label=com.docker.compose.project=t-app; docker volume ls -q --filter label=com.docker.compose.project=t-app; docker network ls -q --filter label=com.docker.compose.project=t-app)" '' 'what down leaves'
}

# The old compose asks an image for what the API has since given up, when it makes a container anew.
case_compose_makes_a_changed_service_anew() {
    compose_start
    local compose first second
    for compose in 'docker compose' docker-compose; do
        $compose version >/dev/null 2>&1 || continue
        cat >app.yml <<YAML
version: "2.4"
services:
  one: {image: $BUSYBOX, network_mode: none, command: sleep 600, environment: {A: "1"}, volumes: ["/kept"]}
YAML
        capture timeout 100 $compose -f app.yml up -d
        expect_status 0
        first=$($compose -f app.yml ps -q)
        sed -i 's/A: "1"/A: "2"/' app.yml
        capture timeout 100 $compose -f app.yml up -d -t 0
        expect_status 0
        second=$($compose -f app.yml ps -q)
        [ -n "$second" ] && [ "$first" != "$second" ] || fail "$compose: $first is $second: $err"
        expect_eq "$(docker inspect -f '{{.State.Status}}' "$second")" running "$compose"
        $compose -f app.yml down -v -t 0 >/dev/null 2>&1
    done
}

# Each run's lines once, though what follows them attaches anew at each start; and who waits for a
# service hears that it is not well.
case_compose_follows_restarts_and_waits() {
    compose_start
    [ "${COMPOSE[0]}" = docker ] || skip 'compose v2 is not installed'
    cat >app.yml <<YAML
services:
  again:
    image: $BUSYBOX
    network_mode: none
    command: sh -c 'echo run \$\$(cat /n 2>/dev/null | wc -l); echo x >>/n; sleep 3; exit 3'
    restart: always
  steady: {image: $BUSYBOX, network_mode: none, command: sleep 600}
YAML
    timeout 100 "${COMPOSE[@]}" -f app.yml up -d >/dev/null 2>&1
    timeout -s INT 60 "${COMPOSE[@]}" -f app.yml logs -f --no-log-prefix >"$T/logs" 2>&1 || true
    "${COMPOSE[@]}" -f app.yml kill >/dev/null 2>&1
    [ "$(grep -c '^run' "$T/logs")" -ge 2 ] || fail "restarts are not followed: $(cat "$T/logs")"
    expect_eq "$(grep '^run' "$T/logs" | sort | uniq -d)" '' 'lines that came twice'
    "${COMPOSE[@]}" -f app.yml down -t 0 >/dev/null 2>&1
    cat >app.yml <<YAML
services:
  ill:
    image: $BUSYBOX
    network_mode: none
    command: sleep 600
    healthcheck: {test: ["CMD", "false"], interval: 1s, retries: 2}
YAML
    capture timeout 100 "${COMPOSE[@]}" -f app.yml up --wait
    expect_status 1
    expect_err_has 'is unhealthy'
}

# What a file may ask for, and what is done with a project while it runs.
case_compose_a_project_of_many_wishes() {
    compose_start
    [ "${COMPOSE[0]}" = docker ] || skip 'compose v2 is not installed'
    local compose=("${COMPOSE[@]}" -f app.yml) action
    echo conf >conf.txt
    echo secret >secret.txt
    docker network create t-outer >/dev/null
    docker volume create t-kept >/dev/null
    trap '"${COMPOSE[@]}" -f "$T/app.yml" --profile extra down -v -t 0 >/dev/null 2>&1 || true; docker network rm t-outer >/dev/null 2>&1; docker volume rm t-kept >/dev/null 2>&1; rm -rf "$T"' EXIT
    cat >base.yml <<YAML
services:
  common: {image: $BUSYBOX, init: true, stop_grace_period: 1s, environment: {BASE: "1"}, pull_policy: never}
YAML
    cat >app.yml <<YAML
services:
  db:
    extends: {file: base.yml, service: common}
    command: sh -c 'sleep 2; echo up >/tmp/up; exec sleep 1000'
    healthcheck: {test: ["CMD", "test", "-e", "/tmp/up"], interval: 1s, retries: 60}
    networks: {back: {aliases: [database]}}
    configs: [{source: conf, target: /etc/conf.txt}]
    secrets: [sec]
    tmpfs: ["/scratch:size=1m"]
    ulimits: {nofile: {soft: 100, hard: 200}}
    sysctls: {net.core.somaxconn: 1024}
    extra_hosts: ["here:1.2.3.4"]
    volumes: ["t-kept:/kept"]
    deploy: {resources: {limits: {cpus: "0.5", memory: 128M, pids: 50}}}
  once:
    image: $BUSYBOX
    network_mode: none
    command: echo initialised
    depends_on: {db: {condition: service_healthy}}
  web:
    image: $BUSYBOX
    command: sh -c 'mkdir /www; echo page >/www/index.html; exec httpd -f -p 80 -h /www'
    depends_on: {once: {condition: service_completed_successfully}}
    networks: [back, front, t-outer]
    ports: ["127.0.0.1:18091:80"]
  work:
    extends: {file: base.yml, service: common}
    command: sh -c 'i=0; while :; do echo tick \$\$i; i=\$\$((i+1)); sleep 1; done'
    networks: [back]
  more: {image: $BUSYBOX, profiles: [extra], network_mode: none, command: sleep 1000}
networks: {back: {internal: true}, front: {}, t-outer: {external: true}}
volumes: {t-kept: {external: true}}
configs: {conf: {file: ./conf.txt}}
secrets: {sec: {file: ./secret.txt}}
YAML
    capture timeout 200 "${compose[@]}" up -d --wait web work
    expect_status 0
    timeout 300 "${compose[@]}" events --json >events 2>&1 &
    local follower=$!
    expect_eq "$("${compose[@]}" ps -a --format '{{.Service}} {{.State}} {{.Health}} {{.ExitCode}}' | sort | xargs)" \
        'db running healthy 0 once exited 0 web running 0 work running 0' states
    # shellcheck disable=SC2016
    expect_eq "$("${compose[@]}" exec -T db sh -c 'cat /etc/conf.txt /run/secrets/sec; df -k /scratch | sed -n "\$s/ [0-9]*% .*//p" | awk "{print \$2}"; ulimit -n; ulimit -Hn; cat /proc/sys/net/core/somaxconn; grep here /etc/hosts; cd /sys/fs/cgroup; cat memory.max pids.max cpu.max; echo $BASE; tr "\0" "\n" </proc/1/cmdline | head -n 1' | xargs)" \
        'conf secret 1024 100 200 1024 1.2.3.4 here 134217728 50 50000 100000 1 /sbin/docker-init' 'what the database has'
    "${compose[@]}" exec -T work ping -c 1 -W 5 database >/dev/null || fail 'no alias'
    expect_eq "$("${compose[@]}" port web 80)" 127.0.0.1:18091 port
    expect_eq "$(curl -s --max-time 10 http://127.0.0.1:18091/)" page page
    "${compose[@]}" top work | grep -q 'sleep 1' || fail "top: $("${compose[@]}" top work)"
    "${compose[@]}" pause work >/dev/null 2>&1
    expect_eq "$("${compose[@]}" ps -a --format '{{.State}}' work)" paused paused
    "${compose[@]}" unpause work >/dev/null 2>&1
    "${compose[@]}" cp conf.txt db:/tmp/copied >/dev/null 2>&1
    expect_eq "$("${compose[@]}" exec -T db cat /tmp/copied)" conf 'what was copied in'
    expect_eq "$("${compose[@]}" cp db:/etc/conf.txt - 2>/dev/null | tar -xO)" conf 'what was copied out'
    # shellcheck disable=SC2016
    expect_eq "$("${compose[@]}" run --rm -T --no-deps -e Q=1 --entrypoint sh work -c 'echo $Q' 2>/dev/null)" 1 'run'
    "${compose[@]}" up -d --no-deps --no-recreate --scale work=3 work >/dev/null 2>&1
    expect_eq "$("${compose[@]}" ps -q work | wc -l)" 3 'of one service'
    "${compose[@]}" stats --no-stream --format '{{.Name}} {{.PIDs}}' | grep -q 't-app-db-1 [1-9]' || fail 'no stats'
    (timeout 60 "${compose[@]}" wait work || true) >waited 2>&1 &
    local waiter=$!
    sleep 2
    "${compose[@]}" kill -s TERM work >/dev/null 2>&1
    wait "$waiter"
    grep -q 143 waited || fail "wait: $(cat waited)"
    "${compose[@]}" restart -t 1 db >/dev/null 2>&1
    "${compose[@]}" --profile extra up -d --no-deps more >/dev/null 2>&1
    expect_eq "$("${compose[@]}" --profile extra ps -q more | wc -l)" 1 'of a profile'
    "${compose[@]}" --profile extra down -v -t 1 >/dev/null 2>&1
    kill "$follower" || fail "events ended: $(tail -n 3 events)"
    for action in start extract-to-dir archive-path kill die stop restart destroy; do
        grep '"service":"db"' events | grep -q "\"action\":\"$action\"" || fail "no event $action: $(tail -n 20 events)"
    done
    expect_eq "$(docker ps -aq; docker network ls -q --filter label=com.docker.compose.project=t-app)" '' 'what down leaves'
    docker network inspect t-outer >/dev/null
    docker volume inspect t-kept >/dev/null
}

# Files are copied into a container while it works, and taken out of it; its output is followed from now on.
case_compose_watches_files_and_attaches() {
    compose_start
    [ "${COMPOSE[0]}" = docker ] || skip 'compose is version 1'
    mkdir -p pages conf
    echo one >pages/page
    cat >app.yml <<YAML
services:
  web:
    image: $BUSYBOX
    command: sh -c 'mkdir -p /pages; httpd -p 80 -h /pages; while :; do date +tick-%s; sleep 1; done'
    stop_signal: KILL
    ports: ["127.0.0.1:18095:80"]
    develop:
      watch:
        - {action: sync, path: ./pages, target: /pages}
        - {action: sync+restart, path: ./conf, target: /conf}
YAML
    capture timeout 150 "${COMPOSE[@]}" -f app.yml up -d
    expect_status 0
    "${COMPOSE[@]}" -f app.yml watch --no-up >watch.log 2>&1 &
    local page=http://127.0.0.1:18095/page watcher=$!
    wait_for 150 grep -qi 'watch enabled' watch.log || fail "$(cat watch.log)"
    echo two >pages/page
    wait_for 150 sh -c "[ \"\$(curl -sf $page)\" = two ]" || fail "a changed file: $(cat watch.log)"
    head -c 3000000 /dev/urandom >pages/large
    wait_for 150 sh -c "curl -sf http://127.0.0.1:18095/large | cmp -s - '$T/pages/large'" || fail "a large one: $(cat watch.log)"
    rm pages/page
    wait_for 150 sh -c "! curl -sf $page" || fail "a removed one: $(cat watch.log)"
    local before
    before=$(docker inspect -f '{{.State.StartedAt}}' "$("${COMPOSE[@]}" -f app.yml ps -q web)")
    echo three >conf/file
    wait_for 150 sh -c "[ \"\$(docker inspect -f '{{.State.StartedAt}}' \$(docker ps -aq --filter label=com.docker.compose.project=t-app))\" != '$before' ]" || fail "a restart: $(cat watch.log)"
    wait_for 150 sh -c "[ \"\$(docker compose -f app.yml exec -T web cat /conf/file 2>&1)\" = three ]" || fail "a file of it: $(cat watch.log)"
    kill "$watcher"
    wait "$watcher" || true
    timeout -k 2 8 "${COMPOSE[@]}" -f app.yml attach --no-stdin --sig-proxy=false web >attached.log 2>&1 || true
    grep -q tick- attached.log || fail "$(cat attached.log)"
    # What was before as well, and what comes then.
    docker logs "$("${COMPOSE[@]}" -f app.yml ps -q web)" >all.log 2>&1
    timeout 5 curl -sN -X POST --unix-socket "${HULL_HOST#unix://}" \
        "http://x/containers/$("${COMPOSE[@]}" -f app.yml ps -q web)/attach?logs=1&stream=1&stdout=1" -o raw.log || true
    grep -aq "$(head -n 1 all.log)" raw.log || fail 'the first line is not there'
    [ "$(grep -ac tick- raw.log)" -gt "$(grep -c tick- all.log)" ] || fail 'nothing came'
    capture timeout 60 "${COMPOSE[@]}" -f app.yml down -v -t 1
    expect_status 0
}
