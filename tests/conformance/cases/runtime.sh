# runtime.md

case_the_states_follow_each_other() {
    config '.process.args = ["sleep", "1000"]'
    create
    expect "$(status_of)" created
    runtime start "$ID"
    expect "$(status_of)" running
    runtime kill "$ID" KILL
    wait_for 10 is_stopped || fail "$(status_of)"
    runtime delete "$ID"
    ! runtime state "$ID" >/dev/null 2>&1 || fail "still known"
}
case_the_state_has_what_it_must() {
    config '.process.args = ["sleep", "1000"] | .annotations = {"a.b": "c"}'
    create --pid-file "$T/pid"
    expect "$(runtime state "$ID" | jq -r '.ociVersion[0:2], .id, .bundle, .annotations["a.b"]' | tr '\n' ' ')" "1. $ID $T c "
    expect "$(runtime state "$ID" | jq .pid)" "$(cat "$T/pid")" pid
    kill -0 "$(cat "$T/pid")" || fail "no such process"
}
case_the_program_does_not_run_before_start() {
    config '.process.args = ["touch", "/ran"]'
    create
    sleep 1
    [ ! -e "$T/rootfs/ran" ] || fail "it ran"
    runtime start "$ID"
    wait_for 10 test -e "$T/rootfs/ran" || fail "it did not run"
}
case_a_signal_ends_what_is_created() {
    config '.process.args = ["touch", "/ran"]'
    create
    runtime kill "$ID" WINCH
    runtime kill "$ID" USR1
    sleep 1
    expect "$(status_of)" created
    runtime kill "$ID" TERM
    wait_for 10 is_stopped || fail "$(status_of)"
    [ ! -e "$T/rootfs/ran" ] || fail "it ran"
    runtime delete "$ID"
}
case_an_id_is_used_once() {
    config '.process.args = ["sleep", "1000"]'
    create
    ! create || fail "created twice"
    expect "$(status_of)" created
}
case_a_configuration_changed_after_create_has_no_effect() {
    config '.process.args = ["sh", "-c", "echo first"]'
    create
    jq '.process.args = ["sh", "-c", "echo second"]' "$T/config.json" >"$T/new" && mv "$T/new" "$T/config.json"
    runtime start "$ID"
    wait_for 10 is_stopped || fail "$(status_of)"
    expect "$(cat "$T/out")" first output
}
case_start_only_what_is_created() {
    config '.process.args = ["true"]'
    create
    runtime start "$ID"
    wait_for 10 is_stopped || fail "$(status_of)"
    ! runtime start "$ID" 2>/dev/null || fail "started twice"
}
case_delete_only_what_is_stopped() {
    config '.process.args = ["sleep", "1000"]'
    create
    runtime start "$ID"
    ! runtime delete "$ID" 2>/dev/null || fail "deleted while running"
    expect "$(status_of)" running
}
case_kill_only_what_runs() {
    config '.process.args = ["true"]'
    create
    runtime start "$ID"
    wait_for 10 is_stopped || fail "$(status_of)"
    ! runtime kill "$ID" TERM 2>/dev/null || fail "killed"
}
case_a_signal_arrives() {
    config '.process.args = ["sh", "-c", "trap \"echo got; exit 3\" TERM; touch /ready; while :; do sleep 0.1; done"]'
    create
    runtime start "$ID"
    wait_for 10 test -e "$T/rootfs/ready" || fail "not ready"
    runtime kill "$ID" TERM
    wait_for 10 is_stopped || fail "$(status_of)"
    expect "$(cat "$T/out")" got output
}
case_the_pid_ends_with_the_container() {
    config '.process.args = ["sleep", "1000"]'
    create --pid-file "$T/pid"
    runtime start "$ID"
    runtime kill "$ID" KILL
    wait_for 10 sh -c "! test -e /proc/$(cat "$T/pid")/ns/net" || fail "it lives on"
}
case_an_unknown_container_is_an_error() {
    for command in state start "kill" delete; do
        ! runtime "$command" none >/dev/null 2>&1 || fail "$command"
    done
}
case_bad_configurations_are_errors() {
    echo '{' >"$T/config.json"
    ! create || fail "no JSON"
    config '.process.args = []'
    ! create || fail "no arguments"
    config '.process.args = "x"'
    ! create || fail "arguments of another type"
    config 'del(.root)'
    ! create || fail "no root"
}
hook() { echo "{path: \"/bin/sh\", args: [\"sh\", \"-c\", \"cat >$T/state-$1; echo $1 >>$T/order\"]}"; }
case_hooks_run_in_their_order_with_the_state() {
    config ".process.args = [\"sh\", \"-c\", \"sleep 0.5\"] | .hooks = {prestart: [$(hook prestart)], createRuntime: [$(hook createRuntime)], poststart: [$(hook poststart)], poststop: [$(hook poststop)]}"
    create --pid-file "$T/pid"
    expect "$(tr '\n' ' ' <"$T/order")" "prestart createRuntime " "before start"
    expect "$(jq -r '.id, .bundle, .pid' "$T/state-createRuntime" | tr '\n' ' ')" "$ID $T $(cat "$T/pid") " state
    runtime start "$ID"
    wait_for 10 grep -q poststart "$T/order" || fail "no poststart"
    wait_for 10 is_stopped || fail "$(status_of)"
    runtime delete "$ID"
    expect "$(tr '\n' ' ' <"$T/order")" "prestart createRuntime poststart poststop " order
    expect "$(jq -r .status "$T/state-poststop")" stopped "state of poststop"
}
case_create_container_hooks_run_before_the_start() {
    config ".hooks = {createContainer: [$(hook createContainer)], createRuntime: [$(hook createRuntime)]}"
    create
    expect "$(tr '\n' ' ' <"$T/order")" "createRuntime createContainer " order
    expect "$(jq -r .id "$T/state-createContainer")" "$ID" state
}
case_start_container_hooks_run_inside_and_before_the_program() {
    shell 'cat /tmp/state; echo; echo program' '.hooks = {startContainer: [{path: "/bin/sh", args: ["sh", "-c", "cat >/tmp/state; hostname >/tmp/name"], env: ["PATH=/bin"]}]}'
    expect_status 0
    expect "$(tail -n 1 <<<"$out")" program output
    expect "$(head -n 1 <<<"$out" | jq -r .id)" "$ID" state
    expect "$(cat "$T/rootfs/tmp/name")" inside "host name"
}
case_a_failing_start_container_hook_fails_the_start() {
    config '.process.args = ["touch", "/tmp/ran"] | .hooks = {startContainer: [{path: "/bin/false"}]}'
    create
    ! runtime start "$ID" 2>"$T/err" || fail "started"
    [ ! -e "$T/rootfs/tmp/ran" ] || fail "the program ran"
}
case_a_failing_hook_fails_the_create() {
    config '.hooks = {createRuntime: [{path: "/bin/false"}]}'
    ! create || fail "created"
    ! runtime state "$ID" >/dev/null 2>&1 || fail "still known"
}
case_a_poststop_hook_that_fails_keeps_no_other_from_running() {
    config ".process.args = [\"true\"] | .hooks = {poststop: [{path: \"/bin/false\"}, {path: \"/usr/bin/touch\", args: [\"touch\", \"$T/second\"]}]}"
    create
    runtime start "$ID"
    wait_for 20 is_stopped
    runtime delete "$ID" 2>/dev/null || fail "the delete failed"
    [ -e "$T/second" ] || fail "the second did not run"
}
case_a_hook_past_its_timeout_fails_the_create() {
    config '.hooks = {createRuntime: [{path: "/bin/sleep", args: ["sleep", "100"], timeout: 1}]}'
    local start=$SECONDS
    ! create || fail "created"
    [ $((SECONDS - start)) -lt 30 ] || fail "$((SECONDS - start)) seconds"
}
case_hooks_see_the_containers_network() {
    config ".hooks = {createRuntime: [{path: \"/bin/sh\", args: [\"sh\", \"-c\", \"readlink /proc/\$(jq .pid)/ns/net >$T/net\"], env: [\"PATH=/usr/bin:/bin\"]}]}"
    create
    [ "$(cat "$T/net")" != "$(readlink /proc/self/ns/net)" ] || fail "it is the host's"
}
case_ids_may_begin_with_a_dot_and_be_long() {
    local id
    config '.process.args = ["echo", "ran"]'
    for id in .hidden "$(printf 'x%.0s' $(seq 255))"; do
        expect "$(runtime run --bundle "$T" "$id" </dev/null)" ran
    done
}
