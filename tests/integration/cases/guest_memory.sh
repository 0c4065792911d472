# What the guest's kernel does with memory that nobody uses.

# Core.
case_free_pages_do_not_pile_up_per_cpu() {
    capture hull run --rm "$BUSYBOX" cat /proc/sys/vm/percpu_pagelist_high_fraction
    expect_status 0
    expect_out $'1000\n'
}
