# The suites of isolation, at length.
# seconds: 3000

case_hostile_guests_end_as_the_table_says() {
    . tests/integration/cases/suites.sh
    suite hostile
}

case_a_vmm_that_runs_a_guest_gets_nowhere() {
    . tests/integration/cases/suites.sh
    suite inside
}

case_the_jail_holds_in_every_way() {
    . tests/integration/cases/suites.sh
    suite jail
}

case_many_random_lives_leave_nothing() {
    . tests/integration/cases/leaks.sh
    random_lives "${HULL_LEAK_STEPS:-300}" "${HULL_LEAK_SEED:-}" --even
}
