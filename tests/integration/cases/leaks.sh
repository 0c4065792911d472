# Random lives of containers against a model: nothing is left, whoever was killed.
# seconds: 1500

restart() { cat <<END
cd '$PWD'; HARNESS='$HARNESS' HULL_HOST='$HULL_HOST'; . tests/integration/harness.sh; hulld_start
END
}

random_lives() {
    restart >"$T/restart"
    python3 tests/hostile/leaks.py --image "$BUSYBOX" --steps "$1" ${2:+--seed "$2"} \
        --restart-hulld "bash $T/restart" --pid-file "$HARNESS/hulld.pid" \
        --state "$HARNESS/run/sandboxes" --state "$HARNESS/run/bundles" --state "$HARNESS/state"
}

# Core.
case_random_lives_leave_nothing() {
    random_lives "${HULL_LEAK_STEPS:-10}" "${HULL_LEAK_SEED:-8}"
}
