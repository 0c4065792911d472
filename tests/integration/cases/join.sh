# Containers in another one's VM: --network container:OTHER.

case_containers_of_one_vm_share_its_network() {
    hull run -d --name t-own --hostname owner -p 18084:8080 "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-in --network container:t-own "$BUSYBOX" sh -c 'mkdir /w; echo joined >/w/index.html; exec httpd -f -p 127.0.0.1:80 -h /w' >/dev/null
    wait_for 20 hull exec t-own sh -c 'wget -qO- http://127.0.0.1/ | grep -q joined' || fail 'localhost is not shared'
    local own in
    own=$(hull inspect --vm t-own | sed -n 's/.*"vmm_pid": *\([0-9]*\).*/\1/p')
    in=$(hull inspect --vm t-in | sed -n 's/.*"vmm_pid": *\([0-9]*\).*/\1/p')
    expect_eq "$in" "$own" 'the VM'
    expect_eq "$(hull inspect -f '{{.HostConfig.NetworkMode}}' t-in)" "container:$(hull inspect -f '{{.Id}}' t-own)" 'the mode'
    expect_eq "$(hull inspect -f '{{len .NetworkSettings.Networks}}' t-in)" 0 'networks of its own'
    # What is published is the first one's, whoever listens.
    hull exec -d t-in httpd -f -p 8080 -h /w
    wait_for 20 sh -c 'curl -s --max-time 3 http://127.0.0.1:18084/ | grep -q joined'
    # Names go with the network; processes and files do not.
    expect_eq "$(hull exec t-in cat /etc/hosts)" "$(hull exec t-own cat /etc/hosts)" '/etc/hosts'
    expect_eq "$(hull exec t-in hostname)" owner 'the host name'
    expect_eq "$(hull exec t-own sh -c 'ls -d /w 2>/dev/null; ps | grep -c "[h]ttpd"')" 0 'files and processes'
    hull rm -f t-in >/dev/null
    hull exec t-own true
    # Its disks can be had again.
    hull run --rm --network container:t-own --pid container:t-own "$BUSYBOX" ps >"$T/ps"
    grep -q 'sleep 600' "$T/ps" || fail "processes are not seen: $(cat "$T/ps")"
    hull rm -f t-own >/dev/null
    expect_clean_host
}

case_a_joined_container_keeps_its_files_and_ends_with_the_vm() {
    hull run -d --name t-own "$BUSYBOX" sleep 600 >/dev/null
    hull run --name t-in --network container:t-own "$BUSYBOX" sh -c 'echo kept >/f; exit 4' || [ $? = 4 ] || fail 'exit status'
    hull start t-in >/dev/null
    hull wait t-in >/dev/null
    expect_eq "$(hull cp t-in:/f - | tar -xO)" kept 'a file'
    # Three at a time: that is as many disks as a VM has places for.
    local n
    for n in 1 2 3; do
        hull run -d --name t-$n --network container:t-own "$BUSYBOX" sleep 600 >/dev/null
    done
    capture hull run --rm --network container:t-own "$BUSYBOX" true
    expect_status 125
    expect_err_has 'no room in the VM'
    hull rm -f t-1 >/dev/null
    hull run --rm --network container:t-own "$BUSYBOX" true
    # kill -9 of the engine: both go on.
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    hulld_start
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-2)" running 'after the engine'
    hull exec t-2 true
    hull stop -t 1 t-own >/dev/null
    wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Status}} {{.State.ExitCode}}" t-2)" = "exited 137" ]' || fail "$(hull inspect -f '{{json .State}}' t-2)"
    capture hull start t-2
    expect_status 1
    expect_err_has 'non running container'
    hull start t-own >/dev/null
    hull start t-2 >/dev/null
    hull rm -f t-own t-2 t-3 t-in >/dev/null
    expect_clean_host
}

case_what_a_joined_container_cannot_have_is_said() {
    hull run -d --name t-own "$BUSYBOX" sleep 600 >/dev/null
    local option
    for option in '-p 80:80' '--hostname x' '--dns 1.1.1.1' '--add-host a:1.2.3.4' '--expose 90' '--mac-address 02:00:00:00:00:01'; do
        # shellcheck disable=SC2086
        capture hull create --network container:t-own $option "$BUSYBOX" true
        [ "$status" != 0 ] || fail "$option is taken"
        expect_err_has 'conflicting options'
    done
    capture hull create --network container:nobody "$BUSYBOX" true
    expect_status 1
    expect_err_has nobody
    capture hull create --pid container:t-own "$BUSYBOX" true
    expect_status 1
    expect_err_has '--network container:OTHER'
    capture hull create --ipc container:t-own "$BUSYBOX" true
    expect_status 1
    expect_err_has 'IpcMode container: needs the same NetworkMode'
    hull create --name t-other "$BUSYBOX" true >/dev/null
    capture hull create --network container:t-own --ipc container:t-other "$BUSYBOX" true
    expect_status 1
    expect_err_has 'containers of two VMs (t-own and t-other)'
    capture hull run --rm --network container:t-own --ipc container:t-own "$BUSYBOX" true
    expect_status 125
    expect_err_has 'non-shareable IPC'
    hull create --name t-in --network container:t-own "$BUSYBOX" true >/dev/null
    capture hull network connect bridge t-in
    expect_status 1
    expect_err_has 'cannot be connected to any other network'
    hull rm -f t-own t-in t-other >/dev/null
}

case_containers_of_one_vm_share_memory_where_they_are_to() {
    hull run -d --name t-own --ipc shareable --shm-size 8m "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-in --network container:t-own --ipc container:t-own "$BUSYBOX" sleep 600 >/dev/null
    hull exec t-own sh -c 'echo shared >/dev/shm/f; touch /dev/mqueue/q'
    expect_eq "$(hull exec t-in sh -c 'cat /dev/shm/f; ls /dev/mqueue; df -m /dev/shm | awk "END { print \$2 }"')" "$(printf 'shared\nq\n8')" 'shared memory and queues'
    expect_eq "$(hull exec t-in readlink /proc/self/ns/ipc)" "$(hull exec t-own readlink /proc/self/ns/ipc)" 'the namespace of System V IPC'
    hull exec t-in sh -c 'echo back >/dev/shm/g'
    expect_eq "$(hull exec t-own cat /dev/shm/g)" back 'the other way'
    hull rm -f t-in >/dev/null
    expect_eq "$(hull exec t-own cat /dev/shm/g)" back 'after the one that joined'
    hull rm -f t-own >/dev/null
    # Without any.
    hull run --rm --network none --ipc none "$BUSYBOX" sh -c '! mount | grep -E "shm|mqueue"'
    expect_clean_host
}

case_who_has_joined_can_be_joined() {
    hull run -d --name t-own --hostname owner "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-mid --network container:t-own --ipc shareable "$BUSYBOX" sh -c 'echo mid >/dev/shm/f; exec sleep 601' >/dev/null
    wait_for 20 hull exec t-mid test -s /dev/shm/f
    hull run --rm --network container:t-mid --pid container:t-mid --ipc container:t-mid "$BUSYBOX" sh -c 'hostname; cat /dev/shm/f; ps | grep -c "[s]leep 601"; ps | grep -c "[s]leep 600"' >"$T/out" || true
    expect_eq "$(cat "$T/out")" "$(printf 'owner\nmid\n1\n0')" 'whose names, memory and processes it has'
    expect_eq "$(hull exec t-own sh -c 'ls /dev/shm')" '' "the first one's memory"
    hull stop -t 0 t-mid >/dev/null
    capture hull run --rm --network container:t-mid "$BUSYBOX" true
    expect_status 125
    expect_err_has 'non running container'
    hull rm -f t-own t-mid >/dev/null
    expect_clean_host
}

case_a_joined_container_has_volumes_of_its_own() {
    mkdir "$T/dir"
    echo host >"$T/dir/f"
    hull volume create t-disk -o type=block -o size=128m >/dev/null
    # The first has none: what the other sees is plugged into its VM.
    hull run -d --name t-own "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-in --network container:t-own -v "$T/dir:/d" -v t-vol:/v -v t-disk:/disk --mount "type=image,source=$BUSYBOX,target=/i" \
        "$BUSYBOX" sh -c 'echo guest >/d/g; echo kept >/v/f; echo disk >/disk/f; sync; exec sleep 600' >/dev/null
    wait_for 20 hull exec t-in test -s /disk/f
    expect_eq "$(hull exec t-in sh -c 'cat /d/f; ls /i/bin/busybox')" "$(printf 'host\n/i/bin/busybox')" 'what it sees'
    expect_eq "$(cat "$T/dir/g")" guest 'what it wrote on the host'
    # It is told what the host changes.
    cat >"$T/dir/told.py" <<'PY'
import ctypes, os
libc = ctypes.CDLL(None)
inotify = libc.inotify_init1(0)
libc.inotify_add_watch(inotify, b"/d/f", 2)
print("ready", flush=True)
os.read(inotify, 4096)
print("told", flush=True)
PY
    hull run -d --name t-told --network container:t-own -v "$T/dir:/d" -v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro "$BUSYBOX" python3 /d/told.py >/dev/null
    wait_for 40 sh -c 'hull logs t-told | grep -q ready' || fail "$(hull logs t-told 2>&1)"
    wait_for 20 sh -c "echo more >>'$T/dir/f'; hull logs t-told | grep -q told" || fail 'it is not told of changes'
    hull rm -f t-told >/dev/null
    capture hull exec t-own ls /d
    expect_status 1
    hull restart -t 0 t-in >/dev/null
    wait_for 20 hull exec t-in sh -c '[ "$(cat /d/g)" = guest ]' || fail 'not there after a restart'
    # Another one, and the same again.
    hull run --rm --network container:t-own -v "$T/dir:/e" "$BUSYBOX" cat /e/g >"$T/out"
    expect_eq "$(cat "$T/out")" guest 'another one'
    hull rm -f t-in >/dev/null
    hull run --rm --network container:t-own -v t-disk:/disk -v t-vol:/v "$BUSYBOX" cat /disk/f /v/f >"$T/out"
    expect_eq "$(cat "$T/out")" "$(printf 'disk\nkept')" 'what a disk and a volume keep'
    # Their virtiofsd is gone with it, also where the shim was killed.
    hull run -d --name t-in --network container:t-own -v "$T/dir:/d" "$BUSYBOX" sleep 600 >/dev/null
    kill -9 "$(ps -eo pid=,args= | awk '/[c]ontainerd-shim-hull-v2 / { print $1; exit }')"
    wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-own t-in | sort -u)" = exited ]'
    hull rm -f t-own t-in >/dev/null
    hull volume rm t-disk t-vol >/dev/null
    expect_clean_host
}

# Whoever is in the VM of one that is started again comes back after it.
case_a_joined_container_with_a_policy_comes_back_with_the_vm() {
    state() { hull inspect -f '{{.State.Status}}' "$1"; }
    is() { [ "$(state "$1")" = "$2" ]; }
    hull run -d --name t-own --restart always "$BUSYBOX" sh -c 'mkdir /w; echo there >/w/index.html; exec httpd -f -p 127.0.0.1:80 -h /w' >/dev/null
    hull run -d --name t-in --restart always --network container:t-own "$BUSYBOX" sleep 600 >/dev/null
    hull restart -t 0 t-own >/dev/null
    wait_for 60 is t-in running || fail "it is $(state t-in)"
    wait_for 20 hull exec t-in wget -qO- http://127.0.0.1/ >"$T/page"
    grep -q there "$T/page" || fail 'the network is not the same'
    # As long as that one is down, it waits; and a stop ends that.
    hull stop -t 0 t-own >/dev/null
    wait_for 30 is t-in restarting || fail "it is $(state t-in)"
    sleep 3
    is t-in restarting || fail "it gave up: $(state t-in)"
    # Also when another hulld goes on.
    hull update --restart no t-own >/dev/null
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    while kill -0 "$(cat "$HARNESS/hulld.pid")" 2>/dev/null; do sleep 0.1; done
    hulld_start
    sleep 3
    is t-in restarting || fail "it gave up with hulld: $(state t-in)"
    hull stop t-in >/dev/null
    hull start t-own >/dev/null
    sleep 2
    expect_eq "$(state t-in)" exited 'after its stop'
    # Those that are stopped at once have their own time each.
    hull run -d --name t-ends --network container:t-own "$BUSYBOX" sh -c 'trap "sleep 1; exit 5" TERM; while :; do sleep 0.2; done' >/dev/null
    sleep 2
    hull stop -t 5 t-own t-ends >/dev/null
    expect_eq "$(hull inspect -f '{{.State.ExitCode}}' t-ends)" 5 'its own end'
    hull rm -f t-ends >/dev/null
    hull rm -f t-in t-own >/dev/null
    expect_clean_host
}

case_a_directory_of_two_containers_of_a_vm_is_one() {
    # The host's own programs, in the guest.
    local tools='-v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro'
    mkdir -p "$T/d/cgi-bin"
    : >"$T/d/l"
    printf 'old' >"$T/d/m"
    printf '#!/bin/sh\necho\ncat /r/m; echo; flock -n /r/l echo free || echo held\n' >"$T/d/cgi-bin/look"
    chmod 755 "$T/d/cgi-bin/look"
    # shellcheck disable=SC2086 # several options
    hull run -d --name t-one $tools -v "$T/d:/r:ro" "$BUSYBOX" httpd -f -p 127.0.0.1:8080 -h /r >/dev/null
    # shellcheck disable=SC2086 # several options
    hull run -d --name t-two --network container:t-one $tools -v "$T/d:/w" "$BUSYBOX" sleep 600 >/dev/null
    cat >"$T/d/write.py" <<'PY'
import mmap, urllib.request
look = lambda: print(urllib.request.urlopen("http://127.0.0.1:8080/cgi-bin/look").read().decode(), end="")
look()
file = open("/w/m", "r+b")
mmap.mmap(file.fileno(), 0)[0:3] = b"new"
look()
PY
    capture hull exec t-two flock /w/l python3 /w/write.py
    expect_out $'old\nheld\nnew\nheld\n'
    capture hull exec t-two wget -q -O - http://127.0.0.1:8080/cgi-bin/look
    expect_out $'new\nfree\n'
    capture hull exec t-one touch /r/x
    expect_err_has Read-only
    hull rm -f t-two t-one >/dev/null
    expect_clean_host
}
