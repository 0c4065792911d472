# hull-runtime: runc's command line.

. tests/lib/bundles.sh

# Core.
case_runtime_run_has_the_callers_streams_and_the_process_status() {
    make_bundle b '.process.args = ["sh", "-c", "echo out; echo err >&2; cat; exit 5"]'
    echo start >"$T/appended"
    status=0
    echo in | runtime run -b "$T/b" t1 >>"$T/appended" 2>"$T/err" || status=$?
    expect_eq "$status" 5 status
    expect_eq "$(cat "$T/appended")" "$(printf 'start\nout\nin')" stdout
    expect_eq "$(cat "$T/err")" err stderr
    expect_nothing_left
}

# Core.
case_runtime_a_container_goes_through_runcs_states() {
    make_bundle b '.process.args = ["sh", "-c", "umask; sleep 1000"] | .process.user.umask = 23 | .linux.cgroupsPath = "/hull-test/t2"'
    runtime create -b "$T/b" --pid-file "$T/pid" t2 </dev/null >"$T/log" 2>&1
    expect_eq "$(status_of t2)" created status
    local pid
    pid=$(cat "$T/pid")
    expect_eq "$(runtime state t2 | jq .pid)" "$pid" pid
    expect_eq "$(cat "/proc/$pid/cgroup")" 0::/hull-test/t2 cgroup
    [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] || fail "the host's network"
    expect_eq "$(ls -A "/proc/$pid/root")" "" "the holder's root"
    expect_eq "$(runtime exec t2 echo early)" early "an exec before the start"
    capture runtime create -b "$T/b" t2
    expect_status 1
    expect_err_has "container with given ID already exists"

    runtime start t2
    expect_eq "$(status_of t2)" running status
    capture runtime start t2
    expect_err_has "cannot start an already running container"
    capture runtime delete t2
    expect_err_has "cannot delete container t2 that is not stopped: running"
    wait_for 5 grep -q 0027 "$T/log" || fail "umask: $(cat "$T/log")"
    expect_eq "$(runtime exec -u 1000:1000 -e X=1 --cwd /tmp t2 sh -c 'id -u; echo $X; pwd; umask' | tr '\n' ' ')" "1000 1 /tmp 0027 " "an exec"
    capture runtime exec t2 sh -c 'exit 7'
    expect_status 7
    capture runtime exec t2 no-such-program
    expect_status 255
    expect_err_has 'exec: \"no-such-program\": executable file not found in $PATH'
    expect_eq "$(runtime ps -f json t2 | jq length)" 1 processes
    expect_eq "$(runtime events --stats t2 | jq -r '.type, .id' | tr '\n' ' ')" "stats t2 " events
    runtime update --pids-limit 20 t2
    expect_eq "$(runtime events --stats t2 | jq .data.pids.limit)" 20 "pids limit"
    # What divides the host is the host's cgroup's to keep, or to refuse.
    local wish
    for wish in '--cpuset-cpus x' '--cpuset-cpus 9999' '--cpuset-mems 9999' '--blkio-weight 5'; do
        capture runtime update $wish t2
        expect_status 1
        expect_err_has "${wish##* }"
    done
    runtime update --cpuset-cpus 0 --cpu-idle 1 t2
    expect_eq "$(cat /sys/fs/cgroup/hull-test/t2/cpuset.cpus /sys/fs/cgroup/hull-test/t2/cpu.idle | tr '\n' ' ')" '0 1 ' "the host's cgroup"
    runtime update --cpu-idle 0 --cpu-share 512 t2
    expect_eq "$(cat /sys/fs/cgroup/hull-test/t2/cpu.weight)" 59 'a weight after being idle'

    runtime pause t2
    expect_eq "$(status_of t2)" paused status
    capture runtime exec t2 true
    expect_status 255
    expect_err_has paused
    runtime exec --ignore-paused t2 echo late >"$T/late" &
    sleep 1
    expect_eq "$(cat "$T/late")" "" "output while paused"
    runtime resume t2
    wait $!
    expect_eq "$(cat "$T/late")" late "output after the pause"

    runtime kill t2 KILL
    wait_for 5 test ! -e "/proc/$pid" || fail "the holder lives on"
    expect_eq "$(status_of t2)" stopped status
    capture runtime kill t2 TERM
    expect_status 1
    expect_err_has "container not running"
    capture runtime exec t2 true
    expect_err_has stopped
    runtime delete t2
    [ ! -e /sys/fs/cgroup/hull-test/t2 ] || fail "the cgroup is left"
    capture runtime state t2
    expect_err_has "container does not exist"
    expect_nothing_left
}

# Core.
case_runtime_a_console_socket_gets_the_terminal() {
    make_bundle b '.process.args = ["sh"] | .process.terminal = true | .process.env = ["PATH=/bin", "PS1=> "]'
    capture runtime create -b "$T/b" t3
    expect_err_has "without setting console socket"
    python3 tests/lib/console.py "$T/console" "run:hull-runtime --root $RUNTIME_ROOT start t3|expect:> |size:100x40|write:stty size\\n|expect:40 100|size:77x33|write:stty size\\n|expect:33 77|write:echo go; cat\\n|expect:\\ngo|sleep:1|write:\\x03|expect:> |write:echo [\$?]\\n|expect:[130]|write:exit 3\\n|end" \
        hull-runtime --root "$RUNTIME_ROOT" create -b "$T/b" --console-socket "$T/console" t3
    wait_for 5 is_stopped t3 || fail "status $(status_of t3)"
    runtime delete t3
    jq '.process.terminal = false' "$T/b/config.json" >"$T/new" && mv "$T/new" "$T/b/config.json"
    capture runtime create -b "$T/b" --console-socket "$T/console" t3
    expect_err_has "cannot use console socket"
    expect_nothing_left
}

case_runtime_hooks_get_the_pid_and_a_failing_one_ends_the_create() {
    printf '#!/bin/sh\nstate=$(cat)\necho "$1 $(echo "$state" | jq -r .status) $(pwd)" >>%s\necho "$state" | jq -r "select(.pid != null) | .pid" >%s\n' "$T/hooks" "$T/hook-pid" >"$T/hook"
    chmod +x "$T/hook"
    hook() { printf '%s: [{path: "%s", args: ["hook", "%s"], env: ["PATH=/usr/bin:/bin"]}]' "$1" "$T/hook" "$1"; }
    make_bundle b ".process.args = [\"true\"] | .hooks = {$(hook prestart), $(hook createRuntime), $(hook poststart)}"
    runtime create -b "$T/b" --pid-file "$T/pid" t4 </dev/null
    expect_eq "$(cat "$T/hook-pid")" "$(cat "$T/pid")" "pid"
    runtime start t4
    runtime delete --force t4
    expect_eq "$(cat "$T/hooks")" "$(printf 'prestart creating %s\ncreateRuntime creating %s\npoststart running %s' "$T/b" "$T/b" "$T/b")" "hooks"
    make_bundle bad ".process.args = [\"true\"] | .hooks = {createRuntime: [{path: \"/bin/sh\", args: [\"sh\", \"-c\", \"echo no >&2; exit 3\"]}], $(hook poststop)}"
    capture runtime create -b "$T/bad" t4
    expect_status 1
    expect_err_has "error running createRuntime hook #0: exit status 3, stdout: , stderr: no"
    expect_eq "$(tail -n 1 "$T/hooks")" "poststop stopped $T/bad" "poststop"
    expect_nothing_left
}

case_runtime_kill_9_of_holder_and_shim_leaves_nothing() {
    make_bundle b '.process.args = ["sleep", "1000"]'
    runtime run -d -b "$T/b" --pid-file "$T/pid" t5 </dev/null >/dev/null 2>&1
    kill -9 "$(cat "$T/pid")"
    wait_for 5 is_stopped t5 || fail "status $(status_of t5)"
    runtime delete t5
    runtime run -d -b "$T/b" --pid-file "$T/pid" t5 </dev/null >/dev/null 2>&1
    kill -9 "$(pgrep -f 'shim-hull-v2.*-id t5')"
    wait_for 5 test ! -e "/proc/$(cat "$T/pid")" || fail "the holder lives on"
    expect_eq "$(status_of t5)" stopped status
    runtime delete t5
    expect_nothing_left
}

case_runtime_run_passes_signals_on_but_not_a_change_of_size() {
    make_bundle b '.process.args = ["sh", "-c", "trap \"echo usr1\" USR1; echo ready; sleep 2 & wait $!; wait $!; exit 5"]'
    hull-runtime --root "$RUNTIME_ROOT" run -b "$T/b" t6 >"$T/out" &
    local pid=$!
    wait_for 20 grep -q ready "$T/out" || fail "not ready"
    kill -WINCH $pid
    kill -USR1 $pid
    status=0
    wait $pid || status=$?
    expect_eq "$status" 5 status
    expect_eq "$(cat "$T/out")" "$(printf 'ready\nusr1')" output
    expect_nothing_left
}

# One that comes while the VM boots, too. (What is no PID 1 dies of it.)
case_runtime_signals_that_come_early_are_passed_on() {
    make_bundle b '.process.args = ["sleep", "60"] | .linux.namespaces |= map(select(.type != "pid"))'
    hull-runtime --root "$RUNTIME_ROOT" run -b "$T/b" t6 </dev/null &
    local pid=$!
    sleep 1.5
    kill -TERM $pid
    status=0
    wait $pid || status=$?
    expect_eq "$status" 143 status
    expect_nothing_left
    hull-runtime --root "$RUNTIME_ROOT" run -d -b "$T/b" t6 </dev/null >/dev/null 2>&1
    hull-runtime --root "$RUNTIME_ROOT" exec t6 sleep 50 </dev/null &
    pid=$!
    sleep 0.3
    kill -USR1 $pid
    status=0
    wait $pid || status=$?
    expect_eq "$status" 138 'status of an exec'
    expect_eq "$(runtime ps t6 | grep -c 'sleep 50')" 0 'processes of it'
    runtime delete --force t6
    expect_nothing_left
}

case_runtime_a_cgroup_that_is_not_free_is_left_alone() {
    make_bundle b '.process.args = ["true"] | .linux.cgroupsPath = "/hull-test/busy/inner"'
    local group=/sys/fs/cgroup/hull-test/busy sleeper
    mkdir -p $group/inner/below
    sleep 600 &
    sleeper=$!
    echo $sleeper >$group/inner/below/cgroup.procs
    for action in create run; do
        capture runtime $action -b "$T/b" g1
        expect_status 1
        expect_err_has "container's cgroup is not empty: 1 process(es) found in"
    done
    expect_eq "$(cat "/proc/$sleeper/cgroup")" 0::/hull-test/busy/inner/below 'its cgroup'
    kill $sleeper
    wait $sleeper || true
    rmdir $group/inner/below
    echo 1 >$group/cgroup.freeze
    capture runtime create -b "$T/b" g1
    expect_status 1
    expect_err_has "container's cgroup unexpectedly frozen"
    expect_eq "$(cat $group/cgroup.freeze)" 1 'the freezer'
    echo 0 >$group/cgroup.freeze
    runtime run -b "$T/b" g1 </dev/null
    rmdir $group
    expect_nothing_left
}

# Core.
case_runtime_bad_input_is_refused_in_runcs_words() {
    local cases line filter text
    capture runtime state none
    expect_status 1
    expect_err_has "container does not exist"
    capture runtime kill none FOO
    expect_err_has "container does not exist"
    runtime delete --force none
    capture runtime --log "$T/log" --log-format json state none
    expect_eq "$err" "container does not exist" "stderr"
    expect_eq "$(jq -r '.level, .msg' "$T/log" | tr '\n' ' ')" "error container does not exist " log
    make_bundle b '.process.args = ["true"]'
    for id in a/b .. "$(printf 'x%.0s' {1..1025})"; do
        capture runtime run -b "$T/b" "$id"
        expect_status 1
        expect_err_has "invalid container ID format"
    done
    cp "$T/b/config.json" "$T/good.json"
    while read -r filter text; do
        jq "$filter" "$T/good.json" >"$T/b/config.json"
        capture runtime run -b "$T/b" t7
        expect_status 1
        expect_err_has "$text"
    done <<'CASES'
.ociVersion="9.9.9" unsupported ociVersion
.process=null process property must not be empty
.process.args=[] args must not be empty
.process.args="x" invalid type
.process.cwd="relative" Cwd must be an absolute path
.root=null root must be specified
.root.path="/nonexistent" invalid rootfs
.linux.namespaces+=[.linux.namespaces[0]] duplicated ns
.linux.namespaces+=[{"type":"time","path":"relative"}] is not absolute
.linux.resources.memory.limit=-5 memory.limit is -5
.linux.resources.memory={"limit":67108864,"swap":1048576} memory+swap limit
.linux.resources.cpu.cpus="a-b" no list such as
.linux.intelRdt={"closID":"x"} no Intel RDT
.process.rlimits=[{"type":"RLIMIT_NOFILE","hard":1,"soft":2}] soft limit 2 is above
CASES
    mkfifo "$T/fifo"
    jq --arg fifo "$T/fifo" '.mounts += [{"destination": "/s", "source": $fifo, "options": ["bind"]}]' "$T/good.json" >"$T/b/config.json"
    capture runtime run -b "$T/b" t7
    expect_status 1
    expect_err_has "is a FIFO of the host"
    echo '{' >"$T/b/config.json"
    capture runtime run -b "$T/b" t7
    expect_status 1
    rm "$T/b/config.json"
    capture runtime run -b "$T/b" t7
    expect_err_has "JSON specification file config.json not found"
    expect_nothing_left
}

# The kernel of the guest must not lose a request that is under way when a container's mounts go.
case_runtime_a_process_that_ends_while_it_reads_ends_with_its_status() {
    make_bundle b '.process.args = ["sh", "-c", "for i in 1 2 3 4; do head -c 4096 /data/$i >/dev/null; done; exit 3"]'
    rm -f "$T/b"/rootfs*
    cp -a "$T/root" "$T/b/rootfs"
    mkdir "$T/b/rootfs/data"
    for i in 1 2 3 4; do head -c 4M /dev/urandom >"$T/b/rootfs/data/$i"; done
    for i in 1 2 3 4; do
        capture runtime run -b "$T/b" "t8-$i"
        expect_status 3
    done
    expect_nothing_left
}

# Core.
case_runtime_mounts_hooks_and_environment_are_as_with_runc() {
    make_bundle b '.process.args = ["sh", "-c", "echo $HOME; stat -c %a /own /new /tmp; set -- $(stat -c %d /m1 /m2); [ $1 = $2 ] && echo one; touch /m2/x || cat /hooked; grep -c CapBnd:.0000000000000020 /proc/self/status"]
        | .process.env = ["PATH=/bin"]
        | .process.capabilities = {bounding: ["CAP_KILL", "CAP_UNKNOWN"], ambient: ["CAP_CHOWN"]}
        | .mounts += [{destination: "/own", type: "tmpfs", source: "tmpfs"}, {destination: "/new", type: "tmpfs", source: "tmpfs"}, {destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["mode=0700"]}]
        | .linux.maskedPaths = ["/m1", "/m2"]
        | .hooks.startContainer = [{path: "/bin/sh", args: ["sh", "-c", "echo $PATH$HOME >/hooked"]}]'
    rm -f "$T/b"/rootfs*
    cp -a "$T/root" "$T/b/rootfs"
    mkdir "$T/b/rootfs"/{own,m1,m2}
    chmod 0710 "$T/b/rootfs/own"
    capture runtime run -b "$T/b" t9
    expect_status 0
    expect_out $'/root\n710\n1777\n700\none\n/bin/root\n1\n'
    expect_err_has 'ignoring unknown or unavailable capabilities: [CAP_UNKNOWN]'
    expect_err_has "can't raise ambient capability CAP_CHOWN"
    rm -r "$T/b/rootfs/proc"
    ln -s /tmp "$T/b/rootfs/proc"
    capture runtime run -b "$T/b" t9
    expect_status 1
    expect_err_has 'filesystem \"proc\" must be mounted on ordinary directory'
    # What is masked is covered by nobody, by whatever name.
    rm "$T/b/rootfs/proc"
    mkdir "$T/b/rootfs/proc"
    ln -s /proc "$T/b/rootfs/other"
    cp "$T/b/config.json" "$T/good.json"
    jq '.mounts += [{destination: "/other/sys", type: "tmpfs", source: "tmpfs"}]' "$T/good.json" >"$T/b/config.json"
    capture runtime run -b "$T/b" t9
    expect_status 1
    expect_err_has 'failed to mount /other/sys: \"/proc/sys\" cannot be mounted because it is inside /proc'
    # The host's is the guest's.
    jq '.mounts |= map(if .destination == "/proc" then {destination: "/proc", type: "bind", source: "/proc", options: ["rbind"]} else . end)
        | .process.args = ["sh", "-c", "cat /proc/1/comm; readlink /proc/self"] | del(.hooks)' "$T/good.json" >"$T/b/config.json"
    capture runtime run -b "$T/b" t9
    expect_status 0
    expect_eq "$(head -n 1 <<<"$out")" sh 'PID 1 of the bound /proc'
    expect_nothing_left
}

case_runtime_a_program_without_its_interpreter_says_so_itself() {
    make_bundle b '.process.args = ["/script"]'
    rm -f "$T/b"/rootfs*
    cp -a "$T/root" "$T/b/rootfs"
    printf '#!/no/such/interpreter\n' >"$T/b/rootfs/script"
    chmod +x "$T/b/rootfs/script"
    capture runtime run -b "$T/b" t10
    expect_status 127
    expect_eq "$err" 'exec /script: no such file or directory (its interpreter /no/such/interpreter is missing)' stderr
    # The agent is no program of a container: neither by its own link, nor where the kernel follows that.
    printf '#!/proc/self/exe\n' >"$T/b/rootfs/script"
    capture runtime run -b "$T/b" t10
    expect_status 2
    expect_err_has 'no program of a container'
    jq '.process.args = ["/proc/self/exe"]' "$T/b/config.json" >"$T/new" && mv "$T/new" "$T/b/config.json"
    capture runtime run -b "$T/b" t10
    expect_status 1
    expect_err_has 'the program that starts containers'
    expect_nothing_left
}

case_runtime_a_pidfd_socket_gets_the_process() {
    cat >"$T/pidfd.py" <<'X'
import array, signal, socket, subprocess, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1)
subprocess.run(sys.argv[2:], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
connection, _ = listener.accept()
_, ancillary, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
signal.pidfd_send_signal(array.array("i", ancillary[0][2])[0], signal.SIGKILL)
X
    make_bundle b '.process.args = ["sleep", "1000"]'
    capture runtime create -b "$T/b" --pidfd-socket "$T/none" t11
    expect_err_has "connect: no such file or directory"
    python3 "$T/pidfd.py" "$T/sock" hull-runtime --root "$RUNTIME_ROOT" run -d -b "$T/b" --pidfd-socket "$T/sock" t11 2>/dev/null
    wait_for 5 is_stopped t11 || fail "status $(status_of t11)"
    runtime delete t11
    expect_nothing_left
}

# What is wrong in a configuration is told by its field, leaves nothing, and the id is free at once.
case_runtime_a_configuration_that_is_wrong_is_told_by_its_field() {
    make_bundle b '.process.args = ["true"]'
    cp "$T/b/config.json" "$T/good.json"
    local change field
    while IFS='|' read -r change field; do
        jq "$change" "$T/good.json" >"$T/b/config.json"
        capture runtime create -b "$T/b" w
        [ "$status" = 1 ] || fail "status $status for $change"
        expect_err_has "$field"
        expect_eq "$(ls -A "$RUNTIME_ROOT")" "" "state directories after $change"
    done <<'X'
.ociVersion = 3|ociVersion: invalid type
.ociVersion = "7.0.0"|unsupported ociVersion
.ociVersion = "1.x.0"|unsupported ociVersion
del(.root)|root must be specified
.root.path = "missing"|invalid rootfs
.process.args = [1]|process.args[0]: invalid type
.process.args = ["a\u0000b"]|process.args[0] contains a NUL byte
.process.user.uid = -1|process.user.uid: invalid value
.process.user.additionalGids = [range(70000)]|process.user.additionalGids
.process.rlimits = [{"type": "RLIMIT_FOO", "hard": 1, "soft": 1}]|process.rlimits[0].type: unknown variant
.process.oomScoreAdj = 5000|process.oomScoreAdj is 5000
.process.scheduler = {"policy": "SCHED_OTHER", "nice": 100}|process.scheduler.nice is 100
.mounts += [{"type": "tmpfs"}]|missing field `destination`
.mounts += [{"destination": "/a", "type": "foofs", "source": "x"}]|failed to mount /a
.hostname = "x\u0000"|hostname contains a NUL byte
.linux.seccomp = {"defaultAction": "SCMP_ACT_FOO"}|linux.seccomp.defaultAction: unknown variant
.linux.sysctl = {"net.no_such": "1"}|net.no_such
.linux.sysctl = {"../../etc/x": "1"}|../../etc/x
.linux.resources.memory.limit = "512m"|linux.resources.memory.limit: invalid type
.linux.resources.memory.limit = -5|memory.limit is -5
.linux.cgroupsPath = "../../x"|cgroupsPath
.linux.netDevices = {"eth7": {}}|linux.netDevices: the host's interface
X
    local id
    for id in a/b .. "$(printf 'a%.0s' {1..1025})" 'a b' ''; do
        capture runtime create -b "$T/b" "$id"
        expect_status 1
        expect_err_has "container"
    done
    cp "$T/good.json" "$T/b/config.json"
    runtime run -b "$T/b" w </dev/null
    runtime run -b "$T/b" w </dev/null
    expect_nothing_left
}

case_runtime_a_container_is_started_long_after_it_was_made() {
    make_bundle b '.process.args = ["sh", "-c", "cat; echo late"]'
    echo in >"$T/in"
    runtime create -b "$T/b" slow <"$T/in" >"$T/out" 2>&1
    # Longer than what has no process is kept in the guest.
    sleep 65
    expect_eq "$(status_of slow)" created status
    runtime start slow
    wait_for 20 is_stopped slow
    expect_eq "$(cat "$T/out")" $'in\nlate' output
    runtime delete slow
    expect_nothing_left
}

# joining PATH...: a filter for a configuration whose namespaces of these kinds are those of a process.
joining() {
    local pid=$1 kind filter='.'
    shift
    for kind; do
        case $kind in
            network) filter+=" | .linux.namespaces |= map(if .type == \"network\" then .path = \"/proc/$pid/ns/net\" else . end)" ;;
            *) filter+=" | .linux.namespaces |= map(if .type == \"$kind\" then .path = \"/proc/$pid/ns/$kind\" else . end)" ;;
        esac
    done
    echo "$filter"
}

case_runtime_a_container_that_joins_anothers_network_is_made_in_its_vm() {
    make_bundle own '.process.args = ["sh", "-c", "mkdir /tmp/w; echo shared >/tmp/w/f; exec httpd -f -p 80 -h /tmp/w"]
        | .hostname = "owner" | .linux.cgroupsPath = "/hull-test/own"'
    runtime run -d -b "$T/own" --pid-file "$T/pid" s1 </dev/null >/dev/null 2>&1
    local pid
    pid=$(cat "$T/pid")
    make_bundle in "$(joining "$pid" network ipc uts pid) | .hostname = \"owner\" | .linux.cgroupsPath = \"/hull-test/in\"
        | .process.args = [\"sh\", \"-c\", \"wget -q -O - http://127.0.0.1/f; hostname; ps | grep -c [h]ttpd; ls /tmp; exit 4\"]"
    capture runtime run -b "$T/in" s2 </dev/null
    expect_status 4
    expect_out $'shared\nowner\n1\n'
    jq '.process.args = ["sleep", "1000"]' "$T/in/config.json" >"$T/new" && mv "$T/new" "$T/in/config.json"
    runtime run -d -b "$T/in" --pid-file "$T/pid3" s3 </dev/null >/dev/null 2>&1
    expect_eq "$(pgrep -c -x hull-vmm)" 1 VMs
    # IPC of a container of another VM.
    make_bundle other "$(joining "$pid" ipc) | .process.args = [\"true\"]"
    capture runtime run -b "$T/other" s4
    expect_status 1
    expect_err_has "can't be joined: it is not of a container that runs in the same VM"
    # The others outlive the first one. PID 1 of their PID namespace is its.
    make_bundle net "$(joining "$pid" network) | .process.args = [\"sleep\", \"1000\"]"
    runtime run -d -b "$T/net" s5 </dev/null >/dev/null 2>&1
    runtime delete --force s1
    expect_eq "$(runtime exec s5 echo lives)" lives 'an exec'
    # Its id is free for one with a VM of its own, as when podman restarts a pod.
    make_bundle new '.process.args = ["sleep", "1000"] | .linux.cgroupsPath = "/hull-test/own"'
    runtime run -d -b "$T/new" s1 </dev/null >/dev/null 2>&1
    expect_eq "$(pgrep -c -x hull-vmm)" 2 VMs
    runtime delete --force s3
    runtime delete --force s5
    expect_eq "$(runtime exec s1 echo on)" on 'an exec in the new one'
    runtime delete --force s1
    expect_nothing_left
}

case_runtime_containers_of_one_vm_are_removed_one_by_one_when_their_shim_was_killed() {
    make_bundle own '.process.args = ["sleep", "1000"] | .linux.cgroupsPath = "/hull-test/own"'
    runtime run -d -b "$T/own" --pid-file "$T/pid" s1 </dev/null >/dev/null 2>&1
    make_bundle in "$(joining "$(cat "$T/pid")" network) | .process.args = [\"sleep\", \"1000\"] | .linux.cgroupsPath = \"/hull-test/in\""
    runtime run -d -b "$T/in" s2 </dev/null >/dev/null 2>&1
    runtime delete --force s1
    kill -9 "$(pgrep -f '[s]him-hull-v2.*-id s1')"
    wait_for 10 is_stopped s2 || fail "status $(status_of s2)"
    # A new one with the first's id has nothing to do with what is left.
    make_bundle new '.process.args = ["sleep", "1000"]'
    runtime run -d -b "$T/new" s1 </dev/null >/dev/null 2>&1
    runtime delete s2
    expect_eq "$(runtime exec s1 echo lives)" lives 'an exec'
    runtime delete --force s1
    expect_nothing_left
}

case_runtime_a_poststart_hook_that_fails_ends_the_container() {
    make_bundle b '.process.args = ["sleep", "1000"]
        | .hooks.poststart = [{path: "/bin/true"}, {path: "/bin/sh", args: ["sh", "-c", "echo no >&2; exit 3"]}]'
    capture timeout 60 hull-runtime --root "$RUNTIME_ROOT" run -b "$T/b" p1 </dev/null
    expect_status 1
    expect_err_has "error running poststart hook #1: exit status 3, stdout: , stderr: no"
    expect_nothing_left
    runtime create -b "$T/b" p1 </dev/null >/dev/null 2>&1
    capture runtime start p1
    expect_status 1
    expect_err_has "error running poststart hook #1"
    expect_eq "$(status_of p1)" stopped status
    runtime delete p1
    expect_nothing_left
}

# podman's tmpfs mounts, which it puts before /proc.
case_runtime_memory_that_has_what_it_hides_does_not_need_proc() {
    make_bundle b '.process.args = ["sh", "-c", "cat /etc/group /etc/passwd | wc -l; stat -c %a /root"]
        | .mounts = [{destination: "/etc", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup", "nosuid"]},
                     {destination: "/root", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup", "mode=1770"]}] + .mounts'
    capture runtime run -b "$T/b" m1
    expect_status 0
    expect_out $'4\n755\n'
    expect_nothing_left
}
