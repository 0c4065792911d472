# Any call of a start or a pull fails, by chance.
# seconds: 3000

case_a_failing_call_fails_or_spares_what_is_done() {
    . tests/integration/cases/faults.sh
    faults --attempts "${HULL_FAULTS:-40}" ${HULL_FAULT_SEED:+--seed "$HULL_FAULT_SEED"}
}
