# hull-runtime where something fails, hangs or is killed: an answer, and nothing left behind.
# seconds: 300

. tests/lib/bundles.sh

# pid_of shim|vmm|holder ID
pid_of() {
    case $1 in
        shim) pgrep -f "[s]him-hull-v2.*-id $2" | head -n 1 ;;
        vmm) pgrep -x hull-vmm | head -n 1 ;;
        holder) cat "$T/pid" ;;
    esac
}

# to_state created|running|paused|stopped ID
to_state() {
    runtime create -b "$T/b" --pid-file "$T/pid" "$2" </dev/null >/dev/null 2>&1
    case $1 in
        created) return ;;
        stopped)
            runtime start "$2"
            runtime kill "$2" KILL
            wait_for 10 is_stopped "$2"
            ;;
        *)
            runtime start "$2"
            [ "$1" = running ] || runtime pause "$2"
            ;;
    esac
}

# kill_in STATE...: kills $victim in each of them.
kill_in() {
    make_bundle b '.process.args = ["sleep", "1000"] | .linux.cgroupsPath = "/hull-test/killed"'
    local state pid
    for state; do
        to_state "$state" k1
        pid=$(pid_of "$victim" k1)
        [ -e "/proc/$pid" ] || fail "no $victim of a $state container"
        kill -9 "$pid"
        wait_for 10 is_stopped k1 || fail "$state, $victim killed: $(status_of k1)"
        capture runtime exec k1 true
        expect_status 255
        expect_err_has "cannot exec in a stopped container"
        runtime delete k1 || fail "delete of a $state container whose $victim was killed"
        expect_nothing_left
    done
}

case_kill_9_of_the_shim_in_every_state_leaves_nothing() { victim=shim kill_in created running paused stopped; }
# Core.
case_kill_9_of_the_vmm_in_every_state_leaves_nothing() { victim=vmm kill_in created running paused stopped; }
# With a container that has stopped its holder is gone.
case_kill_9_of_the_holder_in_every_state_leaves_nothing() { victim=holder kill_in created running paused; }

case_a_guest_that_does_not_answer_is_removed_by_force() {
    make_bundle b '.process.args = ["sleep", "1000"]'
    to_state running f1
    kill -STOP "$(pid_of vmm f1)"
    capture runtime delete --force f1
    expect_status 0
    expect_nothing_left
}

case_a_shim_that_stands_still_is_removed_by_force() {
    make_bundle b '.process.args = ["sleep", "1000"] | .linux.cgroupsPath = "/hull-test/still"'
    to_state running f1
    kill -STOP "$(pid_of shim f1)"
    capture timeout 60 hull-runtime --root "$RUNTIME_ROOT" delete f1
    expect_status 1
    expect_err_has 'does not answer: delete --force ends it'
    capture timeout 60 hull-runtime --root "$RUNTIME_ROOT" delete --force f1
    expect_status 0
    expect_nothing_left
}

case_a_hook_that_hangs_is_ended_by_its_timeout_or_by_a_delete() {
    make_bundle b '.process.args = ["true"] | .hooks = {createRuntime: [{path: "/bin/sh", args: ["sh", "-c", "sleep 1000 & wait"], timeout: 1}]}'
    capture timeout 60 hull-runtime --root "$RUNTIME_ROOT" run -b "$T/b" h1
    expect_status 1
    expect_err_has "error running createRuntime hook #0"
    expect_nothing_left
    ! pgrep -f "[s]leep 1000" || fail "the hook's child lives on"
    # Without a timeout it may hang for ever: whoever ends the create gets rid of all.
    jq 'del(.hooks.createRuntime[0].timeout)' "$T/b/config.json" >"$T/new" && mv "$T/new" "$T/b/config.json"
    hull-runtime --root "$RUNTIME_ROOT" create -b "$T/b" h1 </dev/null >/dev/null 2>&1 &
    local create=$!
    wait_for 20 pgrep -f "[s]leep 1000" >/dev/null || fail "no hook"
    kill -9 $create
    wait $create 2>/dev/null || true
    runtime delete --force h1
    expect_nothing_left
    ! pgrep -f "[s]leep 1000" || fail "the hook lives on"
}

case_a_console_socket_that_closes_is_an_error_or_a_hang_up() {
    make_bundle b '.process.terminal = true | .process.args = ["sh"]'
    # Closed as soon as it is connected: the terminal has no other side.
    python3 - "$T/console" <<'PY' &
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(1)
server.accept()[0].close()
PY
    wait_for 10 test -S "$T/console"
    capture timeout 60 hull-runtime --root "$RUNTIME_ROOT" create -b "$T/b" --console-socket "$T/console" c1
    if [ "$status" = 0 ]; then
        # The master was sent and thrown away with the connection: the shell reads the end of its input.
        runtime start c1
        wait_for 10 is_stopped c1 || fail "$(status_of c1)"
        runtime delete c1
    fi
    [ "$status" != 124 ] || fail "create hangs"
    wait
    expect_nothing_left
}

case_output_that_nobody_reads_blocks_the_container_only() {
    make_bundle b '.process.args = ["sh", "-c", "head -c 8000000 /dev/zero; echo done >&2; sleep 1000"]'
    mkfifo "$T/fifo"
    exec 9<>"$T/fifo"
    hull-runtime --root "$RUNTIME_ROOT" run -d -b "$T/b" f1 </dev/null >"$T/fifo" 2>"$T/err" 9<&-
    sleep 2
    [ ! -s "$T/err" ] || fail "it went on: $(cat "$T/err")"
    # The shim answers as ever.
    expect_eq "$(runtime exec f1 echo answered)" answered exec
    # A reader gets all of it, and the container goes on.
    expect_eq "$(head -c 8000000 <&9 | wc -c)" 8000000 bytes
    wait_for 20 grep -q done "$T/err" || fail "it did not go on"
    # Blocked again by nobody, it can be killed.
    runtime delete --force f1
    exec 9<&-
    expect_nothing_left
}

case_a_blocked_container_can_be_killed() {
    make_bundle b '.process.args = ["sh", "-c", "while :; do head -c 1000000 /dev/zero; done"]'
    mkfifo "$T/fifo"
    exec 9<>"$T/fifo"
    hull-runtime --root "$RUNTIME_ROOT" run -d -b "$T/b" f2 </dev/null >"$T/fifo" 2>/dev/null 9<&-
    sleep 1
    runtime kill f2 KILL
    wait_for 10 is_stopped f2 || fail "$(status_of f2)"
    runtime delete f2
    exec 9<&-
    expect_nothing_left
}

case_input_that_ends_early_ends_for_the_process() {
    make_bundle b '.process.args = ["sh", "-c", "cat; echo end"]'
    capture hull-runtime --root "$RUNTIME_ROOT" run -b "$T/b" i1 </dev/null
    expect_out $'end\n'
    capture hull-runtime --root "$RUNTIME_ROOT" run -b "$T/b" i1 <&-
    expect_status 0
    expect_out $'end\n'
    # A process that does not read what comes.
    make_bundle deaf '.process.args = ["true"]'
    status=0
    head -c 1000000 /dev/zero | runtime run -b "$T/deaf" i1 || status=$?
    expect_eq "$status" 0 status
    expect_nothing_left
}

case_many_execs_at_once_have_each_its_status() {
    local count=${EXECS:-60} number failed=0 pids=()
    make_bundle b '.process.args = ["sleep", "1000"] | .linux.resources = {} | .annotations = {"dev.hull.memory": "512m"}'
    runtime run -d -b "$T/b" e1 </dev/null >/dev/null 2>&1
    for number in $(seq "$count"); do
        hull-runtime --root "$RUNTIME_ROOT" exec e1 sh -c "echo $number; exit $((number % 200))" </dev/null >"$T/out.$number" 2>&1 &
        pids+=($!)
    done
    for number in $(seq "$count"); do
        status=0
        wait "${pids[number - 1]}" || status=$?
        [ "$status" = $((number % 200)) ] && [ "$(cat "$T/out.$number")" = "$number" ] || {
            failed=$((failed + 1))
            echo "exec $number: status $status, $(cat "$T/out.$number")"
        }
    done
    expect_eq "$failed" 0 "wrong answers of $count"
    expect_eq "$(runtime ps e1 | wc -l)" 2 "processes afterwards"
    runtime delete --force e1
    expect_nothing_left
}

# A call whose client is gone goes on to its end: the container is as if nothing had happened.
case_a_start_goes_on_when_who_has_asked_for_it_is_killed() {
    make_bundle b '.process.args = ["sleep", "1000"] | .hooks = {startContainer: [{path: "/bin/sleep", args: ["sleep", "4"]}]}'
    runtime create -b "$T/b" --pid-file "$T/pid" c1 </dev/null >/dev/null 2>&1
    hull-runtime --root "$RUNTIME_ROOT" start c1 &
    sleep 1.5
    kill -9 $!
    wait_for 20 is_running c1 || fail "it is $(status_of c1)"
    runtime kill c1 KILL
    wait_for 10 is_stopped c1 || fail "it is $(status_of c1)"
    [ ! -e "/proc/$(cat "$T/pid")" ] || fail 'the process that stands for it is there'
    runtime delete c1
    expect_nothing_left
}
is_running() { [ "$(status_of "$1")" = running ]; }
