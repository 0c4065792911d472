# Starts and pulls in which a system call of Hull's fails: an answer or an error, and a clean host.

# traced PROGRAM OPTIONS FILE AT: Hull's FILE, under strace where there are options for it.
traced() {
    local program=$1 options=$2 file=$3 at=$4
    ln -s "$file" "$T/real/$program"
    cat >"$at" <<END
#!/bin/sh
[ -s $T/$program.options ] || exec $T/real/$program "\$@"
exec /usr/bin/strace -D -q $options -o $T/$program.trace \$(cat $T/$program.options) $T/real/$program "\$@"
END
    chmod +x "$at"
}

# The serving shim is another process than the one that is started, and is attached to before anybody
# has its address.
attached_shim() {
    traced start '' "$1" "$T/shim-start"
    cat >"$T/shim" <<END
#!/bin/sh
address=\$($T/shim-start "\$@") || exit
for last; do :; done
if [ -s $T/shim.options ] && [ "\$last" = start ]; then
    while [ "\$1" != -id ]; do shift; done
    server=\$(pgrep -f -- "-id \$2 -bundle")
    strace -q -o $T/shim.trace \$(cat $T/shim.options) -p "\$server" >/dev/null 2>&1 &
    until grep -q 'TracerPid:.*[1-9]' /proc/\$server/status; do sleep 0.05; done
fi
printf %s "\$address"
END
    chmod +x "$T/shim"
}

faulty_engine() {
    local libexec bin
    bin=$(dirname "$(command -v hulld)")
    libexec=$(realpath "$bin/../libexec/hull")
    mkdir "$T/libexec" "$T/real"
    ln -s "$libexec"/* "$T/libexec/"
    rm "$T/libexec/hull-vmm"
    # Its own filter would end it for a call that strace takes away, but not strace's filter.
    traced hull-vmm '-f --seccomp-bpf' "$libexec/hull-vmm" "$T/libexec/hull-vmm"
    traced hull-unpack '' "$bin/hull-unpack" "$T/hull-unpack"
    attached_shim "$bin/containerd-shim-hull-v2"
    engine_ends
    cat >"$T/restart" <<END
cd '$PWD'; HARNESS='$HARNESS' HULL_HOST='$HULL_HOST' HULL_LIBEXEC='$T/libexec'; export HULL_LIBEXEC
. tests/integration/harness.sh; hulld_start --shim '$T/shim' --unpack '$T/hull-unpack'
END
    bash "$T/restart"
}

engine_ends() {
    local pid
    pid=$(cat "$HARNESS/hulld.pid")
    kill "$pid" 2>/dev/null || return 0
    wait_for 20 sh -c "! kill -0 $pid 2>/dev/null" || fail "the engine does not stop"
}

faults() {
    command -v strace >/dev/null || skip 'no strace here'
    faulty_engine
    local status=0
    python3 tests/hostile/faults.py --image "$BUSYBOX" --pid-file "$HARNESS/hulld.pid" "$@" \
        --restart-hulld "bash $T/restart" \
        --state "$HARNESS/run/sandboxes" --state "$HARNESS/run/bundles" --state "$HARNESS/run/shims" \
        --state "$HARNESS/state" "$T" || status=$?
    [ "$status" = 0 ] || grep -A 20 panicked "$HARNESS/hulld.log" || true
    engine_ends
    hulld_start
    return $status
}
