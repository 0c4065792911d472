# The wall clock of a guest is the host's.

between() { [ "$1" -le "$2" ] && [ "$2" -le "$3" ]; }
# Whether the container's time lies within the host's two seconds.
same_time() {
    local before guest after
    before=$(date +%s)
    guest=$(hull exec "$1" date +%s) || return 1
    after=$(date +%s)
    between $((before - 1)) "$guest" $((after + 1))
}

case_the_guest_follows_a_clock_that_is_set() {
    hull run -d --name t-clock "$BUSYBOX" sleep 600 >/dev/null
    same_time t-clock || fail 'another time from the start'
    local boot uptime
    boot=$(hull exec t-clock cut -d. -f1 /proc/uptime)
    # The machine keeps its time whatever becomes of this case.
    trap 'date -s "@$(($(date +%s) - moved))" >/dev/null' EXIT
    local moved
    for moved in 86400 -7200; do
        date -s "@$(($(date +%s) + moved))" >/dev/null
        wait_for 20 same_time t-clock || fail "after $moved s the host has $(date), the guest $(hull exec t-clock date)"
        date -s "@$(($(date +%s) - moved))" >/dev/null
        wait_for 20 same_time t-clock || fail "back from $moved s the host has $(date), the guest $(hull exec t-clock date)"
    done
    moved=0
    # Only the wall clock jumps.
    uptime=$(hull exec t-clock cut -d. -f1 /proc/uptime)
    between "$boot" "$uptime" $((boot + 300)) || fail "the guest's uptime went from $boot to $uptime"
    hull rm -f t-clock >/dev/null
}

# Whoever may set the clock of a VM has a time of its own there, and nobody else has it.
case_a_container_with_a_time_of_its_own() {
    hull run -d --name t-own-time --cap-add SYS_TIME "$BUSYBOX" sleep 600 >/dev/null
    hull exec t-own-time date -s '2001-02-03 04:05:06' >/dev/null || fail 'the clock cannot be set'
    expect_eq "$(hull exec t-own-time date +%Y)" 2001 'the year'
    [ "$(date +%Y)" -gt 2020 ] || fail 'the host has the time of a container'
    expect_eq "$(hull run --rm "$BUSYBOX" date +%Y)" "$(date +%Y)" "another container's year"
    expect_eq "$(hull run --rm "$BUSYBOX" sh -c 'date -s "2001-02-03 04:05:06" >/dev/null 2>&1; date +%Y')" "$(date +%Y)" 'the year, set without the right'
    hull rm -f t-own-time >/dev/null
}
