# runc's command line

case_exec_has_its_own_status_and_streams() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    expect "$(echo in | runtime exec "$ID" cat)" in
    expect "$(runtime exec --env A=1 --cwd /tmp --user 1000:1000 "$ID" sh -c 'echo $A $(pwd) $(id -u):$(id -g)')" "1 /tmp 1000:1000"
    status=0
    runtime exec "$ID" sh -c 'exit 9' || status=$?
    expect_status 9
    status=0
    runtime exec "$ID" no-such-program 2>/dev/null || status=$?
    expect_failure
}
case_exec_has_the_containers_umask() {
    config '.process.args = ["sleep", "1000"] | .process.user.umask = 23'
    create
    runtime start "$ID"
    expect "$(runtime exec "$ID" sh -c umask)" 0027
}
case_exec_before_start() {
    config '.process.args = ["sleep", "1000"]'
    create
    expect "$(runtime exec "$ID" echo early)" early
}
case_exec_of_a_process_file() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    echo '{"args": ["sh", "-c", "echo $A"], "env": ["PATH=/bin", "A=file"], "cwd": "/", "user": {"uid": 0, "gid": 0}}' >"$T/process.json"
    expect "$(runtime exec --process "$T/process.json" "$ID")" file
}
case_exec_detached_writes_a_pid() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    runtime exec --detach --pid-file "$T/pid" "$ID" sleep 1000 </dev/null >/dev/null 2>&1
    kill -0 "$(cat "$T/pid")" || fail "no such process"
}
case_pause_and_resume() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    runtime pause "$ID"
    expect "$(status_of)" paused
    status=0
    timeout 10 "$RUNTIME" --root "$T/state" exec "$ID" true 2>/dev/null || status=$?
    expect_failure
    [ "$status" != 124 ] || fail "exec hangs"
    runtime resume "$ID"
    expect "$(status_of)" running
    runtime exec "$ID" true
}
case_list_and_ps() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    expect "$(runtime list -q)" "$ID"
    expect "$(runtime list --format json | jq -r '.[0].status')" running
    expect "$(runtime ps --format json "$ID" | jq length)" 1
}
case_update_of_limits() {
    config '.process.args = ["sleep", "1000"] | .linux.resources.pids.limit = 100'
    create
    runtime start "$ID"
    runtime update --pids-limit 50 "$ID"
    expect "$(runtime events --stats "$ID" | jq .data.pids.limit)" 50
}
case_log_in_json() {
    ! runtime --log "$T/log" --log-format json start none 2>/dev/null || fail "started"
    expect "$(tail -n 1 "$T/log" | jq -r .level)" error
}
case_spec_is_a_bundle() {
    rm -f "$T/config.json"
    (cd "$T" && runtime spec)
    jq '.process.terminal = false | .process.args = ["echo", "spec"]' "$T/config.json" >"$T/new" && mv "$T/new" "$T/config.json"
    expect "$(runtime run --bundle "$T" "$ID")" spec
}
case_a_detached_container_outlives_the_command() {
    config '.process.args = ["sh", "-c", "sleep 1; echo later"]'
    runtime run --detach --bundle "$T" "$ID" </dev/null >"$T/out" 2>&1
    wait_for 10 is_stopped || fail "$(status_of)"
    expect "$(cat "$T/out")" later
}
