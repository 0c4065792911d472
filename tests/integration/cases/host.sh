# What the host lacks is said by name.

# hulld_apart COMMAND: starts a second hulld, in a mount namespace where COMMAND runs first. Its
# socket is $APART.
hulld_apart() {
    APART=unix://$T/run/hull.sock
    mkdir -p "$T/state"
    T=$T unshare -m --propagation private sh -c '
        eval "$1" && exec hulld --root "$T/state" --exec-root "$T/run" -H "unix://$T/run/hull.sock"' - "$1" >"$T/hulld.log" 2>&1 &
    echo $! >"$T/hulld.pid"
    wait_for 30 hull -H "$APART" version >/dev/null 2>&1 || fail "hulld did not start: $(cat "$T/hulld.log")"
}

hulld_apart_stop() {
    kill "$(cat "$T/hulld.pid")"
    wait_for 20 sh -c "! kill -0 $(cat "$T/hulld.pid") 2>/dev/null"
}

# A /dev with what hulld needs, but for /dev/kvm.
dev_without_kvm='mkdir -p "$T/dev" && mount -t tmpfs -o mode=755 tmpfs "$T/dev" && mkdir "$T/dev/net" "$T/dev/shm" &&
    for node in null zero full random urandom tty ptmx vhost-vsock net/tun; do
        [ ! -e "/dev/$node" ] || cp -a "/dev/$node" "$T/dev/$node"
    done && mount --move "$T/dev" /dev'

# Core.
case_a_host_without_kvm_is_told_so() {
    hulld_apart "$dev_without_kvm"
    capture hull -H "$APART" run --rm "$BUSYBOX" true
    hulld_apart_stop
    expect_status 125
    expect_err_has "/dev/kvm is missing"
    expect_err_has "modprobe kvm"
}

case_kvm_that_may_not_be_opened_is_told_so() {
    # A device node on a file system that is mounted without devices can't be opened, even by root.
    hulld_apart "$dev_without_kvm"' && mkdir /dev/forbidden && mount -t tmpfs -o nodev tmpfs /dev/forbidden &&
        mknod /dev/forbidden/kvm c 10 232 && touch /dev/kvm && mount --bind /dev/forbidden/kvm /dev/kvm'
    capture hull -H "$APART" run --rm "$BUSYBOX" true
    hulld_apart_stop
    expect_status 125
    expect_err_has "no permission to open /dev/kvm"
    expect_err_has "group"
}

# The layer's blob fits on the disk, what is unpacked of it does not.
case_a_disk_that_fills_while_unpacking_is_named() {
    hulld_apart 'mount -t tmpfs -o size=100m tmpfs "$T/state"'
    local state=/proc/$(cat "$T/hulld.pid")/root$T/state
    mkdir "$T/layer"
    head -c 60M /dev/urandom >"$T/layer/big"
    tar -C "$T/layer" -cf "$T/layer.tar" big
    capture hull -H "$APART" import "$T/layer.tar" t-big:1
    [ "$status" != 0 ] || fail "60 MiB were unpacked beside 60 MiB in 100 MiB"
    expect_err_has "No space left on device"
    expect_eq "$(find "$state" -name '*.tmp*')" "" "half-made files"
    # The store is whole: what fits still works.
    hull -H "$APART" image prune -a -f >/dev/null
    expect_eq "$(hull -H "$APART" run --rm "$BUSYBOX" echo fits 2>/dev/null)" fits
    hulld_apart_stop
}
