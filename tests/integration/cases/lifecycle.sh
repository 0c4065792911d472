# ps, logs, exec, stop, kill, rm, wait, and what the engine remembers.

# Core.
case_detached_container_lives_and_is_listed() {
    local id
    id=$(hull run -d --name t-d "$BUSYBOX" sh -c 'echo started; sleep 600')
    expect_eq "${#id}" 64 "length of the id"
    hull ps | grep -q t-d
    wait_for 20 sh -c 'hull logs t-d | grep -q started'
    hull stop -t 1 t-d
    hull ps | grep t-d && fail "still listed as running"
    hull ps -a | grep t-d | grep -q 'Exited (137)'
    hull rm t-d
    hull ps -a | grep t-d && fail "still there"
    expect_clean_host
}

# Core.
case_stop_uses_signal_then_kill() {
    hull run -d --name t-trap "$BUSYBOX" sh -c 'trap "exit 7" TERM; echo up; while :; do sleep 0.1; done' >/dev/null
    wait_for 20 sh -c 'hull logs t-trap | grep -q up'
    hull stop t-trap
    expect_eq "$(hull inspect -f '{{.State.ExitCode}}' t-trap)" 7 ExitCode
    hull run -d --name t-int --stop-signal INT "$BUSYBOX" sh -c 'trap "exit 9" INT; echo up; while :; do sleep 0.1; done' >/dev/null
    wait_for 20 sh -c 'hull logs t-int | grep -q up'
    hull stop t-int
    expect_eq "$(hull inspect -f '{{.State.ExitCode}}' t-int)" 9 ExitCode
}

case_kill_and_wait() {
    hull run -d --name t-k "$BUSYBOX" sleep 600 >/dev/null
    hull wait t-k >"$T/waited" &
    hull kill t-k >/dev/null
    wait $!
    expect_eq "$(cat "$T/waited")" 137 "wait's answer"
    capture hull kill t-k
    expect_err_has 'not running'
    [ "$status" != 0 ] || fail "kill of a stopped container succeeded"
}

# Core.
case_exec() {
    hull run -d --name t-e -e A=1 -u app "$BUSYBOX" sleep 600 >/dev/null
    capture hull exec t-e sh -c 'echo a; echo b >&2; exit 3'
    expect_status 3
    expect_out $'a\n'
    expect_eq "$err" b stderr
    capture hull exec -e B=2 -w /tmp -u root t-e sh -c 'echo $A $B $(pwd) $(id -u)'
    expect_out $'1 2 /tmp 0\n'
    capture hull exec t-e sh -c 'id -Gn; echo "$HOME"'
    expect_out $'app dock\n/home/app\n'
    capture hull exec -i t-e cat <<<through
    expect_out $'through\n'
    for _ in 1 2 3 4 5 6; do hull exec -d t-e true; done
    wait_for 10 sh -c '! hull exec t-e ps -o stat,comm | grep -q ^Z' || fail "left: $(hull exec t-e ps -o pid,ppid,stat,args)"
    capture hull exec t-e nosuchprog
    expect_status 127
    # As docker's, on standard output.
    expect_out_has '"nosuchprog": executable file not found'
    capture script -qec "hull exec -it t-e sh -c 'tty; exit 4'" /dev/null </dev/null
    expect_status 4
    expect_out_has /dev/pts/
}

# Core.
case_exec_status_of_signals() {
    hull run -d --name t-es "$BUSYBOX" sleep 600 >/dev/null
    local signal want
    for signal in KILL:137 TERM:143 INT:130; do
        want=${signal#*:}
        capture hull exec t-es sh -c "kill -${signal%:*} \$\$; sleep 3"
        expect_status "$want"
    done
    hull ps -q --filter name=t-es | grep -q .
}

case_exec_without_stdin_lives_to_its_end() {
    hull run -d --name t-x "$BUSYBOX" sleep 600 >/dev/null
    capture hull exec t-x sh -c 'echo a; sleep 2; echo b; sleep 2; exit 3'
    expect_status 3
    expect_out $'a\nb\n'
}

case_exec_with_a_background_child_returns() {
    hull run -d --name t-bg "$BUSYBOX" sleep 600 >/dev/null
    timeout 20 hull exec t-bg sh -c 'sleep 8 & echo ok' >"$T/out" || true
    expect_eq "$(cat "$T/out")" ok stdout
    hull exec t-bg true
}

case_exec_ends_with_the_container() {
    hull run -d --name t-dep "$BUSYBOX" sleep 6 >/dev/null
    capture hull exec t-dep sleep 1000
    expect_status 137
    expect_eq "$(hull inspect -f '{{.State.Status}} {{.State.ExitCode}}' t-dep)" 'exited 0' state
    hull rm t-dep
}

case_logs_follow_ends_with_the_container() {
    hull run -d --name t-f "$BUSYBOX" sh -c 'for i in 1 2 3; do echo $i; sleep 1; done' >/dev/null
    capture timeout 60 hull logs -f t-f
    expect_status 0
    expect_out $'1\n2\n3\n'
    capture hull logs --tail 1 t-f
    expect_out $'3\n'
}

case_names() {
    hull run -d --name t-my.app_1-x "$BUSYBOX" true >/dev/null
    capture hull run -d --name t-my.app_1-x "$BUSYBOX" true
    expect_status 125
    expect_err_has 'already in use'
    capture hull run -d --name a/b "$BUSYBOX" true
    expect_status 125
    expect_err_has 'Invalid container name'
    capture hull run -d --name -x "$BUSYBOX" true
    expect_status 125
}

case_rm_of_a_running_container_is_refused() {
    hull run -d --name t-r "$BUSYBOX" sleep 600 >/dev/null
    capture hull rm t-r
    [ "$status" != 0 ] || fail "removed a running container"
    expect_err_has running
    hull rm -f t-r
    expect_clean_host
}

case_rm_flag_leaves_nothing() {
    hull run --rm --name t-rm "$BUSYBOX" true
    wait_for 10 sh -c '! hull ps -aq --filter name=t-rm | grep -q .'
    expect_clean_host
}

# Core.
case_memory_limit_is_seen_and_enforced() {
    capture hull run --rm -m 128m "$BUSYBOX" sh -c 'cat /sys/fs/cgroup/memory.max; sed -n "s/MemTotal: *\([0-9]*\) kB/\1/p" /proc/meminfo'
    expect_eq "$(sed -n 1p "$T/out")" 134217728 memory.max
    local total
    total=$(sed -n 2p "$T/out")
    [ "$total" -ge 117000 ] && [ "$total" -le 145000 ] || fail "MemTotal $total kB for a limit of 131072 kB"
    hull run --name t-oom -m 64m "$BUSYBOX" sh -c 'x=a; while :; do x=$x$x; done' || true
    expect_eq "$(hull inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' t-oom)" 'true 137' 'state after an OOM kill'
}

# Core.
# SMP.
case_cpus_are_there_from_the_start() {
    capture hull run --rm --cpus 2 "$BUSYBOX" nproc
    expect_out $'2\n'
}

case_pids_limit() {
    capture hull run --rm --pids-limit 50 "$BUSYBOX" cat /sys/fs/cgroup/pids.max
    expect_out $'50\n'
}

case_shm_size() {
    capture hull run --rm "$BUSYBOX" sh -c 'df -m /dev/shm | tail -n 1 | tr -s " " | cut -d" " -f2'
    expect_out $'64\n'
    capture hull run --rm --shm-size 100m "$BUSYBOX" sh -c 'df -m /dev/shm | tail -n 1 | tr -s " " | cut -d" " -f2'
    expect_out $'100\n'
}

case_tmpfs_options() {
    capture hull run --rm --tmpfs /t:size=10m,mode=1770,uid=1000 "$BUSYBOX" sh -c 'stat -c "%a %u" /t; dd if=/dev/zero of=/t/f bs=1M count=20 2>&1 | grep -o "No space left"; stat -c %s /t/f'
    expect_out $'1770 1000\nNo space left\n10485760\n'
}

case_logs_begin_anew_at_a_size() {
    hull run --name t-rotate --log-opt max-size=2k --log-opt max-file=3 "$BUSYBOX" sh -c 'for i in $(seq 200); do echo "line $i"; done' >/dev/null
    expect_eq "$(hull logs -n 3 t-rotate | tr '\n' ' ')" 'line 198 line 199 line 200 ' tail
    local log
    log=$(hull inspect -f '{{.LogPath}}' t-rotate)
    expect_eq "$(ls "$log"* | wc -l)" 3 files
    [ "$(stat -c %s "$log")" -le 2048 ] || fail 'larger than asked for'
    capture hull run --rm --log-opt colour=red "$BUSYBOX" true
    expect_status 125
    expect_err_has "unknown log opt 'colour'"
    hull rm t-rotate >/dev/null
}

case_doctor_reads_the_jail_of_a_running_vmm() {
    hull run -d --name t-jail "$BUSYBOX" sleep 600 >/dev/null
    capture hull doctor --jail t-jail
    expect_status 0
    for want in 'own net namespace' 'CapEff' 'no_new_privs' 'seccomp of' 'root directory' 'open files'; do
        expect_out_has "$want"
    done
    hull rm -f t-jail >/dev/null
}

case_an_init_process_passes_signals_on_and_reaps() {
    hull run -d --init --name t-init "$BUSYBOX" sh -c 'trap "echo got; exit 7" TERM; sh -c "sleep 1 & exec true"; while :; do sleep 0.1; done' >/dev/null
    expect_eq "$(hull exec t-init cat /proc/1/comm)" docker-init 'PID 1'
    expect_eq "$(hull exec t-init cat /proc/1/cmdline | tr '\0' ' ' | cut -c1-25)" '/sbin/docker-init -- sh -' 'its arguments'
    # Ended as an orphan, and reaped.
    sleep 2
    hull exec t-init ps >"$T/ps"
    if grep -w Z "$T/ps"; then fail 'a zombie is left'; fi
    hull stop t-init >/dev/null
    expect_eq "$(hull wait t-init)" 7 'exit code'
    expect_eq "$(hull logs t-init)" got 'the signal came'
    # PID 1 would ignore it.
    hull run -d --init --name t-init2 "$BUSYBOX" sleep 600 >/dev/null
    hull kill -s TERM t-init2 >/dev/null
    expect_eq "$(hull wait t-init2)" 143 'a default action'
    capture hull run --rm --init "$BUSYBOX" sh -c 'exit 3'
    expect_status 3
    capture hull run --rm --init "$BUSYBOX" /no/such
    expect_status 127
    expect_eq "$(hull run --rm --init -u 1000 "$BUSYBOX" id -u)" 1000 'another user'
    expect_eq "$(hull run --rm --init=false "$BUSYBOX" cat /proc/1/comm)" cat 'without'
}

case_logs_are_compressed_and_carry_details() {
    local options=(--log-opt max-size=20k --log-opt max-file=3 --log-opt compress=true --log-opt 'tag={{.Name}}-x' --log-opt labels=a)
    hull run --name t-log "${options[@]}" --label a=b --label c=d "$BUSYBOX" sh -c 'for i in $(seq 400); do echo "line $i"; done' >/dev/null
    expect_eq "$(hull logs --details -n 1 t-log)" 'a=b,tag=t-log-x line 400' details
    expect_eq "$(hull logs -n 1 t-log)" 'line 400' 'without details'
    local path
    path=$(hull inspect -f '{{.LogPath}}' t-log)
    wait_for 5 test -e "$path.1.gz" || fail "no compressed file: $(ls "$(dirname "$path")")"
    # More than the present file has.
    [ "$(hull logs t-log | wc -l)" -gt "$(wc -l <"$path")" ] || fail 'the compressed files are not read'
    expect_eq "$(hull logs t-log | awk '{ if (n && $2 != n + 1) print "gap at " $2; n = $2 }')" '' gaps
    capture hull create --log-opt compress=true "$BUSYBOX"
    expect_err_has 'compress cannot be true'
    capture hull create --log-driver splunk "$BUSYBOX"
    expect_err_has 'log driver splunk'
    expect_status 1
    hull run --name t-none --log-driver none "$BUSYBOX" echo x >/dev/null
    capture hull logs t-none
    expect_err_has 'does not support reading'
}

# A wish that is refused changes nothing.
case_a_refused_stop_leaves_the_restart_policy() {
    local socket=${HULL_HOST#unix://}
    hull run -d --name t-goes-on --restart always "$BUSYBOX" sh -c 'trap "exit 1" TERM; while :; do sleep 0.1; done' >/dev/null
    capture hull stop -s BOGUS t-goes-on
    expect_status 1
    expect_err_has 'BOGUS'
    expect_eq "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$socket" -XPOST 'http://x/containers/t-goes-on/restart?signal=BOGUS')" 400 'a restart'
    hull exec t-goes-on kill 1
    wait_for 40 sh -c '[ "$(hull inspect -f "{{.RestartCount}} {{.State.Status}}" t-goes-on)" = "1 running" ]' || fail "$(hull inspect -f '{{.RestartCount}} {{.State.Status}}' t-goes-on)"
    # Clients of old could not name a signal here.
    expect_eq "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$socket" -XPOST 'http://x/v1.41/containers/t-goes-on/stop?signal=BOGUS&t=0')" 204 'a stop by an old client'
    hull rm -f t-goes-on >/dev/null
}

# Whoever sends a container a signal takes care of it: its policy does not start it again.
case_a_signal_of_a_user_takes_the_restart_policy_away() {
    hull run -d --name t-int --network none --restart always "$BUSYBOX" sh -c 'trap "exit 3" INT; echo up; while :; do sleep 0.2; done' >/dev/null
    wait_for 40 sh -c 'hull logs t-int | grep -q up' || fail 'it does not come up'
    hull kill -s INT t-int >/dev/null
    wait_for 40 sh -c '[ "$(hull inspect -f "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}" t-int)" = "exited 3 0" ]' || fail "$(hull inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}' t-int)"
    hull rm t-int >/dev/null
}

# What was running and may go on does, what a user has stopped does not, whoever ended the engine.
case_restart_policies_hold_over_the_engines_end() {
    local one ended
    hull run -d --name t-always --network none --restart always "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-stopped --network none --restart unless-stopped "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-unless --network none --restart unless-stopped "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-failing --network none --restart on-failure:2 "$BUSYBOX" sh -c 'exit 1' >/dev/null
    hull run -d --name t-once --network none "$BUSYBOX" sleep 600 >/dev/null
    hull stop -t 0 t-stopped >/dev/null
    wait_for 90 sh -c '[ "$(hull inspect -f "{{.State.Status}} {{.RestartCount}}" t-failing)" = "exited 2" ]' ||
        fail "$(hull inspect -f '{{.State.Status}} {{.RestartCount}}' t-failing)"
    # The containers go on without an engine; two of them end meanwhile, with their shims.
    ended=$(hull inspect -f '{{.Id}}' t-always t-once)
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    for one in $ended; do pkill -9 -f "[s]him-hull-v2.*$one"; done
    sleep 1
    hulld_start
    wait_for 60 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-always)" = running ]' || fail 'always: not running'
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-unless)" running unless-stopped
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-stopped)" exited 'stopped by hand'
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-once)" exited 'without a policy'
    expect_eq "$(hull inspect -f '{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}' t-failing)" 'exited 2 1' on-failure
    hull rm -f t-always t-stopped t-unless t-failing t-once >/dev/null
}

# What hull-containers.service does before the machine goes down.
case_all_containers_stop_in_order_before_the_machine_goes_down() {
    hull run -d --restart unless-stopped --name t-up "$BUSYBOX" sh -c 'trap "echo bye >>/w; exit 3" TERM; while :; do sleep 0.2; done' >/dev/null
    hull run -d --name t-once "$BUSYBOX" sh -c 'trap "exit 4" TERM; while :; do sleep 0.2; done' >/dev/null
    # It takes its time: with the VM of the other one it would be killed.
    hull run -d --name t-in --network container:t-once "$BUSYBOX" sh -c 'trap "sleep 3; exit 5" TERM; while :; do sleep 0.2; done' >/dev/null
    hull run -d --restart on-failure --name t-fails "$BUSYBOX" sh -c 'trap "exit 6" TERM; while :; do sleep 0.2; done' >/dev/null
    hull run -d --name t-held --stop-timeout 1 "$BUSYBOX" sleep 600 >/dev/null
    sleep 2
    hull pause t-held >/dev/null
    hull system shutdown
    expect_eq "$(hull inspect -f '{{.State.Status}} {{.State.ExitCode}}' t-up t-once t-in t-fails t-held | tr '\n' ' ')" \
        'exited 3 exited 4 exited 5 exited 6 exited 137 ' 'the ends'
    expect_clean_host
    kill "$(cat "$HARNESS/hulld.pid")"
    while kill -0 "$(cat "$HARNESS/hulld.pid")" 2>/dev/null; do sleep 0.1; done
    hulld_start
    wait_for 30 hull exec t-up cat /w >"$T/w" 2>/dev/null || fail "it is not started again: $(hull ps -a)"
    expect_eq "$(cat "$T/w")" bye 'its signal'
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-once)" exited 'one without a policy'
    wait_for 30 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-fails)" = running ]' || fail 'one that failed stays down'
    hull rm -f t-up t-once t-in t-fails t-held >/dev/null
}
