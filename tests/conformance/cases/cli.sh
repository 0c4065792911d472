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
case_a_created_container_can_be_paused() {
    config '.process.args = ["touch", "/ran"]'
    create
    runtime pause "$ID"
    expect "$(status_of)" paused
    ! runtime start "$ID" 2>"$T/err" || fail "started"
    expect_has "$(cat "$T/err")" paused
    runtime resume "$ID"
    expect "$(status_of)" created
    [ ! -e "$T/rootfs/ran" ] || fail "it ran"
    runtime start "$ID"
    wait_for 10 test -e "$T/rootfs/ran" || fail "it did not run"
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
case_preserved_descriptors_of_a_run() {
    base_config | jq '.process.args = ["sh", "-c", "cat <&3; echo out >&4; cat <&5"]' >"$T/config.json"
    echo file >"$T/file"
    echo piped | runtime run --preserve-fds 3 --bundle "$T" "$ID" 3<&0 4>"$T/four" 5<"$T/file" </dev/null >"$T/out"
    expect "$(cat "$T/out")" "$(printf 'piped\nfile')" "what was read"
    expect "$(cat "$T/four")" out "what was written"
}
case_preserved_descriptors_of_an_exec() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    expect "$(runtime exec --preserve-fds 1 "$ID" sh -c 'echo three >&3; ls /proc/self/fd | tr "\n" " "' 3>"$T/three" 4</dev/null)" "0 1 2 3 4 " "descriptors of ls"
    expect "$(cat "$T/three")" three
}
case_a_socket_is_preserved() {
    config '.process.args = ["sh", "-c", "read line <&3; echo answer to $line >&3"]'
    cat >"$T/peer.py" <<'PY'
import os, socket, subprocess, sys
ours, theirs = socket.socketpair()
run = subprocess.Popen(sys.argv[1:], pass_fds=[3], preexec_fn=lambda: os.dup2(theirs.fileno(), 3), stdin=subprocess.DEVNULL)
theirs.close()
ours.sendall(b"question\n")
print(ours.recv(100).decode(), end="", flush=True)
sys.exit(run.wait())
PY
    expect "$(python3 "$T/peer.py" "$RUNTIME" --root "$T/state" run --preserve-fds 1 --bundle "$T" "$ID")" "answer to question"
}
case_a_preserved_descriptor_that_is_not_there_is_an_error() {
    config
    status=0
    runtime run --preserve-fds 2 --bundle "$T" "$ID" 3</dev/null </dev/null >"$T/out" 2>&1 || status=$?
    expect_failure
    expect_has "$(cat "$T/out")" "preserved-fd 1 (of 2)"
}
case_descriptors_of_systemd_are_announced() {
    config '.process.args = ["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3"]'
    echo passed >"$T/file"
    out=$(sh -c 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"' sh "$RUNTIME" --root "$T/state" run --bundle "$T" "$ID" 3<"$T/file" </dev/null)
    expect_out "$(printf '1 1\npassed')"
}
case_exec_in_a_cgroup_below_the_containers() {
    config '.process.args = ["sleep", "1000"] | .mounts += [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}] | .linux.namespaces += [{"type": "cgroup"}]'
    create
    runtime start "$ID"
    runtime exec "$ID" mkdir /sys/fs/cgroup/below
    expect "$(runtime exec --cgroup /below "$ID" cat /proc/self/cgroup)" 0::/below
    for path in /none ../..; do
        status=0
        runtime exec --cgroup "$path" "$ID" true 2>"$T/err" || status=$?
        expect_status 255
    done
    expect_has "$(cat "$T/err")" "../.. is not a sub cgroup path"
    status=0
    runtime exec --cgroup pids:/below "$ID" true 2>"$T/err" || status=$?
    expect_status 255
    expect_has "$(cat "$T/err")" "unknown controller pids"
}
# A container may put all that runs in it into groups of its own: its group takes none then.
case_an_exec_goes_where_the_containers_process_is() {
    config '.process.args = ["sleep", "1000"] | .mounts += [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}] | .linux.namespaces += [{"type": "cgroup"}]'
    create
    runtime start "$ID"
    runtime exec "$ID" sh -ec 'cd /sys/fs/cgroup; mkdir mine; for p in 1 $$; do echo $p >mine/cgroup.procs; done; echo +memory >cgroup.subtree_control'
    expect "$(runtime exec "$ID" cat /proc/self/cgroup)" 0::/mine
    # But not where the caller names the group.
    status=0
    runtime exec --cgroup / "$ID" true 2>"$T/err" || status=$?
    expect_status 255
    expect_has "$(tr B b <"$T/err")" "usy"
}
# Whoever reads it has no terminal to make lines of it.
case_a_terminals_lines_end_with_line_feeds_in_a_file() {
    base_config | jq '.process.terminal = true | .process.args = ["sh", "-c", "echo one; echo two"]' >"$T/config.json"
    script -qec "'$RUNTIME' --root '$T/state' run --bundle '$T' '$ID' >'$T/out'" /dev/null </dev/null
    expect "$(od -An -c "$T/out" | tr -d ' \n')" 'one\ntwo\n'
}
case_an_execs_lines_too_and_its_terminal_has_the_callers_size() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    script -qec "stty rows 21 cols 67; '$RUNTIME' --root '$T/state' exec -t '$ID' sh -c 'sleep 1; stty size' </dev/null >'$T/out'" /dev/null </dev/null
    expect "$(od -An -c "$T/out" | tr -d ' \n')" '2167\n'
}
# And a terminal shows them as it shows all others.
case_a_terminals_lines_on_a_terminal() {
    base_config | jq '.process.terminal = true | .process.args = ["sh", "-c", "echo one; echo two"]' >"$T/config.json"
    script -qec "'$RUNTIME' --root '$T/state' run --bundle '$T' '$ID'" /dev/null </dev/null >"$T/out"
    expect "$(od -An -c "$T/out" | tr -d ' \n')" 'one\r\ntwo\r\n'
}
case_a_list_of_a_root_that_is_not_there_is_an_error() {
    status=0
    "$RUNTIME" --root "$T/nothing" list >"$T/out" 2>&1 || status=$?
    expect_status 1
    expect_has "$(cat "$T/out")" "$T/nothing"
}
case_an_exec_ends_with_its_process_whatever_that_has_started() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    local start=$SECONDS
    runtime exec "$ID" sh -c 'sleep 60 & echo one' >"$T/out"
    runtime exec "$ID" sh -c 'sleep 60 & echo two' | sed q >>"$T/out"
    script -qec "'$RUNTIME' --root '$T/state' exec -t '$ID' sh -c 'sleep 60 & echo three'" /dev/null </dev/null | tr -d '\r' >>"$T/out"
    expect "$(cat "$T/out")" "$(printf 'one\ntwo\nthree')"
    [ $((SECONDS - start)) -lt 50 ] || fail "$((SECONDS - start)) seconds"
}
# Probes run one every few seconds, for months.
case_execs_leave_no_files() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    runtime exec "$ID" true
    find "$T/state" "${HULL_EXEC_ROOT:-/run/hull}" 2>/dev/null | sort >"$T/before" || true
    for _ in 1 2 3; do runtime exec "$ID" true; done
    ! runtime exec "$ID" no-such-program 2>/dev/null || fail "it ran"
    runtime exec --detach "$ID" true </dev/null >/dev/null 2>&1
    sleep 2
    find "$T/state" "${HULL_EXEC_ROOT:-/run/hull}" 2>/dev/null | sort | diff "$T/before" - || fail "there are more"
}
case_a_process_that_is_out_of_memory_is_one_of_many() {
    config '.process.args = ["sleep", "1000"] | .linux.resources.memory = {"limit": 33554432}'
    create
    runtime start "$ID"
    status=0
    runtime exec "$ID" sh -c 'head -c 100m /dev/zero | tail' >/dev/null 2>&1 || status=$?
    expect_status 137
    expect "$(status_of)" running
}
case_the_pid_shows_the_containers_command() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    expect "$(ps -o args= -p "$(runtime state "$ID" | jq .pid)")" "sleep 1000"
}

# The container's own group, as it sees it.
own_cgroup='.linux.namespaces += [{type: "cgroup"}] | .mounts += [{destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"]}]'
group_file() { runtime exec "$ID" cat "/sys/fs/cgroup/$1"; }
case_an_update_leaves_what_it_does_not_name() {
    config "$own_cgroup"' | .process.args = ["sleep", "1000"] | .linux.resources = {cpu: {quota: 25000, period: 50000, shares: 512}, memory: {limit: 67108864, swap: 134217728}}'
    create
    runtime start "$ID"
    runtime update --cpu-period 20000 "$ID"
    expect "$(group_file cpu.max)" "25000 20000" "after the period"
    runtime update --cpu-quota 10000 "$ID"
    expect "$(group_file cpu.max)" "10000 20000" "after the quota"
    runtime update --pids-limit 50 "$ID"
    echo '{"cpu": {"quota": 0, "period": 0}, "memory": {"reservation": 8388608}}' | runtime update --resources - "$ID"
    expect "$(group_file cpu.max)" "10000 20000" "after others"
    expect "$(group_file memory.max)" 67108864
    expect "$(group_file memory.low)" 8388608
    runtime update --memory 33554432 "$ID"
    expect "$(group_file memory.max)" 33554432
    ! runtime update --memory-swap 16777216 "$ID" 2>"$T/err" || fail "less swap than memory"
    expect_has "$(cat "$T/err")" "memory+swap limit should be >= memory limit"
    runtime update --cpu-quota -1 "$ID"
    expect "$(group_file cpu.max)" "max 20000" "without a limit"
}
# A limit that is there has an effect.
case_an_update_above_what_there_is_holds_or_is_refused() {
    config "$own_cgroup"' | .process.args = ["sleep", "1000"] | .linux.resources = {memory: {limit: 67108864}, cpu: {quota: 50000, period: 100000}}'
    create
    runtime start "$ID"
    if runtime update --memory 1073741824 "$ID" 2>"$T/err"; then
        expect "$(group_file memory.max)" 1073741824
        [ "$(runtime exec "$ID" awk '/MemTotal/ {print $2}' /proc/meminfo)" -gt 1048576 ] || fail "there is less"
    else
        expect_has "$(cat "$T/err")" "a memory limit of 1073741824 bytes is more than"
        expect "$(group_file memory.max)" 67108864
    fi
    runtime update --memory 67108864 "$ID"
    runtime update --memory -1 "$ID"
    expect "$(group_file memory.max)" max
}
case_a_checked_update_below_what_is_in_use_is_refused() {
    config "$own_cgroup"' | .process.args = ["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; touch /ready; sleep 1000"] | .linux.resources.memory.limit = 67108864'
    create
    runtime start "$ID"
    wait_for 20 test -e "$T/rootfs/ready" || fail "not ready"
    ! echo '{"memory": {"limit": 8388608, "checkBeforeUpdate": true}}' | runtime update --resources - "$ID" 2>"$T/err" || fail "updated"
    expect_has "$(cat "$T/err")" "rejecting memory limit"
    expect "$(group_file memory.max)" 67108864
}
case_exec_of_a_process_file_has_what_the_container_has() {
    config '.process.args = ["sleep", "1000"] | .process.capabilities |= map_values(["CAP_KILL"]) | .process.rlimits = [{type: "RLIMIT_NOFILE", soft: 100, hard: 100}]'
    create
    runtime start "$ID"
    echo '{"args": ["sh", "-c", "grep CapEff /proc/self/status; ulimit -n"], "env": ["PATH=/bin"], "cwd": "/"}' >"$T/process.json"
    expect "$(runtime exec --process "$T/process.json" "$ID" | tr -d '\t')" "$(printf 'CapEff:0000000000000020\n100')"
    jq '.capabilities = {} | .rlimits = [{type: "RLIMIT_NOFILE", soft: 50, hard: 50}]' "$T/process.json" >"$T/own.json"
    expect "$(runtime exec --process "$T/own.json" "$ID" | tr -d '\t')" "$(printf 'CapEff:0000000000000000\n50')" "of its own"
}
case_events_tell_of_the_oom_that_ends_the_container() {
    config '.process.args = ["sh", "-c", "sleep 3; head -c 200m /dev/zero | tail >/dev/null; sleep 2; exit 7"] | .linux.resources.memory = {limit: 33554432, swap: 33554432}'
    create
    runtime events --interval 1m30s "$ID" >"$T/events" 2>&1 &
    runtime start "$ID"
    wait_for 40 is_stopped || fail "$(status_of)"
    wait_for 5 grep -q '"oom"' "$T/events" || fail "$(cat "$T/events")"
    expect "$(head -n 1 "$T/events" | jq -r '.type + .id')" "oom$ID"
}
case_a_run_passes_on_any_signal() {
    base_config | jq '.process.args = ["sh", "-c", "trap \"echo io\" IO; trap \"echo halt; exit 3\" 37; touch /ready; while :; do sleep 0.2; done"]' >"$T/config.json"
    runtime run --bundle "$T" "$ID" </dev/null >"$T/out" 2>&1 &
    local pid=$! status=0
    wait_for 20 test -e "$T/rootfs/ready" || fail "not ready: $(cat "$T/out")"
    kill -IO "$pid"
    wait_for 5 grep -q io "$T/out" || fail "no SIGIO: $(cat "$T/out")"
    kill -37 "$pid"
    wait "$pid" || status=$?
    expect "$status $(tail -n 1 "$T/out")" "3 halt"
}
