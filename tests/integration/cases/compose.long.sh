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
