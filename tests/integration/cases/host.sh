# What the host lacks is said by name.

# hulld_with_dev COMMAND: starts a second hulld whose /dev has what it needs but for /dev/kvm, where
# COMMAND runs first. Its socket is $T/run/hull.sock.
hulld_with_dev() {
    mkdir -p "$T/dev"
    T=$T unshare -m --propagation private sh -c '
        mount -t tmpfs -o mode=755 tmpfs "$T/dev" && mkdir "$T/dev/net" "$T/dev/shm" &&
        cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx /dev/vhost-vsock "$T/dev/" 2>/dev/null
        cp -a /dev/net/tun "$T/dev/net/" && mount --move "$T/dev" /dev && eval "$1" &&
        exec hulld --root "$T/state" --exec-root "$T/run" -H "unix://$T/run/hull.sock"' - "$1" >"$T/hulld.log" 2>&1 &
    echo $! >"$T/hulld.pid"
    wait_for 30 hull -H "unix://$T/run/hull.sock" version >/dev/null 2>&1 || fail "hulld did not start: $(cat "$T/hulld.log")"
}

second_hulld_stop() {
    kill "$(cat "$T/hulld.pid")"
    wait_for 20 sh -c "! kill -0 $(cat "$T/hulld.pid") 2>/dev/null"
}

case_a_host_without_kvm_is_told_so() {
    hulld_with_dev true
    capture hull -H "unix://$T/run/hull.sock" run --rm "$BUSYBOX" true
    second_hulld_stop
    expect_status 125
    expect_err_has "/dev/kvm is missing"
    expect_err_has "modprobe kvm"
}

case_kvm_that_may_not_be_opened_is_told_so() {
    # A device node on a file system that is mounted without devices can't be opened, even by root.
    hulld_with_dev 'mkdir /dev/forbidden && mount -t tmpfs -o nodev tmpfs /dev/forbidden &&
        mknod /dev/forbidden/kvm c 10 232 && touch /dev/kvm && mount --bind /dev/forbidden/kvm /dev/kvm'
    capture hull -H "unix://$T/run/hull.sock" run --rm "$BUSYBOX" true
    second_hulld_stop
    expect_status 125
    expect_err_has "no permission to open /dev/kvm"
    expect_err_has "group"
}
