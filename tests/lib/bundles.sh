# Sourced by cases that drive hull-runtime: bundles, and what a container may leave behind.

RUNTIME_ROOT=/run/hull-runtime-test
export HULL_EXEC_ROOT=/run/hull-runtime-exec
runtime() { hull-runtime --root "$RUNTIME_ROOT" "$@"; }

# make_bundle NAME [JQ-FILTER]: $T/NAME, with busybox as its root. The root is an EROFS image with
# an ext4 image beside it: what a directory adds is tested by the cases of shared directories.
make_bundle() {
    local bundle=$T/$1 root=$T/root
    if [ ! -e "$T/image" ]; then
        # Of a case that failed.
        runtime list -q | xargs -r -n 1 hull-runtime --root "$RUNTIME_ROOT" delete --force
        mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,root}
        cp /bin/busybox "$root/bin/"
        for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln "$root/bin/busybox" "$root/bin/$applet"; done
        printf 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n' >"$root/etc/passwd"
        printf 'root:x:0:\napp:x:1000:\n' >"$root/etc/group"
        mkfs.erofs --quiet "$T/image" "$root" >/dev/null 2>&1 || mkfs.erofs "$T/image" "$root" >/dev/null
        truncate -s 32M "$T/image.ext4"
        mkfs.ext4 -q -F "$T/image.ext4"
    fi
    mkdir -p "$bundle"
    cp "$T/image" "$bundle/rootfs"
    cp --sparse=always "$T/image.ext4" "$bundle/rootfs.ext4"
    runtime spec --bundle "$bundle"
    jq ".process.terminal = false | .root.readonly = false | ${2:-.}" "$bundle/config.json" >"$bundle/new"
    mv "$bundle/new" "$bundle/config.json"
}

is_stopped() { [ "$(status_of "$1")" = stopped ]; }
status_of() { runtime state "$1" | jq -r .status; }

expect_nothing_left() {
    expect_eq "$(runtime list -q)" "" "containers"
    expect_eq "$(ls -A "$RUNTIME_ROOT")" "" "state directories"
    wait_for 10 no_runtime_leftovers || fail "left: $(runtime_leftovers)"
}
runtime_leftovers() {
    local exe
    for exe in /proc/[0-9]*/exe; do
        # Holders have their containers' command lines.
        case $(readlink "$exe") in
            */hull-runtime | */hull-vmm | */containerd-shim-hull-v2 | */virtiofsd) echo "$exe $(readlink "$exe")" ;;
        esac
    done
    grep -F "$HULL_EXEC_ROOT" /proc/mounts || true
    find /sys/fs/cgroup/hull /sys/fs/cgroup/hull-test -mindepth 1 -type d 2>/dev/null || true
    find "$HULL_EXEC_ROOT"/{sandboxes,shims,handover} -mindepth 1 2>/dev/null || true
}
no_runtime_leftovers() { [ -z "$(runtime_leftovers)" ]; }
