# The disk of the state directory is full: at each step the error names what could not be written, and
# all works again when there is room.

# full_start: an engine whose state directory is a small disk of its own.
full_start() {
    local n
    truncate -s 200M "$T/disk"
    mkfs.ext4 -q "$T/disk"
    mkdir -p "$T/m"
    mount -o loop "$T/disk" "$T/m" || skip 'no loop device can be mounted'
    export HULL_HOST=unix://$T/run/hull.sock
    trap 'full_stop; rm -rf "$T"' EXIT
    hulld --root "$T/m/state" --exec-root "$T/run" -H "$HULL_HOST" >"$T/hulld.log" 2>&1 &
    echo $! >"$T/pid"
    wait_for 30 hull version >/dev/null 2>&1 || fail "no engine: $(tail "$T/hulld.log")"
}

full_stop() {
    hull ps -aq 2>/dev/null | xargs -r hull rm -f >/dev/null 2>&1
    kill "$(cat "$T/pid")" 2>/dev/null || true
    while kill -0 "$(cat "$T/pid")" 2>/dev/null; do sleep 0.1; done
    umount "$T/m"
}

# fill KIB: all but so much.
fill() {
    dd if=/dev/zero of="$T/m/filler" bs=64k status=none 2>/dev/null || true
    dd if=/dev/zero of="$T/m/filler2" bs=1k status=none 2>/dev/null || true
    [ "$1" = 0 ] || truncate -s "-${1}k" "$T/m/filler"
    sync
}
unfill() { rm -f "$T/m/filler" "$T/m/filler2"; sync; }

# full KIB COMMAND...: it fails for want of room, and says so.
full() {
    fill "$1"
    shift
    capture timeout 120 "$@"
    unfill
    [ "$status" != 0 ] || fail "$* does not need the disk: $out"
    expect_err_has 'No space left on device'
}

case_images_and_a_full_disk() {
    full_start
    full 0 hull pull -q "$BUSYBOX"
    expect_err_has "$T/m/state"
    full 1024 hull pull -q "$BUSYBOX"
    expect_err_has "$T/m/state"
    hull pull -q "$BUSYBOX" >/dev/null
    hull save -o "$T/saved.tar" "$BUSYBOX"
    hull rmi "$BUSYBOX" >/dev/null
    full 1024 hull load -q -i "$T/saved.tar"
    expect_err_has "$T/m/state"
    # There is room for the layer, but not for what is made of it.
    full 3072 hull load -q -i "$T/saved.tar"
    expect_err_has 'failed to unpack image'
    expect_err_has 'hull image prune'
    hull load -q -i "$T/saved.tar" >/dev/null
    hull run --rm --network none "$BUSYBOX" true
    hull run -d --name t-made --network none "$BUSYBOX" sh -c 'dd if=/dev/urandom of=/r bs=1M count=2; sync; exec sleep 600' >/dev/null
    wait_for 20 hull exec t-made sh -c '[ "$(stat -c %s /r)" = 2097152 ]'
    full 1024 hull commit t-made t-image
    expect_err_has "$T/m/state"
    expect_eq "$(hull images -q | wc -l)" 1 'images'
    hull commit t-made t-image >/dev/null
    expect_eq "$(hull run --rm --network none t-image sha256sum /r)" "$(hull exec t-made sha256sum /r)" 'what was committed'
    expect_eq "$(find "$T/m/state" -name '*.tmp*' -o -name '*.partial' -o -name 'ingest-*')" '' 'left over'
}

case_containers_and_a_full_disk() {
    full_start
    hull pull -q "$BUSYBOX" >/dev/null
    full 0 hull create --name t-c "$BUSYBOX" true
    expect_eq "$(hull ps -aq)" '' 'containers'
    full 0 hull volume create -o type=block -o size=128m t-v
    hull create --name t-c --network none "$BUSYBOX" sleep 600 >/dev/null
    full 0 hull start t-c
    hull start t-c >/dev/null
    # The guest's disk is as large as ever: what it can't have is an error in the guest alone.
    fill 1024
    hull exec t-c sh -c 'dd if=/dev/zero bs=64k count=200 | tr "\0" x >/big; sync' >/dev/null 2>&1 || true
    expect_eq "$(hull exec t-c echo alive)" alive 'a container without room'
    unfill
    hull restart -t 0 t-c >/dev/null
    hull exec t-c sh -c 'dd if=/dev/zero bs=64k count=20 | tr "\0" x >/more; sync; [ "$(tr -d x </more | wc -c)" = 0 ] && [ "$(stat -c %s /more)" = 1310720 ]'
    hull rm -f t-c >/dev/null
    # A volume is filled with all of what the image has, or not at all.
    full 512 hull run --rm --network none -v t-v:/bin "$BUSYBOX" true
    expect_eq "$(hull run --rm --network none -v t-v:/bin "$BUSYBOX" sh -c 'ls /bin | wc -l')" "$(hull run --rm --network none "$BUSYBOX" sh -c 'ls /bin | wc -l')" 'files in the volume'
    # A log goes on, each record as a whole.
    hull run -d --name t-log --network none "$BUSYBOX" sh -c 'i=0; while :; do i=$((i+1)); echo "line $i of some length, so that a disk is full soon"; sleep 0.05; done' >/dev/null
    sleep 2
    fill 0
    sleep 2
    local at
    at=$(hull logs --tail 1 t-log | cut -d' ' -f2)
    unfill
    wait_for 20 sh -c "[ \"\$(hull logs --tail 1 t-log | cut -d' ' -f2)\" -gt $((at + 10)) ]" || fail "the log ended at $at"
    hull logs t-log >"$T/log"
    ! grep -v '^line [0-9]* of some length, so that a disk is full soon$' "$T/log" || fail 'a record is cut'
    grep -q 'output of a container is lost' "$T/hulld.log" || fail 'the engine says nothing of it'
}

# A removal that fails says so, and can be tried again.
# Core.
case_a_removal_and_a_full_disk() {
    full_start
    hull pull -q "$BUSYBOX" >/dev/null
    hull create --name t-gone --network none "$BUSYBOX" true >/dev/null
    fill 0
    capture hull rm t-gone
    if [ "$status" = 0 ]; then
        expect_eq "$(hull ps -aq)" '' 'what is left of a removal that succeeded'
    else
        expect_eq "$(hull ps -a --format '{{.State}}')" dead 'what could not be removed'
    fi
    unfill
    hull ps -aq | xargs -r hull rm >/dev/null
    # A folder that can't go, whoever asks.
    local id
    id=$(hull create --name t-busy --network none "$BUSYBOX" true)
    mkdir "$T/m/state/containers/$id/busy"
    mount -t tmpfs none "$T/m/state/containers/$id/busy"
    capture hull rm t-busy
    umount "$T/m/state/containers/$id/busy"
    expect_status 1
    expect_err_has "$id"
    expect_eq "$(hull ps -a --format '{{.State}}')" dead 'what could not be removed'
    hull rm t-busy >/dev/null
    expect_eq "$(hull ps -aq)" '' 'containers'
}

# A disk is larger than what the host has room for: a program hears of that by its own write, before
# anything of the file system is lost, and df tells it beforehand.
case_a_container_sees_what_the_host_has_room_for() {
    full_start
    hull pull -q "$BUSYBOX" >/dev/null
    hull run -d --name t-c --network none "$BUSYBOX" sleep 600 >/dev/null
    hull volume create -o type=block -o size=1g t-v >/dev/null
    hull run -d --name t-w --network none -v t-v:/v "$BUSYBOX" sleep 600 >/dev/null
    local host at
    host=$(df -k --output=avail "$T/m" | tail -n 1)
    for at in t-c:/ t-w:/v; do
        local free
        free=$(hull exec "${at%%:*}" df -k "${at#*:}" | awk 'END { print $4 }')
        [ "$free" -le "$host" ] && [ "$free" -gt $((host / 2)) ] || fail "$free KiB free of $host at $at"
    done
    capture hull exec t-w sh -c 'dd if=/dev/zero of=/v/big bs=1M count=400'
    expect_status 1
    expect_err_has 'No space left on device'
    capture hull exec t-c sh -c 'dd if=/dev/zero of=/big bs=1M count=400'
    expect_status 1
    expect_err_has 'No space left on device'
    hull exec t-c sh -c 'rm /big; sync; echo whole >/f; sync; cat /f'
    hull exec t-w sh -c 'rm /v/big; sync; echo whole >/v/f; sync; cat /v/f'
    # Others take the room while they run, and give it back.
    fill 20480
    wait_for 10 sh -c '[ "$(hull exec t-c df -k / | awk "END { print \$4 }")" -le 20480 ]' || fail "$(hull exec t-c df -k /)"
    capture hull exec t-c sh -c 'dd if=/dev/zero of=/big bs=1M count=100 && sync'
    expect_status 1
    expect_err_has 'No space left on device'
    unfill
    wait_for 10 hull exec t-c sh -c 'dd if=/dev/zero of=/more bs=1M count=30 2>/dev/null && sync' || fail 'there is no room again'
    expect_eq "$(hull exec t-c sh -c 'cat /f; dmesg | grep -c -e "I/O error" -e "EXT4-fs error"')" $'whole\n0' 'the file system'
    expect_eq "$(hull exec t-w cat /v/f)" whole 'the volume'
}

# A guest's kernel may take back what its file system keeps back, and fill the host: it harms itself alone.
case_a_guest_that_takes_more_room_than_there_is_harms_itself_alone() {
    full_start
    hull pull -q "$BUSYBOX" >/dev/null
    hull run -d --name t-near --network none "$BUSYBOX" sh -c 'echo whole >/f; sync; exec sleep 600' >/dev/null
    wait_for 20 hull exec t-near test -s /f
    hull run -d --name t-greedy --network none --privileged "$BUSYBOX" sleep 600 >/dev/null
    timeout 120 hull exec t-greedy sh -c '
        while :; do for f in /sys/fs/ext4/*/reserved_clusters; do echo 0 >"$f"; done; sleep 0.2; done &
        dd if=/dev/zero of=/big bs=1M count=400; sync' >"$T/greedy" 2>&1 || true
    [ "$(df -k --output=avail "$T/m" | tail -n 1)" -lt 1024 ] || fail "the host is not full: $(df -k "$T/m"; cat "$T/greedy")"
    expect_eq "$(hull ps --format '{{.Names}}' | grep -c near)" 1 'the engine'
    expect_eq "$(hull exec t-near cat /f)" whole "the neighbour's file"
    timeout 60 hull rm -f t-greedy >/dev/null || fail 'it can not be removed'
    wait_for 20 hull exec t-near sh -c 'echo more >/g && sync' || hull restart -t 0 t-near >/dev/null
    expect_eq "$(hull exec t-near sh -c 'cat /f; echo again >/h && sync && cat /h')" $'whole\nagain' 'the neighbour afterwards'
}

# An archive that the client has no room for leaves the one that is there.
case_an_archive_is_written_as_a_whole_or_not_at_all() {
    mkdir "$T/small"
    mount -t tmpfs -o size=1m none "$T/small"
    echo old >"$T/small/a.tar"
    capture hull save -o "$T/small/a.tar" "$BUSYBOX"
    local left
    left=$(ls -A "$T/small") out=$(cat "$T/small/a.tar")
    umount "$T/small"
    expect_status 1
    expect_err_has 'No space left on device'
    expect_eq "$left $out" 'a.tar old' 'what is there'
}
