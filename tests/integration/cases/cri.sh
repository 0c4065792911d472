# Kubernetes' CRI with Hull as the runtime: pods, as a kubelet makes them.
# seconds: 700

. tests/lib/cri.sh

# mounted PATH SOURCE [MORE]: a mount of a container, as JSON; MORE has further fields.
mounted() { printf '{"container_path": "%s", "host_path": "%s"%s}' "$1" "$2" "${3:+, $3}"; }

# with_mounts MOUNT...: a container's configuration.
with_mounts() { (IFS=,; printf '{"mounts": [%s]}' "$*"); }

# secured JSON: a container's configuration with this security context.
secured() { printf '{"linux": {"security_context": %s}}' "$1"; }

log_of() { echo "$C/logs/$1.log"; }
log_has() { grep -qF "$2" "$(log_of "$1")" 2>/dev/null; }
status_field() { cri inspect "$1" | jq -r ".status.$2"; }

remove_pod() {
    cri stopp "$1"
    cri rmp "$1"
}

# Core.
case_a_pod_of_two() {
    local pod web
    cri_start
    mkdir "$T/shared"
    pod=$(cri runp two '{"hostname": "two-host"}')
    web=$(cri run "$pod" web "$(with_mounts "$(mounted /shared "$T/shared")")" -- \
        sh -c 'hostname >/shared/x; exec httpd -f -p 127.0.0.1:8080 -h /shared')
    client=$(cri create "$pod" client "$(with_mounts "$(mounted /shared "$T/shared" '"readonly": true')")" -- \
        sh -c 'hostname; wget -q -O - http://127.0.0.1:8080/x; touch /shared/y; sleep 600')
    expect_eq "$(status_field "$client" state)" CONTAINER_CREATED
    cri start "$client"
    wait_for 20 log_has two/client Read-only || fail "$(cat "$(log_of two/client)")"
    expect_eq "$(grep -c ' stdout F two-host$' "$(log_of two/client)")" 2 'lines of the host name'
    capture cri exec-sync "$client" sh -c 'cat /shared/x; echo err >&2; exit 3'
    expect_status 3
    expect_out $'two-host\n'
    expect_eq "$err" err
    expect_eq "$(cri ps "$pod" | cut -d' ' -f2 | sort | uniq -c | xargs)" '2 CONTAINER_RUNNING'
    expect_eq "$(cri inspectp "$pod" | jq -r .status.state)" SANDBOX_READY
    [ "$CRI_HANDLER" != hull ] || expect_eq "$(pgrep -c -x hull-vmm)" 1 VMs
    cri stop "$client" 1
    expect_eq "$(status_field "$client" 'state + " " + (.status.exit_code | tostring)')" 'CONTAINER_EXITED 137'
    cri rm "$client"
    expect_eq "$(cri ps "$pod" | wc -l)" 1 containers
    cri stopp "$pod"
    expect_eq "$(cri inspectp "$pod" | jq -r .status.state)" SANDBOX_NOTREADY
    expect_eq "$(status_field "$web" state)" CONTAINER_EXITED
    cri rmp "$pod"
    expect_no_pods
}

case_logs_are_lines_with_their_stream_and_are_reopened() {
    local pod id log
    cri_start
    pod=$(cri runp l)
    id=$(cri run "$pod" talk '{"stdin": false}' -- sh -c '
        echo out; echo err >&2
        printf half; sleep 1; echo ; printf "%020000d\n" 7
        while [ ! -e /tmp/next ]; do sleep 0.2; done; echo between
        while [ ! -e /tmp/last ]; do sleep 0.2; done; echo late; printf "no newline"')
    log=$(log_of l/talk)
    wait_for 20 grep -q 0007 "$log" || fail "$(cut -c1-200 "$log")"
    capture cut -d' ' -f2- "$log"
    expect_eq "$(grep -c '^stdout F out$' "$T/out") $(grep -c '^stderr F err$' "$T/out") $(grep -c '^stdout F half$' "$T/out")" '1 1 1' lines
    # A line longer than 16 KiB is in two parts.
    expect_eq "$(awk '/^stdout P 0/ { print length($3) }' "$T/out") $(awk '/^stdout F 0/ { print length($3) }' "$T/out")" '16384 3616' parts
    ! grep -vE '^[0-9-]{10}T[0-9:.]{8,18}(Z|[+-][0-9:]{5}) (stdout|stderr) [FP] ' "$log" || fail 'lines of another form'
    mv "$log" "$log.1"
    cri exec-sync "$id" touch /tmp/next
    wait_for 20 grep -q between "$log.1" || fail 'what came before the file was reopened is not in the old one'
    cri reopen-log "$id"
    cri exec-sync "$id" touch /tmp/last
    cri wait "$id" exited 20
    expect_eq "$(cut -d' ' -f2- "$log")" $'stdout F late\nstdout P no newline' 'the new file'
    capture cri reopen-log "$id"
    expect_status 1
    remove_pod "$pod"
    expect_no_pods
}

case_exec_has_status_streams_terminal_and_timeout() {
    local pod id
    cri_start
    pod=$(cri runp e)
    id=$(cri run "$pod" c -- sleep 600)
    capture cri exec "$id" sh -c 'echo out; echo err >&2; exit 7'
    expect_status 7
    expect_out $'out\n'
    expect_eq "$err" err
    capture cri exec -i "$id" sh -c 'read a; echo "got $a"; read b; echo "and $b"' <<<$'one\ntwo'
    expect_status 0
    expect_out $'got one\nand two\n'
    # Without stdin containerd closes a terminal's output, too.
    capture cri exec -i -t --size 101x31 --resize ready=77x22 "$id" sh -c \
        'test -t 0 && test -t 2 || exit 9; until [ "$(stty size)" = "31 101" ]; do sleep 0.1; done
         trap "stty size; exit 4" WINCH; echo ready; while :; do sleep 0.1; done'
    expect_status 4
    expect_out $'ready\r\n22 77\r\n'
    capture cri exec "$id" sh -c 'head -c 2000000 /dev/zero | tr "\0" x'
    expect_eq "$(wc -c <"$T/out") $status" '2000000 0' 'bytes of output'
    capture cri exec-sync "$id" /no/such/program
    expect_status 1
    expect_err_has /no/such/program
    capture cri exec-sync --timeout 2 "$id" sh -c 'echo begun; exec sleep 555'
    expect_status 1
    expect_err_has DEADLINE_EXCEEDED
    capture cri exec-sync "$id" ps
    [[ $out != *'sleep 555'* ]] || fail "it still runs: $out"
    cri stop "$id"
    capture cri exec-sync "$id" true
    expect_status 1
    expect_err_has 'CONTAINER_EXITED'
    remove_pod "$pod"
    expect_no_pods
}

case_attach() {
    local pod id
    cri_start
    pod=$(cri runp a)
    id=$(cri run "$pod" lines '{"stdin": true}' -- sh -c 'while read line; do echo "got $line"; echo "err $line" >&2; done')
    capture cri attach -i --until 'err one' "$id" <<<one
    expect_out $'got one\n'
    # The first client has gone; the container's stdin stays for the next.
    capture cri attach -i --until 'err two' "$id" <<<two
    expect_out $'got two\n'
    expect_eq "$(cut -d' ' -f2- "$(log_of a/lines)" | sort | xargs)" 'stderr F err one stderr F err two stdout F got one stdout F got two'
    # With stdin_once, the end of the first is the end of the stream.
    once=$(cri run "$pod" once '{"stdin": true, "stdin_once": true}' -- sh -c 'cat; echo end')
    capture cri attach -i --until xyz "$once" <<<xyz
    cri wait "$once" exited 20
    wait_for 10 log_has a/once end || fail "$(cat "$(log_of a/once)")"
    id=$(cri run "$pod" terminal '{"stdin": true, "tty": true}' -- sh -c 'read go; stty size; trap "stty size; exit 4" WINCH; echo ready; while :; do sleep 0.1; done')
    capture cri attach -i -t --resize ready=77x22 "$id" <<<go
    expect_out_has '22 77'
    cri wait "$id" exited 20
    expect_eq "$(status_field "$id" exit_code)" 4
    remove_pod "$pod"
    expect_no_pods
}

case_port_forward() {
    local pod id n
    cri_start
    pod=$(cri runp p)
    id=$(cri run "$pod" web -- sh -c 'mkdir /www; echo page >/www/p; head -c 3000000 /dev/urandom >/www/big; exec httpd -f -p 127.0.0.1:8080 -h /www')
    cri port-forward "$pod" 18080:8080 2>"$T/forward" &
    forward=$!
    wait_for 40 curl -sf -m 20 -o "$T/page" http://127.0.0.1:18080/p || fail "$(cat "$T/forward")"
    expect_eq "$(cat "$T/page")" page
    curl -s -m 60 -o "$T/big" http://127.0.0.1:18080/big
    expect_eq "$(sha256sum <"$T/big")" "$(cri exec "$id" sha256sum /www/big | sed 's,/www/big,-,')" 'the sum of a file'
    for n in 1 2 3 4 5; do curl -s -m 30 --retry 2 http://127.0.0.1:18080/p >"$T/p$n" & done
    wait_for 30 sh -c "[ \$(cat '$T'/p? | grep -c page) = 5 ]" || fail "$(cat "$T/forward")"
    # In Hull it is closed at once, not refused.
    capture cri port-forward "$pod" 9 </dev/null
    [ "$CRI_HANDLER" = hull ] || expect_err_has refused
    expect_out ''
    kill "$forward"
    remove_pod "$pod"
    expect_no_pods
}

case_containers_end_and_begin_anew() {
    local pod first second init n started
    cri_start
    mkdir "$T/steps"
    pod=$(cri runp r)
    # What a kubelet does with init containers: each when the one before has succeeded.
    for n in 1 2; do
        init=$(cri run "$pod" "init$n" "$(with_mounts "$(mounted /steps "$T/steps")")" -- sh -c "echo $n >>/steps/done")
        cri wait "$init" exited 30
        expect_eq "$(cri inspect "$init" | jq -r '.status | "\(.exit_code) \(.reason)"')" '0 Completed'
    done
    expect_eq "$(xargs <"$T/steps/done")" '1 2'
    first=$(cri run "$pod" job -- sh -c 'exit 9')
    cri wait "$first" exited 30
    expect_eq "$(cri inspect "$first" | jq -r '.status | "\(.exit_code) \(.reason)"')" '9 Error'
    second=$(cri run "$pod" job '{"metadata": {"attempt": 1}, "log_path": "job.1.log"}' -- sh -c 'trap "exit 5" TERM; echo up; while :; do sleep 0.1; done')
    expect_eq "$(cri ps "$pod" | awk '$3 == "job" { print $4, $2 }' | sort | xargs)" '0 CONTAINER_EXITED 1 CONTAINER_RUNNING'
    cri rm "$first"
    wait_for 20 log_has r/job.1 up
    # It has a handler, and the time for it.
    started=$SECONDS
    cri stop "$second" 60
    [ $((SECONDS - started)) -lt 30 ] || fail 'the whole time was waited for'
    expect_eq "$(cri inspect "$second" | jq -r '.status | "\(.exit_code) \(.reason)"')" '5 Error'
    deaf=$(cri run "$pod" deaf -- sh -c 'trap "" TERM; echo up; while :; do sleep 0.1; done')
    wait_for 20 log_has r/deaf up
    started=$SECONDS
    cri stop "$deaf" 3
    [ $((SECONDS - started)) -ge 3 ] || fail 'it did not get its time'
    expect_eq "$(status_field "$deaf" exit_code)" 137
    # Stopping and removing what has ended is no error.
    cri stop "$deaf" 3
    cri rm "$deaf"
    capture cri rm "$deaf"
    expect_status 0
    capture cri run "$pod" bad -- /no/such/program
    expect_status 1
    expect_err_has /no/such/program
    # Once more is no error.
    cri stopp "$pod"
    remove_pod "$pod"
    expect_no_pods
}

case_containerd_is_killed_under_a_pod() {
    local pod running created exited ends log
    cri_start
    pod=$(cri runp k)
    running=$(cri run "$pod" running -- sh -c 'while :; do echo tick; sleep 0.5; done')
    created=$(cri create "$pod" created -- sh -c 'echo began; sleep 600')
    exited=$(cri run "$pod" exited -- sh -c 'exit 3')
    cri wait "$exited" exited 20
    ends=$(cri run "$pod" ends -- sh -c 'sleep 5; exit 6')
    containerd_killed
    sleep 8
    log=$(log_of k/running)
    containerd_up
    expect_eq "$(cri inspectp "$pod" | jq -r .status.state)" SANDBOX_READY
    expect_eq "$(cri ps "$pod" | awk '{ print $3, $2 }' | sort | xargs)" \
        'created CONTAINER_CREATED ends CONTAINER_EXITED exited CONTAINER_EXITED running CONTAINER_RUNNING'
    expect_eq "$(status_field "$exited" exit_code) $(status_field "$ends" exit_code)" '3 6'
    : >"$log"
    wait_for 20 log_has k/running tick || fail 'its output is lost'
    capture cri exec-sync "$running" echo alive
    expect_out $'alive\n'
    # One that was made and not started has no streams any more, and starts.
    cri start "$created" || cri rm "$created"
    cri port-forward "$pod" 9 </dev/null >/dev/null 2>"$T/err" || grep -q refused "$T/err" || fail "$(cat "$T/err")"
    remove_pod "$pod"
    expect_no_pods
}

case_a_pods_name_resolvers_sysctls_memory_and_processes_are_shared() {
    local pod one two
    cri_start
    pod=$(cri runp s '{"hostname": "pod-host",
        "dns_config": {"servers": ["10.96.0.10", "9.9.9.9"], "searches": ["ns.svc.cluster.local", "svc.cluster.local"], "options": ["ndots:5"]},
        "linux": {"sysctls": {"net.ipv4.ip_unprivileged_port_start": "81", "net.core.somaxconn": "1234", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "33"},
            "security_context": {"namespace_options": {"pid": "POD"}}}}')
    one=$(cri run "$pod" one '{"linux": {"security_context": {"namespace_options": {"pid": "POD"}}}}' -- sh -c 'echo shared >/dev/shm/x; exec sleep 4321')
    two=$(cri run "$pod" two '{"linux": {"security_context": {"namespace_options": {"pid": "POD"}}}}' -- sleep 1234)
    capture cri exec-sync "$two" sh -c 'hostname; cat /etc/hostname /etc/resolv.conf /dev/shm/x; cd /proc/sys
        cat net/ipv4/ip_unprivileged_port_start net/core/somaxconn kernel/shm_rmid_forced fs/mqueue/msg_max'
    expect_eq "$out" $'pod-host\npod-host\nsearch ns.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver 9.9.9.9\noptions ndots:5\nshared\n81\n1234\n1\n33\n'
    capture cri exec-sync "$two" ps -o pid,args
    expect_out_has 'sleep 4321'
    expect_out_has 'sleep 1234'
    expect_out_has '1 sleep infinity'
    remove_pod "$pod"
    # Without it each container has its own, unless it names whose processes it looks at.
    pod=$(cri runp s2 '{"linux": {"security_context": {"namespace_options": {"pid": "CONTAINER"}}}}')
    one=$(cri run "$pod" one '{"linux": {"security_context": {"namespace_options": {"pid": "CONTAINER"}}}}' -- sleep 4321)
    capture cri exec-sync "$one" ps -o pid,args
    expect_out_has '1 sleep 4321'
    [[ $out != *infinity* ]] || fail "$out"
    two=$(cri run "$pod" debug '{"linux": {"security_context": {"namespace_options": {"pid": "TARGET", "target_id": "'"$one"'"}}}}' -- sleep 1234)
    capture cri exec-sync "$two" ps -o pid,args
    expect_out_has '1 sleep 4321'
    expect_out_has 'sleep 1234'
    remove_pod "$pod"
    expect_no_pods
}

case_ports_of_the_host_and_the_hosts_own_network() {
    local pod id address
    cri_start
    pod=$(cri runp h '{"port_mappings": [{"container_port": 8080, "host_port": 18081}]}')
    id=$(cri run "$pod" web -- sh -c 'mkdir /www; echo page >/www/p; exec httpd -f -p 8080 -h /www')
    address=$(cri inspectp "$pod" | jq -r .status.network.ip)
    wait_for 20 curl -sf -m 5 -o "$T/page" "http://$address:8080/p" || fail "the pod's address"
    ip link add t-out type dummy 2>/dev/null || ip link add t-out type bridge
    ip addr add 10.79.0.1/24 dev t-out
    ip link set t-out up
    expect_eq "$(curl -s -m 20 http://10.79.0.1:18081/p)" page 'by a port of the host'
    remove_pod "$pod"
    capture curl -s -m 5 http://10.79.0.1:18081/p
    [ "$status" != 0 ] || fail 'the port of the host is still there'
    ip link del t-out
    [ "$CRI_HANDLER" = hull ] || return 0
    capture cri runp n '{"linux": {"security_context": {"namespace_options": {"network": "NODE"}}}}'
    expect_status 1
    expect_err_has "the host's network is not supported"
    expect_no_pods
}

case_a_container_is_as_secure_as_its_context_says() {
    local pod id profile
    cri_start
    profile=$T/profile.json
    echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}' >"$profile"
    pod=$(cri runp c)
    id=$(cri run "$pod" user "$(secured '{"run_as_user": {"value": 1000}, "run_as_group": {"value": 1}, "supplemental_groups": [990, 5000], "no_new_privs": true,
        "readonly_rootfs": true, "capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]},
        "seccomp": {"profile_type": "Localhost", "localhost_ref": "'"$profile"'"}, "masked_paths": ["/proc/timer_list", "/proc/keys", "/sys/firmware"], "readonly_paths": ["/proc/sys"]}')" -- sleep 600)
    capture cri exec-sync "$id" sh -c 'id -u; id -g; id -G; grep -E "^(NoNewPrivs|Seccomp|CapEff|CapBnd):" /proc/self/status | tr "\n" " "; echo
        touch /x; mkdir /dev/shm/d; wc -c </proc/keys; echo 1 >/proc/sys/net/ipv4/ip_forward'
    expect_out_has $'1000\n1\n1 990 5000\n'
    expect_out_has $'NoNewPrivs:\t1'
    expect_out_has $'Seccomp:\t2'
    expect_err_has '/x: Read-only file system'
    expect_err_has "'/dev/shm/d': Operation not permitted"
    bounding=$(grep -o 'CapBnd:[^ ]*' <<<"$out" | tr -d '\t' | cut -d: -f2)
    [ $((0x$bounding & 1)) = 0 ] || fail "CHOWN is there: $bounding"
    [ $((0x$bounding >> 12 & 1)) = 1 ] || fail "NET_ADMIN is not there: $bounding"
    id=$(cri run "$pod" named "$(secured '{"run_as_username": "app"}')" -- sleep 600)
    capture cri exec-sync "$id" id
    expect_out_has 'uid=1000(app) gid=1000(app) groups='
    id=$(cri run "$pod" plain "$(secured '{"masked_paths": ["/proc/keys"], "readonly_paths": ["/proc/sys"]}')" -- sleep 600)
    capture cri exec-sync "$id" sh -c 'wc -c </proc/keys; touch /x && echo made; echo 1 >/proc/sys/net/ipv4/ip_forward; ip link add d0 type dummy'
    expect_out $'0\nmade\n'
    expect_err_has 'Read-only file system'
    expect_err_has 'not permitted'
    remove_pod "$pod"
    pod=$(cri runp cp '{"linux": {"security_context": {"privileged": true}}}')
    id=$(cri run "$pod" privileged "$(secured '{"privileged": true}')" -- sleep 600)
    capture cri exec-sync "$id" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward; ip link set lo down && echo down; mount -t tmpfs x /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs x /mnt && echo mounted; ls -d /sys/fs/cgroup/x 2>/dev/null; mkdir /sys/fs/cgroup/x && echo group'
    expect_out $'1\ndown\nmounted\ngroup\n'
    remove_pod "$pod"
    expect_no_pods
}

case_limits_are_kept_changed_and_told() {
    local pod id
    cri_start
    # A kubelet makes the group of a pod, and takes it away.
    mkdir -p /sys/fs/cgroup/t-pod
    pod=$(cri runp m '{"linux": {"cgroup_parent": "/t-pod"}}')
    id=$(cri run "$pod" limited '{"linux": {"resources": {"memory_limit_in_bytes": 67108864, "cpu_quota": 50000, "cpu_period": 100000, "cpu_shares": 512, "oom_score_adj": 300}}}' -- sleep 600)
    # The host's OOM killer judges a pod by its containers, not by the protected first of it.
    [ "$CRI_HANDLER" != hull ] || expect_eq "$(for process in $(pgrep -x 'hull-vmm|virtiofsd'); do cat "/proc/$process/oom_score_adj"; done | sort -u)" 300 oom_score_adj
    # A weight from shares is counted otherwise by old versions of runc.
    group='cd /sys/fs/cgroup; cat memory.max cpu.max; [ $(cat cpu.weight) = 59 ] || [ $(cat cpu.weight) = 20 ] && echo half'

    capture cri exec-sync "$id" sh -c "$group"
    expect_out $'67108864\n50000 100000\nhalf\n'
    cri update "$id" '{"memory_limit_in_bytes": 100663296, "cpu_quota": 20000, "cpu_period": 100000, "cpu_shares": 1024}'
    capture cri exec-sync "$id" sh -c "$group"
    expect_out $'100663296\n20000 100000\n'
    # A VM keeps its size.
    if [ "$CRI_HANDLER" = hull ]; then
        capture cri update "$id" '{"memory_limit_in_bytes": 9663676416}'
        expect_status 1
        expect_err_has 'is more than the 536870912 bytes'
        capture cri exec-sync "$id" cat /sys/fs/cgroup/memory.max
        expect_out $'100663296\n'
    fi
    cri exec-sync "$id" sh -c 'head -c 20000000 /dev/zero >/dev/shm/x; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'
    cri stats "$id" >"$T/stats"
    jq -e '(.cpu.usage_core_nano_seconds.value | tonumber) > 1000000 and (.memory.working_set_bytes.value | tonumber) > 15000000' "$T/stats" >/dev/null || fail "$(cat "$T/stats")"
    cri statsp "$pod" >"$T/stats"
    jq -e '.linux | .network.default_interface.name == "eth0" and (.containers | length) == 1' "$T/stats" >/dev/null || fail "the pod's: $(cat "$T/stats")"
    # containerd reads these of the pod's cgroup on the host, in which no VM is (docs/engines.md).
    [ "$CRI_HANDLER" = hull ] || jq -e '.linux | (.cpu.usage_core_nano_seconds.value | tonumber) > 1000000 and (.memory.working_set_bytes.value | tonumber) > 1000000
        and (.process.process_count.value | tonumber) > 0' "$T/stats" >/dev/null || fail "the pod's: $(cat "$T/stats")"
    oom=$(cri run "$pod" hungry '{"linux": {"resources": {"memory_limit_in_bytes": 33554432}}}' -- sh -c 'x=x; while :; do x=$x$x; done')
    cri wait "$oom" exited 60
    expect_eq "$(cri inspect "$oom" | jq -r '.status | "\(.exit_code) \(.reason)"')" '137 OOMKilled'
    expect_eq "$(status_field "$id" state)" CONTAINER_RUNNING
    remove_pod "$pod"
    expect_no_pods
    find /sys/fs/cgroup/t-pod -depth -type d -exec rmdir {} +
}

# As kubelet writes them: a link to a folder with the time, swapped when a ConfigMap changes.
project() {
    mkdir "$1/..$2"
    echo "$2" >"$1/..$2/key"
    ln -s "..$2" "$1/..data_tmp"
    mv -T "$1/..data_tmp" "$1/..data"
    ln -sfn ..data/key "$1/key"
}

case_volumes_of_every_kind() {
    local pod id device
    cri_start
    mkdir "$T/projected" "$T/host" "$T/memory" "$T/plain" "$T/sub"
    project "$T/projected" first
    echo file >"$T/sub/file"
    : >"$T/termination"
    mount -t tmpfs -o size=1m memory "$T/memory"
    mount --bind "$T/host" "$T/host"
    mount --make-shared "$T/host"
    truncate -s 8M "$T/disk"
    pod=$(cri runp v)
    id=$(cri run "$pod" c "$(with_mounts "$(mounted /projected "$T/projected" '"readonly": true')" \
        "$(mounted /etc/one "$T/sub/file")" "$(mounted /ro "$T/plain" '"readonly": true')" "$(mounted /memory "$T/memory")" \
        "$(mounted /host "$T/host" '"propagation": "PROPAGATION_HOST_TO_CONTAINER"')" \
        "$(mounted /dev/termination-log "$T/termination")")" -- sleep 600)
    capture cri exec-sync "$id" sh -c 'cat /projected/key /etc/one; readlink /projected/..data; echo done >/dev/termination-log
        echo m >/memory/m; df -m /memory | tail -n 1 | tr -s " " | cut -d" " -f2; echo changed >/etc/one; touch /ro/x; touch /projected/x'
    expect_out $'first\nfile\n..first\n1\n'
    expect_err_has '/ro/x: Read-only'
    expect_err_has '/projected/x: Read-only'
    expect_eq "$(cat "$T/termination" "$T/memory/m" "$T/sub/file" | xargs)" 'done m changed'
    project "$T/projected" second
    rm -r "$T/projected/..first"
    wait_for 20 sh -c "[ \"\$(${CRI_PROGRAM[*]} exec-sync $id cat /projected/key)\" = second ]" || fail 'the swap is not seen'
    # What the host mounts later.
    mkdir "$T/host/later"
    mount -t tmpfs later "$T/host/later"
    echo later >"$T/host/later/x"
    wait_for 20 sh -c "[ \"\$(${CRI_PROGRAM[*]} exec-sync $id cat /host/later/x 2>&1)\" = later ]" || fail "$(cri exec-sync "$id" ls -la /host/later)"
    # virtiofsd has files of it open as long as the guest remembers them.
    umount -l "$T/host/later"
    wait_for 20 sh -c "[ -z \"\$(${CRI_PROGRAM[*]} exec-sync $id ls /host/later)\" ]" || fail 'what the host has unmounted is still there'
    device=$(losetup -f --show "$T/disk")
    disk=$(cri run "$pod" disk '{"devices": [{"container_path": "/dev/xvda", "host_path": "'"$device"'", "permissions": "rwm"}]}' -- \
        sh -c 'test -b /dev/xvda && echo block | dd of=/dev/xvda bs=512 conv=sync,fsync && blockdev --getsize64 /dev/xvda; sleep 600')
    wait_for 30 log_has v/disk 8388608 || fail "$(cat "$(log_of v/disk)")"
    cri stop "$disk"
    cri rm "$disk"
    expect_eq "$(head -c 5 "$T/disk")" block
    remove_pod "$pod"
    losetup -d "$device"
    umount "$T/memory" "$T/host"
    expect_no_pods
}

# shown_as CONTAINER DIRECTORY: how virtiofsd has the places with this container's name that show it.
shown_as() {
    local pid
    for pid in $(pgrep -x virtiofsd); do
        awk -v name="/$1-" -v source="$2" 'index($5, name) == 1 && $4 ~ source "$" { print substr($6, 1, 2) }' "/proc/$pid/mountinfo"
    done | sort -u | xargs
}

case_a_directory_of_two_containers_is_one() {
    local pod reader writer later
    [ "$CRI_HANDLER" = hull ] || skip 'asks for places of virtiofsd'
    cri_start
    mkdir "$T/d"
    pod=$(cri runp one)
    reader=$(cri run "$pod" reader "$(with_mounts "$(mounted /r "$T/d" '"readonly": true')")" -- httpd -f -p 127.0.0.1:8080 -h /r)
    expect_eq "$(shown_as "$reader" "$T/d")" ro 'for reading alone'
    writer=$(cri run "$pod" writer "$(with_mounts "$(mounted /w "$T/d")" "$(mounted /again "$T/d")")" -- sleep 600)
    expect_eq "$(shown_as "$reader" "$T/d")" rw 'for both'
    expect_eq "$(shown_as "$writer" "$T/d")" '' 'places of the second'
    capture cri exec-sync "$writer" sh -c '
        # What the reader answers is what it sees at that moment.
        ask() { wget -q -O - "http://127.0.0.1:8080/$1"; }
        echo begin >/w/f; ask f >/dev/null
        for i in 1 2 3 4 5 6 7 8; do
            echo "line $i" >/w/f; [ "$(ask f)" = "line $i" ] || echo "written $i: late"
            echo "more" >>/w/f; [ "$(ask f | tail -n 1)" = more ] || echo "appended $i: late"
            echo "new $i" >/w/g; mv /w/g /w/f; [ "$(ask f)" = "new $i" ] || echo "renamed $i: late"
            : >/w/new-$i; ask new-$i || echo "made $i: late"
            rm /w/new-$i; ask new-$i 2>/dev/null && echo "removed $i: late"
            [ "$(cat /again/f)" = "new $i" ] || echo "own $i: late"
        done
        echo end'
    expect_status 0
    expect_out $'end\n'
    capture cri exec-sync "$reader" touch /r/x
    expect_err_has Read-only
    # The place stays for who came later, by the name of who is gone.
    cri stop "$reader" 0
    cri rm "$reader"
    capture cri exec-sync "$writer" sh -c 'echo still >/w/f; cat /again/f'
    expect_out $'still\n'
    expect_eq "$(shown_as "$reader" "$T/d")" rw 'the place of the first'
    later=$(cri run "$pod" later "$(with_mounts "$(mounted /r "$T/d" '"readonly": true')")" -- sleep 600)
    cri stop "$writer" 0
    cri rm "$writer"
    wait_for 20 test "$(shown_as "$reader" "$T/d")" = ro || fail "$(shown_as "$reader" "$T/d")"
    capture cri exec-sync "$later" cat /r/f
    expect_out $'still\n'
    cri stop "$later" 0
    cri rm "$later"
    expect_eq "$(shown_as "$reader" "$T/d")$(shown_as "$later" "$T/d")" '' 'places left'
    # One that writes makes it anew.
    writer=$(cri run "$pod" writer2 "$(with_mounts "$(mounted /w "$T/d")")" -- sh -c 'echo 2 >/w/f; sleep 600')
    expect_eq "$(shown_as "$writer" "$T/d")" rw
    remove_pod "$pod"
    expect_no_pods
}

case_a_killed_vmm_ends_the_pod() {
    local pod one made
    cri_start
    pod=$(cri runp d)
    one=$(cri run "$pod" one -- sleep 600)
    made=$(cri create "$pod" made -- sleep 600)
    pkill -9 -x hull-vmm
    cri wait "$pod" notready 30
    cri wait "$one" exited 30
    expect_eq "$(status_field "$one" exit_code)" 137
    capture cri exec-sync "$one" true
    expect_status 1
    capture cri start "$made"
    expect_status 1
    capture cri create "$pod" late -- true
    expect_status 1
    cri rm "$one"
    remove_pod "$pod"
    expect_no_pods
}

case_a_killed_shim_ends_the_pod() {
    local pod one made
    cri_start
    pod=$(cri runp f)
    one=$(cri run "$pod" one -- sleep 600)
    made=$(cri create "$pod" made -- sleep 600)
    pkill -9 -f "[s]him-hull-v2.*-id $pod"
    cri wait "$pod" notready 30
    cri wait "$one" exited 30
    capture cri start "$made"
    expect_status 1
    remove_pod "$pod"
    expect_no_pods
}

case_ten_pods_at_once() {
    local n
    cri_start
    for n in 1 2 3 4 5 6 7 8 9 10; do
        cri runp "ten$n" >"$T/pod$n" 2>"$T/err$n" &
    done
    wait_for 400 sh -c "[ \$(cat '$T'/pod* | wc -l) = 10 ]" || fail "$(cat "$T"/err*)"
    expect_eq "$(cri pods | grep -c READY)" 10 pods
    expect_eq "$(for n in $(cat "$T"/pod*); do cri inspectp "$n" | jq -r .status.network.ip; done | sort -u | wc -l)" 10 addresses
    for n in $(cat "$T"/pod*); do (remove_pod "$n") & done
    wait_for 200 sh -c "[ -z \"\$(${CRI_PROGRAM[*]} pods)\" ]" || fail "$(cri pods)"
    expect_no_pods
}
