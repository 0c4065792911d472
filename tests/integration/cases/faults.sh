# Starts and pulls in which a system call of Hull's fails: an answer or an error, and a clean host.

# A stand-in for a program of Hull's: the real one, under strace where there are options for it.
# strace holds its standard error open as long as it traces, so where somebody waits for the end of
# the program's, it gets another ("apart").
wrapper() {
    local program=$1 real=$2 at=$3 apart=${4:-}
    mkdir -p "$T/real"
    ln -s "$real" "$T/real/$(basename "$at")"
    {
        cat <<END
#!/bin/sh
PATH=$T/real:/usr/bin:/bin
[ -s $T/$program.options ] || exec $(basename "$at") "\$@"
trace="strace -D -f -q --seccomp-bpf -o $T/$program.trace \$(cat $T/$program.options)"
END
        if [ -n "$apart" ]; then
            cat <<END
\$trace sh -c 'to=\$1; shift; exec "\$@" 2>\$to' - /proc/\$\$/fd/2 $(basename "$at") "\$@" 2>/dev/null &
wait \$!
END
        else
            echo "exec \$trace $(basename "$at") \"\$@\""
        fi
    } >"$at"
    chmod +x "$at"
}

faulty_engine() {
    local libexec bin
    bin=$(dirname "$(command -v hulld)")
    libexec=$(realpath "$bin/../libexec/hull")
    mkdir "$T/libexec"
    ln -s "$libexec"/* "$T/libexec/"
    rm "$T/libexec/hull-vmm"
    wrapper hull-vmm "$libexec/hull-vmm" "$T/libexec/hull-vmm"
    wrapper shim "$bin/containerd-shim-hull-v2" "$T/containerd-shim-hull-v2" apart
    wrapper hull-unpack "$bin/hull-unpack" "$T/hull-unpack" apart
    kill "$(cat "$HARNESS/hulld.pid")"
    export HULL_LIBEXEC=$T/libexec
    hulld_start --shim "$T/containerd-shim-hull-v2" --unpack "$T/hull-unpack"
    unset HULL_LIBEXEC
}

faults() {
    command -v strace >/dev/null || skip 'no strace here'
    faulty_engine
    local status=0
    python3 tests/hostile/faults.py --image "$BUSYBOX" --pid-file "$HARNESS/hulld.pid" "$@" \
        --state "$HARNESS/run/sandboxes" --state "$HARNESS/run/bundles" --state "$HARNESS/run/shims" \
        --state "$HARNESS/state" "$T" || status=$?
    kill "$(cat "$HARNESS/hulld.pid")"
    hulld_start
    return $status
}
