//! Changes in one step to memory that several CPUs write.
//!
//! The BPF target has the instructions (Linux 5.12), but Rust knows no atomics there.

/// Puts `to` in the place of `from`; returns what was there.
///
/// # Safety
///
/// `place` points to an aligned word that lives through the call and is shared only by such means.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn exchange(place: *mut u64, from: u64, to: u64) -> u64 {
    let was;
    // SAFETY: the BPF compare-and-exchange, on a place that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({0} + 0, r0, {1})",
            in(reg) place,
            in(reg) to,
            inout("r0") from => was,
            options(nostack)
        );
    }
    was
}

/// Adds to a word, wrapping.
///
/// # Safety
///
/// As for [`exchange`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn add(place: *mut u64, n: u64) {
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

/// Adds to a word, wrapping; returns what was there.
///
/// # Safety
///
/// As for [`exchange`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn fetch_add(place: *mut u64, n: u64) -> u64 {
    let mut n = n;
    // SAFETY: as above; what was there comes in the register of what is added.
    unsafe {
        core::arch::asm!(
            "{1} = atomic_fetch_add((u64 *)({0} + 0), {1})",
            in(reg) place,
            inout(reg) n,
            options(nostack)
        );
    }
    n
}

/// See the variant for BPF.
///
/// # Safety
///
/// As there.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub unsafe fn exchange(place: *mut u64, from: u64, to: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};
    // SAFETY: the caller vouches for it.
    let word = unsafe { AtomicU64::from_ptr(place) };
    match word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire) {
        Ok(was) | Err(was) => was,
    }
}

/// See the variant for BPF.
///
/// # Safety
///
/// As there.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub unsafe fn add(place: *mut u64, n: u64) {
    // SAFETY: as here.
    unsafe { fetch_add(place, n) };
}

/// See the variant for BPF.
///
/// # Safety
///
/// As there.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub unsafe fn fetch_add(place: *mut u64, n: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};
    // SAFETY: the caller vouches for it.
    unsafe { AtomicU64::from_ptr(place) }.fetch_add(n, Ordering::AcqRel)
}
