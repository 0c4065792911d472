# Health checks and figures.

# Core.
case_health_checks_tell_how_a_container_does() {
    hull run -d --name t-health --health-cmd 'test -e /well' --health-interval 500ms --health-retries 2 "$BUSYBOX" sleep 600 >/dev/null
    hull ps --filter name=t-health | grep -q 'health: starting' || fail "$(hull ps)"
    wait_for 30 sh -c 'hull ps --filter name=t-health | grep -q "(unhealthy)"' || fail "not unhealthy: $(hull inspect -f '{{json .State.Health}}' t-health)"
    hull exec t-health touch /well
    wait_for 20 sh -c 'hull ps --filter name=t-health | grep -q "(healthy)"' || fail "not healthy: $(hull inspect -f '{{json .State.Health}}' t-health)"
    expect_eq "$(hull inspect -f '{{.State.Health.Status}}' t-health)" healthy inspect
    expect_eq "$(hull ps -q --filter health=healthy | wc -l)" 1 filter
    # A check that hangs is a bad one.
    hull run -d --name t-slow --health-cmd 'echo slow; sleep 100' --health-interval 300ms --health-timeout 3s --health-retries 1 "$BUSYBOX" sleep 600 >/dev/null
    wait_for 30 sh -c '[ "$(hull inspect -f "{{.State.Health.Status}}" t-slow)" = unhealthy ]' || fail 'a hanging check'
    hull inspect -f '{{json .State.Health.Log}}' t-slow | grep -q 'exceeded timeout (3s): slow' || fail 'the log of a hanging check'
    # The next check may be there by now, but none of those before it.
    [ "$(hull exec t-slow sh -c 'ps | grep -c "[s]leep 100"')" -le 1 ] || fail 'a check that hangs is not ended'
}

case_stats_tell_what_is_used() {
    hull run -d --name t-stats -m 128m "$BUSYBOX" sh -c 'while :; do :; done' >/dev/null
    hull stats --no-stream t-stats >"$T/stats"
    grep -q t-stats "$T/stats" && grep -q '128MiB' "$T/stats" || fail "$(cat "$T/stats")"
    local share
    share=$(hull stats --no-stream --format '{{.CPUPerc}}' t-stats)
    [ "${share%%.*}" -ge 10 ] || fail "a busy container uses $share"
    expect_eq "$(curl -s --unix-socket "${HULL_HOST#unix://}" 'http://x/containers/t-stats/stats?stream=false&one-shot=true' | jq -r .name)" /t-stats api
}

# What nobody checks any more is not known to be well.
# Core.
case_health_ends_with_its_checks() {
    hull run -d --name t-well --health-cmd true --health-interval 1s "$BUSYBOX" sleep 600 >/dev/null
    wait_for 40 sh -c '[ "$(hull inspect -f "{{.State.Health.Status}}" t-well)" = healthy ]' || fail 'it is not healthy'
    hull pause t-well >/dev/null
    expect_eq "$(hull inspect -f '{{.State.Health.Status}}' t-well)" unhealthy 'while it is paused'
    hull unpause t-well >/dev/null
    wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Health.Status}}" t-well)" = healthy ]' || fail 'it goes on'
    hull stop -t 0 t-well >/dev/null
    expect_eq "$(hull inspect -f '{{.State.Health.Status}}' t-well)" unhealthy 'once it has ended'
    hull rm t-well >/dev/null
}

# Core.
case_stats_have_forms_and_what_the_host_pays() {
    local socket=${HULL_HOST#unix://}
    hull run -d --name t-fig "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull stats --no-stream --format json t-fig | jq -r .Name)" t-fig json
    hull stats --no-stream --format 'table {{.Name}}\t{{.PIDs}}' t-fig | head -n 1 | grep -q '^NAME *PIDS' || fail 'no heads'
    curl -s --unix-socket "$socket" 'http://x/containers/t-fig/stats?stream=0&one-shot=1' | jq -e '.memory_stats.hull_host_usage > .memory_stats.usage' >/dev/null || fail 'what the host pays'
    expect_eq "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$socket" 'http://x/containers/t-fig/stats?stream=1&one-shot=1')" 400 'a stream that ends'
    curl -s --unix-socket "$socket" http://x/hull/metrics >"$T/metrics"
    for series in host_memory_bytes network_receive_bytes_total network_transmit_bytes_total block_read_bytes_total block_written_bytes_total; do
        grep -q "^hull_container_$series{name=\"t-fig\",.* [0-9]" "$T/metrics" || fail "$series: $(cat "$T/metrics")"
    done
    # Containers come and go while the table is made.
    for _ in 1 2 3; do hull run --rm "$BUSYBOX" true; done &
    local busy=$!
    while kill -0 $busy 2>/dev/null; do hull stats --no-stream >/dev/null || fail 'who ends meanwhile fails all'; done
    hull rm -f t-fig >/dev/null
}
