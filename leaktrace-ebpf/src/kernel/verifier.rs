//! The few instructions that Rust has no words for on this target.

/// Hides a value's range from the compiler, so that it keeps the mask behind this call: the
/// verifier has to see the mask to know the range.
#[inline(always)]
pub(crate) fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// All ones if `a <= b`, else 0, of numbers below 2^63: a choice without a branch, which would
/// double what the verifier has to look at.
#[inline(always)]
pub(crate) fn mask_if_at_most(a: u64, b: u64) -> u64 {
    let mut sign = b.wrapping_sub(a);
    // SAFETY: an arithmetic shift; the compiler would make it a comparison and a branch.
    unsafe {
        core::arch::asm!("{0} s>>= 63", inout(reg) sign, options(pure, nomem, nostack));
    }
    !sign
}

/// All ones, but 0 if `a` is 0: without a branch, as [`mask_if_at_most`].
#[inline(always)]
pub(crate) fn mask_unless_0(a: u64) -> u64 {
    let mut sign = a | a.wrapping_neg();
    // SAFETY: as there.
    unsafe {
        core::arch::asm!("{0} s>>= 63", inout(reg) sign, options(pure, nomem, nostack));
    }
    sign
}

/// `value`, of which the verifier knows nothing any more: ways that come together behind this are
/// one to it. `zero` is 0, and the verifier does not know that.
#[inline(always)]
pub(crate) fn forget(mut value: u64, zero: u64) -> u64 {
    // SAFETY: no memory is touched. Not `pure`, or it would move to where the value is used.
    unsafe {
        core::arch::asm!("{0} ^= {1}", inout(reg) value, in(reg) zero, options(nomem, nostack));
    }
    value
}
