# kill -9 of each of our processes: nothing is left, nothing is forgotten.

container_vmm() { pgrep -f "[h]ull-vmm" | head -n 1; }

# Core.
case_killed_vmm_ends_its_container() {
    hull run -d --name t-v "$BUSYBOX" sleep 600 >/dev/null
    kill -9 "$(container_vmm)"
    wait_for 10 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-v)" = exited ]'
    local reason
    reason=$(hull inspect -f '{{.State.Error}}' t-v)
    [[ $reason == "the VM ended: "*signal* ]] || fail "the reason is not told: $reason"
    hull rm t-v
    expect_clean_host
}

# A VMM that stands still is a guest that answers nothing, and does not die of SIGKILL.
case_a_guest_that_stands_still_can_be_removed() {
    hull run -d --name t-near "$BUSYBOX" sleep 600 >/dev/null
    local near
    near=$(container_vmm)
    hull run -d --name t-still "$BUSYBOX" sleep 600 >/dev/null
    kill -STOP "$(pgrep -f "[h]ull-vmm" | grep -vx "$near")"
    timeout 100 hull rm -f t-still >/dev/null &
    capture timeout 60 hull exec t-near echo here
    expect_out $'here\n'
    capture timeout 60 hull ps -q
    expect_status 0
    wait $! || fail "it is not removed: $(hull ps -a)"
    hull rm -f t-near >/dev/null
    expect_clean_host
}

# A shim that stands still answers nothing: it is ended with its VM, by force.
case_a_shim_that_stands_still_is_ended_with_its_vm() {
    local name
    for name in t-removed t-stopped; do hull run -d --name $name --network none "$BUSYBOX" sleep 600 >/dev/null; done
    pkill -STOP -f '[c]ontainerd-shim-hull'
    timeout 100 hull stop -t 1 t-stopped >/dev/null &
    timeout 100 hull rm -f t-removed >/dev/null || fail "it is not removed: $(hull ps -a)"
    wait $! || fail "it is not stopped: $(hull ps -a)"
    expect_eq "$(hull inspect -f '{{.State.Status}} {{.State.ExitCode}}' t-stopped)" 'exited 137' 'the stopped one'
    expect_clean_host
    hull start t-stopped >/dev/null
    hull rm -f t-stopped >/dev/null
    expect_clean_host
}

# Its last words are no text for a terminal, and as long as all that is kept of them.
# Core.
case_a_guest_that_panics_tells_why() {
    hull run -d --name t-panic --privileged "$BUSYBOX" sh -c 'mknod /tmp/h c 229 0
        head -c 20000 /dev/zero | tr "\0" "\1" >/tmp/h; printf "\33[31mred" >/tmp/h
        echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60' >/dev/null
    capture hull wait t-panic
    expect_out $'137\n'
    local reason
    reason=$(hull inspect -f '{{.State.Error}}' t-panic)
    [[ $reason == "the VM ended: "*panic* ]] || fail "the reason is not told: $reason"
    ! LC_ALL=C grep -q $'[\1\33]' <<<"$reason" || fail "a terminal obeys it: $(cat -v <<<"$reason")"
}

# Core.
case_killed_shim_takes_its_vmm_along() {
    hull run -d --name t-s "$BUSYBOX" sleep 600 >/dev/null
    pkill -9 -f '[c]ontainerd-shim-hull'
    wait_for 10 sh -c '! pgrep -f "[h]ull-vmm"'
    wait_for 10 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-s)" = exited ]'
    hull rm t-s
    expect_clean_host
}

# Core.
case_killed_hulld_finds_its_containers_again() {
    hull run -d --name t-h "$BUSYBOX" sh -c 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.5; done' >/dev/null
    wait_for 20 sh -c 'hull logs t-h | grep -q 2'
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    hulld_start
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-h)" running state
    hull exec t-h true
    local last
    last=$(hull logs --tail 1 t-h)
    wait_for 20 sh -c "[ \"\$(hull logs --tail 1 t-h)\" -gt $((last + 2)) ]"
    expect_eq "$(hull logs t-h | head -n $((last)))" "$(seq 0 $((last - 1)))" "log across the crash"
    hull rm -f t-h
    expect_clean_host
}

case_killed_client_leaves_no_orphan() {
    hull run --rm --name t-c "$BUSYBOX" sleep 5 &
    local client=$!
    wait_for 20 sh -c 'hull ps -q --filter name=t-c | grep -q .'
    kill -9 $client
    wait_for 30 sh -c '! hull ps -aq --filter name=t-c | grep -q .'
    expect_clean_host
}

# killed_after SECONDS COMMAND...: runs a container and the command so much later, then waits for the client.
killed_after() {
    local delay=$1
    shift
    # What a shell starts in the background ignores interrupts, unless it is told not to.
    env --default-signal=INT hull run --rm "$BUSYBOX" sleep 1 >/dev/null 2>&1 &
    client=$!
    sleep "$delay"
    "$@" || true
    wait "$client" || true
}

# Seconds after which a run pulls nothing, makes its disk, boots, runs, ends: a start takes longer in an emulated machine.
MOMENTS='0.05 0.2 0.4 0.8 1.5 3 5'

case_kills_at_any_moment() {
    local delay client
    for delay in $MOMENTS; do killed_after "$delay" pkill -9 -f '[h]ull-vmm'; done
    for delay in $MOMENTS; do killed_after "$delay" pkill -9 -f '[c]ontainerd-shim-hull'; done
    hull run --rm "$BUSYBOX" true
    hull ps -aq | xargs -r hull rm -f >/dev/null
    expect_clean_host
}

case_hulld_is_killed_at_any_moment() {
    local delay client
    for delay in $MOMENTS; do
        killed_after "$delay" kill -9 "$(cat "$HARNESS/hulld.pid")"
        hulld_start
        hull run --rm "$BUSYBOX" true
    done
    wait_for 30 sh -c '! hull ps -q | grep -q .' || fail "still there: $(hull ps -a)"
    hull ps -aq | xargs -r hull rm -f >/dev/null
    expect_clean_host
}

end_client() { kill -"$signal" "$client"; }

case_the_client_is_killed_or_interrupted_at_any_moment() {
    local delay client signal=KILL
    for delay in $MOMENTS; do killed_after "$delay" end_client; done
    wait_for 60 sh -c '! hull ps -q | grep -q .' || fail "still there: $(hull ps -a)"
    # Who was killed between two requests leaves a container that was never started.
    expect_eq "$(hull ps -a --format '{{.State}}' | grep -v created)" '' 'what is left'
    hull ps -aq | xargs -r hull rm -f >/dev/null
    expect_clean_host
    # Who is interrupted ends what it began.
    signal=INT
    for delay in $MOMENTS; do killed_after "$delay" end_client; done
    wait_for 60 sh -c '! hull ps -aq | grep -q .' || fail "still there: $(hull ps -a)"
    expect_clean_host
}

case_interrupted_run_stops() {
    hull run --rm --name t-i "$BUSYBOX" sh -c 'trap "exit 0" INT; while :; do sleep 0.1; done' &
    local client=$!
    wait_for 20 sh -c 'hull ps -q --filter name=t-i | grep -q .'
    sleep 1
    kill -INT $client
    wait_for 20 sh -c '! hull ps -aq --filter name=t-i | grep -q .'
    expect_clean_host
}

# ended_after SECONDS SIGNAL COMMAND...: starts the command and sends the signal so much later.
ended_after() {
    local delay=$1 signal=$2 client
    shift 2
    env --default-signal=INT "$@" >/dev/null 2>&1 &
    client=$!
    sleep "$delay"
    kill -"$signal" "$client" 2>/dev/null || true
    wait "$client" || true
}

case_pulls_and_loads_are_killed_or_interrupted_at_any_moment() {
    local delay signal image=$REGISTRY/python:latest
    registry_push "$IMAGES/python" "$image"
    skopeo --insecure-policy copy --quiet "oci:$IMAGES/python:latest" "docker-archive:$T/python.tar:loaded:latest"
    for signal in KILL INT; do
        for delay in 0.1 0.5 1 3; do
            hull rmi -f "$image" loaded:latest >/dev/null 2>&1 || true
            ended_after "$delay" "$signal" hull pull "$image"
            ended_after "$delay" "$signal" hull load -i "$T/python.tar"
        done
    done
    wait_for 60 no_leftovers || fail "left behind: $(host_leftovers)"
    expect_eq "$(find "$HARNESS/state" -name 'ingest-*')" '' 'halves of files'
    hull pull -q "$image" >/dev/null
    hull load -q -i "$T/python.tar" >/dev/null
    expect_eq "$(hull run --rm loaded python3 -c 'print(6 * 7)')" 42 'what was loaded after all'
    hull rmi -f "$image" loaded:latest >/dev/null
    expect_clean_host
}

# A store that is empty or gone is no engine without containers: their files would be swept away.
# Core.
case_a_lost_store_loses_nothing() {
    local id root=$HARNESS/state
    id=$(hull create --name t-kept "$BUSYBOX" true)
    hull cp /etc/hostname t-kept:/kept >/dev/null
    kill "$(cat "$HARNESS/hulld.pid")"
    while kill -0 "$(cat "$HARNESS/hulld.pid")" 2>/dev/null; do sleep 0.1; done
    cp "$root/containers.redb" "$T/store"
    start() { capture timeout 30 hulld --root "$root" --exec-root "$HARNESS/run" -H "$HULL_HOST"; }
    truncate -s 0 "$root/containers.redb"
    start
    expect_status 1
    expect_err_has "$root/containers.redb"
    rm "$root/containers.redb"
    start
    expect_status 1
    expect_err_has 'bring it back from a backup'
    [ -s "$root/containers/$id/scratch.ext4" ] || fail 'the files of the container are gone'
    # One from before a container was made, as from a backup: its files are nobody's to remove.
    mkdir "$root/containers/stranger" "$root/containers/cut-off"
    echo data >"$root/containers/stranger/file"
    cp "$T/store" "$root/containers.redb"
    hulld_start
    expect_eq "$(cat "$root/containers/stranger/file")" data 'the stranger'
    [ ! -e "$root/containers/cut-off" ] || fail 'an empty folder is left'
    rm -r "$root/containers/stranger"
    hull cp t-kept:/kept "$T/kept"
    cmp /etc/hostname "$T/kept"
    hull rm t-kept >/dev/null
    expect_clean_host
}

case_a_first_start_is_killed_at_any_moment() {
    local delay
    hull create --name t-first --storage-opt size=1g "$BUSYBOX" sleep 600 >/dev/null
    for delay in 0.01 0.03 0.06 0.1 0.2 0.4 1; do
        hull start t-first >/dev/null 2>&1 &
        sleep "$delay"
        kill -9 "$(cat "$HARNESS/hulld.pid")"
        wait $! || true
        hulld_start
    done
    [ "$(hull inspect -f '{{.State.Status}}' t-first)" = running ] || hull start t-first >/dev/null
    expect_eq "$(hull exec t-first sh -c 'echo x >/f; sync; cat /f')" x 'its layer'
    expect_eq "$(find "$HARNESS/state/containers" -name '*.new')" '' 'half-made layers'
    hull rm -f t-first >/dev/null
}

# One shim that does not answer keeps no other container, and no client, waiting.
case_shims_that_stand_still_do_not_add_up() {
    local name started
    for name in 1 2 3; do hull run -d --name "t-still$name" --network none "$BUSYBOX" sleep 600 >/dev/null; done
    pkill -STOP -f '[c]ontainerd-shim-hull'
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    started=$SECONDS
    hulld_start
    [ $((SECONDS - started)) -lt 20 ] || fail "it took $((SECONDS - started)) s"
    pkill -CONT -f '[c]ontainerd-shim-hull' || true
    hull ps -aq | xargs -r hull rm -f >/dev/null
    expect_clean_host
}
