//! The counters of edges that the compiler puts into Hull's crates (`tests/fuzz/instrumented`).
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

static FIRST: AtomicPtr<AtomicU8> = AtomicPtr::new(std::ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Called before `main`, once by each part of the program, always with the same bounds.
#[no_mangle]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut AtomicU8, stop: *mut AtomicU8) {
    FIRST.store(start, Ordering::Relaxed);
    COUNT.store(stop.addr() - start.addr(), Ordering::Relaxed);
}

/// One counter for each edge; none in a program that was built without them.
pub(crate) fn counters() -> &'static [AtomicU8] {
    let (first, count) = (FIRST.load(Ordering::Relaxed), COUNT.load(Ordering::Relaxed));
    if first.is_null() {
        return &[];
    }
    // SAFETY: the linker made an array of `count` bytes at `first`, which lives as long as the
    // program. The code that counts writes single bytes, and every value of a byte is one.
    unsafe { std::slice::from_raw_parts(first, count) }
}
