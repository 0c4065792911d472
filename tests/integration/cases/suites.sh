# Guests that attack their VMM, and a VMM that was taken over, where all other cases run: nothing is skipped
# there. The whole of them is in isolation.long.

# suite NAME [ARGUMENT...]
suite() {
    local program=target/suites/$1
    shift
    [ -x "$program" ] || fail "$program is missing: tests/hostile/build makes it"
    HULL_SUITES_STRICT=1 "$program" "$@"
}

# One for each kind of device and layer.
# Core.
case_hostile_guests_in_short() {
    suite hostile heads_out_of_range vsock_headers_that_lie names_without_an_end triple_fault
}

# Core.
case_a_vmm_that_was_taken_over_gets_nowhere() {
    suite drill each_attempt_is_stopped
}
