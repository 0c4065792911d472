# What the guest's kernel does with memory that nobody uses.

# Core.
case_free_pages_do_not_pile_up_per_cpu() {
    capture hull run --rm "$BUSYBOX" cat /proc/sys/vm/percpu_pagelist_high_fraction
    expect_status 0
    expect_out $'1000\n'
}

# usage: resident PID: MiB of a process in memory.
resident() { awk '/^Rss:/ { print int($2 / 1024) }' "/proc/$1/smaps_rollup"; }

# What a container has freed is the host's again, and the container's when it wants it.
case_what_a_container_frees_goes_back_to_the_host() {
    local vmm before total
    registry_push "$IMAGES/python" "$REGISTRY/python:latest" && hull pull -q "$REGISTRY/python:latest" >/dev/null
    hull run -d --name t-memory -m 1g --network none "$REGISTRY/python:latest" sleep 600 >/dev/null
    vmm=$(pgrep -x hull-vmm)
    total=$(hull exec t-memory grep MemTotal /proc/meminfo)
    before=$(resident "$vmm")
    for _ in 1 2; do
        capture timeout 120 hull exec t-memory python3 -c 'b = bytearray(400 << 20); b[::4096] = b"x" * (100 << 10); print(sum(b[::4096]))'
        expect_out $'12288000\n'
        [ "$(resident "$vmm")" -gt $((before + 200)) ] || fail "$before MiB before, $(resident "$vmm") MiB with 400 in use"
        wait_for 60 sh -c "[ \$(awk '/^Rss:/ { print int(\$2 / 1024) }' /proc/$vmm/smaps_rollup) -lt $((before + 100)) ]" ||
            fail "$before MiB before, $(resident "$vmm") MiB after"
    done
    expect_eq "$(hull exec t-memory grep MemTotal /proc/meminfo)" "$total" 'what the guest has'
    hull rm -f t-memory >/dev/null
}
