# config.md, Process

case_args_and_env() {
    shell 'echo "$0 $1 $A"' '.process.args = ["sh", "-c", "echo \"$0 $1 $A\"", "zero", "one"] | .process.env += ["A=a b"]'
    expect_out "zero one a b"
}
case_only_the_given_environment() {
    shell 'env | grep -v -e ^PWD -e ^SHLVL -e ^HOME -e ^OLDPWD | sort' '.process.env += ["X=1"]'
    expect_out "$(printf 'PATH=/bin\nX=1')"
}
case_exit_status_is_the_process_own() { shell 'exit 42'; expect_status 42; }
case_death_by_a_signal_is_128_plus_n() { shell 'sh -c "kill -TERM \$\$"; exit $?'; expect_status 143; }
case_cwd_is_made_and_entered() { shell pwd '.process.cwd = "/data/new/dir"'; expect_out /data/new/dir; }
case_cwd_must_be_absolute() { shell pwd '.process.cwd = "data"'; expect_failure; }
case_cwd_of_the_user_only() {
    chown 1000:1000 "$T/rootfs/home/app"
    chmod 700 "$T/rootfs/home/app"
    shell pwd '.process.user = {"uid": 1000, "gid": 1000} | .process.cwd = "/home/app" | .process.capabilities = {}'
    expect_out /home/app
}
case_cwd_that_only_root_may_enter() {
    chown 0:0 "$T/rootfs/root"
    chmod 700 "$T/rootfs/root"
    shell pwd '.process.user = {"uid": 1000, "gid": 1000} | .process.cwd = "/root" | .process.capabilities = {}'
    expect_out /root
}
case_cwd_that_roots_capabilities_do_not_reach() {
    chown 1000:1000 "$T/rootfs/home/app"
    chmod 700 "$T/rootfs/home/app"
    shell pwd '.process.cwd = "/home/app" | .process.capabilities = {}'
    expect_out /home/app
}
case_a_home_without_a_value_is_the_users() {
    shell 'echo "$HOME"' '.process.user = {"uid": 1000, "gid": 1000} | .process.env += ["HOME=/x", "HOME="]'
    expect_out /home/app
}
case_user_and_groups() {
    shell 'echo $(id -u):$(id -g):$(id -G)' '.process.user = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}'
    expect_out "1000:1001:1001 5 6"
}
case_a_user_name_means_nothing() {
    shell 'echo $(id -u):$(id -g)' '.process.user = {"uid": 1000, "gid": 1001, "username": "root"}'
    expect_out 1000:1001
    shell 'id -u' '.process.user = {"uid": 0, "gid": 0, "username": "nobody-here"}'
    expect_out 0
}
case_umask() { shell 'umask; touch /tmp/f; stat -c %a /tmp/f' '.process.user.umask = 23'; expect_out "$(printf '0027\n640')"; }
case_no_new_privileges() { shell 'grep NoNewPrivs /proc/self/status | tr -d "\t"' '.process.noNewPrivileges = true'; expect_out NoNewPrivs:1; }
case_capability_sets() {
    shell 'grep Cap /proc/self/status | cut -f 2 | tr "\n" " "' '.process.capabilities = {"bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}'
    # The exec gives root what is inheritable or bounding (capabilities(7)).
    expect_out "0000000000000020 0000000000000021 0000000000000021 0000000000000021 0000000000000020 "
}
case_without_capabilities_a_user_has_none() {
    shell 'grep -E "Cap(Prm|Eff|Amb)" /proc/self/status | cut -f 2 | sort -u' '.process.user = {"uid": 1000, "gid": 1000} | .process.capabilities = {}'
    expect_out 0000000000000000
}
case_capabilities_that_are_not_given_are_not_there() {
    shell 'grep Cap /proc/self/status | cut -f 2 | sort -u' 'del(.process.capabilities)'
    # The exec gives root what is inheritable or bounding: nothing.
    expect_out 0000000000000000
}
case_rlimits() {
    shell 'ulimit -n; ulimit -Hn; ulimit -c' '.process.rlimits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]'
    expect_out "$(printf '100\n200\n0')"
}
case_an_rlimit_of_many_files() {
    shell 'ulimit -n' '.process.rlimits = [{"type": "RLIMIT_NOFILE", "soft": 2000000, "hard": 2000000}]'
    expect_out 2000000
}
case_an_rlimit_that_is_refused_is_named() {
    shell true '.process.rlimits = [{"type": "RLIMIT_NOFILE", "soft": 2147483648, "hard": 2147483648}]'
    expect_failure
    expect_has "$err" NOFILE
}
case_an_rlimit_named_twice_is_an_error() {
    shell true '.process.rlimits = [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}, {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 3}]'
    expect_failure
}
case_an_unknown_rlimit_is_an_error() { shell true '.process.rlimits = [{"type": "RLIMIT_NONE", "soft": 1, "hard": 2}]'; expect_failure; }
case_scheduler_and_io_priority() {
    shell 'cut -d" " -f41 /proc/self/stat; ionice' '.process.scheduler = {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"], "nice": 0} | .process.ioPriority = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}'
    expect "${out%%$'\n'*}" 3 "policy (SCHED_BATCH)"
    expect_has "$out" idle
}
case_oom_score() { shell 'cat /proc/self/oom_score_adj' '.process.oomScoreAdj = 100'; expect_out 100; }
case_a_missing_program_is_named() {
    shell true '.process.args = ["no-such-program"]'
    expect_failure
    expect_has "$err" no-such-program
}
case_a_program_without_permission_is_named() {
    touch "$T/rootfs/data/plain"
    shell true '.process.args = ["/data/plain"]'
    expect_failure
    expect_has "$err" "ermission denied"
}
case_a_terminal_is_a_terminal() {
    base_config | jq '.process.terminal = true | .process.args = ["sh", "-c", "tty; stty size"] | .process.consoleSize = {"height": 33, "width": 77}' >"$T/config.json"
    out=$(python3 tests/lib/console.py "$T/console" "run:$RUNTIME --root $T/state start $ID|expect:/dev/pts/0|expect:33 77" "$RUNTIME" --root "$T/state" create --bundle "$T" --console-socket "$T/console" "$ID" 2>&1) || fail "$out"
}
