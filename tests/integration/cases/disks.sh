# Disks and who serves them.

# Who serves the disks of a container, each once.
engines_of() {
    hull inspect --vm "$1" | python3 -c '
import json, sys
print(*sorted({disk["engine"] for disk in json.load(sys.stdin)[0]["disks"]}))'
}

hulld_again() {
    kill "$(cat "$HARNESS/hulld.pid")"
    wait_for 20 sh -c "! kill -0 $(cat "$HARNESS/hulld.pid") 2>/dev/null"
    hulld_start "$@"
}

# Many writers and readers at once, files across many blocks, and what is left reads the same later.
work_on_a_disk() {
    hull exec "$1" sh -ec '
        mkdir -p /w; cd /w
        for n in 1 2 3 4; do
            (for k in 1 2 3 4 5 6; do seq $n$k 997 2000000 >f$n.$k; done; sync) &
        done; wait
        sha1sum f* >sums; sync; echo 3 >/proc/sys/vm/drop_caches
        sha1sum -c sums >/dev/null; rm f1.*; sync; grep -v f1 sums | sha1sum -c - >/dev/null'
}

# Core.
case_the_hosts_kernel_serves_the_disks() {
    [ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" = 0 ] || skip 'no io_uring here'
    hull run -d --name t-ring --privileged "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(engines_of t-ring)" io-uring engine
    work_on_a_disk t-ring
    hull pause t-ring >/dev/null
    hull unpause t-ring >/dev/null
    hull exec t-ring sh -c 'cd /w; grep -v f1 sums | sha1sum -c -' >/dev/null
    hull doctor --jail t-ring >/dev/null || fail 'the jail does not hold'
    hull rm -f t-ring >/dev/null
    expect_clean_host
}

case_who_serves_the_disks_can_be_said() {
    hull run -d --name t-no --privileged --annotation dev.hull.io-uring=false "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(engines_of t-no)" synchronous 'engine of who said no'
    work_on_a_disk t-no
    hull rm -f t-no >/dev/null
    hulld_again --no-io-uring
    hull run -d --name t-off --annotation dev.hull.io-uring=true "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(engines_of t-off)" synchronous 'engine that the operator turned off'
    hull rm -f t-off >/dev/null
    hulld_again
}

# A host that forbids rings: containers run, and say why.
case_without_io_uring_the_vmm_serves_the_disks() {
    local knob=/proc/sys/kernel/io_uring_disabled before
    [ -w $knob ] || skip 'this kernel has no way to forbid io_uring'
    before=$(cat $knob)
    echo 2 >$knob
    hull run -d --name t-none --privileged "$BUSYBOX" sleep 600 >/dev/null || true
    echo "$before" >$knob
    expect_eq "$(engines_of t-none)" synchronous engine
    hull inspect --vm t-none | grep -q 'failed to set up an io_uring' || fail 'the reason is not told'
    work_on_a_disk t-none
    hull rm -f t-none >/dev/null
}

# What was said to be on the disk is there when the VMM was killed: on the writable layer, and on a
# volume that is a disk, whose lock is free again at once.
case_a_killed_vmm_loses_nothing_that_was_flushed() {
    local option acknowledged kept
    hull volume create -o type=block -o size=128m t-disk >/dev/null
    for option in --annotation=dev.hull.io-uring=true --annotation=dev.hull.io-uring=false; do
        hull run -d --name t-flush "$option" -v t-disk:/v "$BUSYBOX" sh -ec '
            for n in $(seq 100000); do
                echo "record $n" | dd of=/log conv=fsync,notrunc oflag=append bs=64 2>/dev/null
                echo "record $n" | dd of=/v/log conv=fsync,notrunc oflag=append bs=64 2>/dev/null
                echo $n
            done' >/dev/null
        wait_for 60 sh -c '[ "$(hull logs --tail 1 t-flush)" -ge 20 ]'
        kill -9 "$(pgrep -f '[h]ull-vmm' | head -n 1)"
        wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-flush)" = exited ]'
        acknowledged=$(hull logs --tail 1 t-flush)
        for kept in /log /v/log; do
            hull cp "t-flush:$kept" "$HARNESS/kept" 2>/dev/null || hull run --rm -v t-disk:/v "$BUSYBOX" cat "$kept" >"$HARNESS/kept"
            expect_eq "$(grep -c '^record [0-9]*$' "$HARNESS/kept" | awk -v n="$acknowledged" '{print ($1 >= n)}')" 1 \
                "records of $kept: $(tail -n 1 "$HARNESS/kept") of $acknowledged"
        done
        hull rm -f t-flush >/dev/null
        hull run --rm -v t-disk:/v "$BUSYBOX" rm /v/log
    done
    hull volume rm t-disk >/dev/null
    expect_clean_host
}

# A block device of the host is a disk of the VM, under the name that is asked for.
case_a_disk_of_the_host() {
    truncate -s 64M "$T/disk"
    local device
    device=$(losetup -f --show "$T/disk") || skip 'no loop devices here'
    printf 'of the host' | dd of="$device" conv=notrunc,fsync status=none
    capture hull run --rm --device "$device:/dev/xvdc" "$BUSYBOX" sh -c '
        blockdev --getsize64 /dev/xvdc; dd if=/dev/xvdc bs=11 count=1 2>/dev/null; echo
        printf "of the guest" | dd of=/dev/xvdc bs=1M seek=1 conv=notrunc,fsync 2>/dev/null && echo written'
    expect_status 0
    expect_out $'67108864\nof the host\nwritten\n'
    expect_eq "$(dd if="$device" bs=1M skip=1 count=1 iflag=direct status=none | head -c 12)" 'of the guest' 'what the guest wrote'
    capture hull run --rm --device "$device:/dev/xvdc:r" "$BUSYBOX" sh -c 'dd if=/dev/xvdc bs=11 count=1 2>/dev/null; echo; dd if=/dev/zero of=/dev/xvdc bs=512 count=1 conv=fsync 2>/dev/null || echo refused'
    expect_out $'of the host\nrefused\n'
    # A file system on it, and nobody else meanwhile.
    hull run -d --name t-disk --privileged --device "$device" "$BUSYBOX" sh -c "mkdir -p /m; mke2fs $device >/dev/null && mount -t ext4 $device /m && echo kept >/m/f && exec sleep 600" >/dev/null
    wait_for 20 hull exec t-disk test -s /m/f
    capture hull run --rm --device "$device" "$BUSYBOX" true
    expect_status 125
    expect_err_has "$device"
    hull rm -f t-disk >/dev/null
    mkdir "$T/m"
    mount "$device" "$T/m"
    expect_eq "$(cat "$T/m/f")" kept 'on the host afterwards'
    umount "$T/m"
    losetup -d "$device"
    capture hull run --rm --device /dev/no-such-disk "$BUSYBOX" true
    expect_status 125
    expect_err_has /dev/no-such-disk
    expect_clean_host
}

case_a_container_starts_again_after_its_vmm_was_killed() {
    local n
    hull run -d --name t-again --network none "$BUSYBOX" sh -c 'while :; do k=$((k + 1)); echo "$k" | dd of=/f$k conv=fsync 2>/dev/null; echo "$k"; done' >/dev/null
    for n in $(seq "${HULL_KILLS:-5}"); do
        sleep 2
        kill -9 "$(hull inspect --vm t-again | sed -n 's/.*"vmm_pid": *\([0-9]*\).*/\1/p')"
        wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-again)" = exited ]'
        local last
        last=$(hull logs --tail 1 t-again)
        hull start t-again >/dev/null
        expect_eq "$(hull exec t-again cat "/f$last")" "$last" 'what was said to be on the disk'
    done
    expect_eq "$(hull exec t-again sh -c 'dmesg | grep -c "EXT4-fs error"')" 0 'errors of the file system'
    hull rm -f t-again >/dev/null
}
