# Random lives of containers against a model: nothing is left, whoever was killed.
# seconds: 1500

restart() { cat <<END
cd '$PWD'; HARNESS='$HARNESS' HULL_HOST='$HULL_HOST'; . tests/integration/harness.sh; hulld_start
END
}

# random_lives STEPS [SEED [OPTIONS]]
random_lives() {
    restart >"$T/restart"
    python3 tests/hostile/leaks.py --image "$BUSYBOX" --steps "$1" ${2:+--seed "$2"} $3 \
        --restart-hulld "bash $T/restart" --pid-file "$HARNESS/hulld.pid" \
        --state "$HARNESS/run/sandboxes" --state "$HARNESS/run/bundles" --state "$HARNESS/state"
}

# Core.
# An emulated machine gets as far as three minutes let it; what is around them takes two more there.
case_random_lives_leave_nothing() {
    local bound=
    grep -q 'QEMU TCG' /proc/cpuinfo && bound="--seconds ${HULL_LEAK_SECONDS:-180}"
    random_lives "${HULL_LEAK_STEPS:-300}" "${HULL_LEAK_SEED:-8}" "$bound"
}
