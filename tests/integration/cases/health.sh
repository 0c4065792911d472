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
