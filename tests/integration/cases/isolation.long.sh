# The suites of isolation, at length.
# seconds: 3000

case_hostile_guests_end_as_the_table_says() {
    local suite
    suite=$(ls -t target/*/deps/hostile-* 2>/dev/null | grep -v '\.d$' | head -n 1)
    [ -n "$suite" ] || skip "no hostile guests: \`cargo test --no-run -p hull-vmm --test hostile\` builds them"
    "$suite"
}

case_many_random_lives_leave_nothing() {
    . tests/integration/cases/leaks.sh
    random_lives "${HULL_LEAK_STEPS:-300}" "${HULL_LEAK_SEED:-}"
}
