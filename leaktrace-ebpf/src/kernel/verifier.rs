//! The few instructions that Rust has no words for on this target.

/// Hides a value's range from the compiler, so that it keeps the mask behind this call: the
/// verifier has to see the mask to know the range.
#[inline(always)]
pub(crate) fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// `*place += n`, whole even when handlers on other CPUs do the same.
///
/// # Safety
///
/// `place` points to eight aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn add(place: *mut u64, n: u64) {
    // SAFETY: the BPF atomic add, on a place that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({0} + 0) += {1}",
            in(reg) place,
            in(reg) n,
            options(nostack)
        );
    }
}
