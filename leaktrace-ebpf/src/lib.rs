//! What both halves of leaktrace share: the records that cross from the kernel to userspace, and
//! the rules of the ledger as plain functions.
//!
//! Everything here compiles for the BPF target and for the host, so that the very code that runs
//! at each allocation of the target is also what the tests hold against a naive model. It never
//! touches a BPF map, a helper or a register: those are in the `leaktrace-ebpf` binary.

#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]
#![cfg_attr(
    test,
    expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests panic to fail")
)]

pub mod atomic;
pub mod blocks;
pub mod calls;
pub mod cookie;
pub mod family;
pub mod ledger;
pub mod records;
pub mod sampling;
pub mod stack_id;
pub mod stacks;
pub mod timing;
pub mod trial;
pub mod unwind;
