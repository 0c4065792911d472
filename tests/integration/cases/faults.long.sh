# Starts in which a system call of Hull's fails: an answer or an error, and a clean host.
# seconds: 1500

# A stand-in for a program of Hull's: the real one, under strace where there are options for it.
wrapper() {
    local program=$1 real=$2 at=$3
    mkdir -p "$T/real"
    ln -s "$real" "$T/real/$(basename "$at")"
    cat >"$at" <<END
#!/bin/sh
PATH=$T/real:/usr/bin:/bin
[ -s $T/$program.options ] || exec $(basename "$at") "\$@"
exec strace -D -f -qq -o $T/$program.trace \$(cat $T/$program.options) $(basename "$at") "\$@"
END
    chmod +x "$at"
}

faulty_engine() {
    local libexec
    libexec=$(realpath "$(dirname "$(command -v hulld)")/../libexec/hull")
    mkdir "$T/libexec"
    ln -s "$libexec"/* "$T/libexec/"
    rm "$T/libexec/hull-vmm"
    wrapper hull-vmm "$libexec/hull-vmm" "$T/libexec/hull-vmm"
    wrapper shim "$(command -v containerd-shim-hull-v2)" "$T/containerd-shim-hull-v2"
    kill "$(cat "$HARNESS/hulld.pid")"
    export HULL_LIBEXEC=$T/libexec
    hulld_start --shim "$T/containerd-shim-hull-v2"
    unset HULL_LIBEXEC
}

case_a_failing_call_fails_or_spares_the_start() {
    command -v strace >/dev/null || skip 'no strace here'
    faulty_engine
    local status=0
    python3 tests/hostile/faults.py --image "$BUSYBOX" --attempts "${FAULTS:-6}" --seed "${FAULT_SEED:-5}" \
        --state "$HARNESS/run/sandboxes" --state "$HARNESS/run/bundles" --state "$HARNESS/state" "$T" || status=$?
    kill "$(cat "$HARNESS/hulld.pid")"
    hulld_start
    return $status
}
