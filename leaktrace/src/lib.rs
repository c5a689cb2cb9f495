//! leaktrace finds memory leaks in live processes: a kernel half (crate `leaktrace-ebpf`) hooks the
//! target's allocation functions with uprobes, this half reads what it found and names the code
//! path that leaks.
//!
//! The rooms, and which may use which, are in ARCHITECTURE.md.

#![deny(unsafe_code)]
#![cfg_attr(
    test,
    expect(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests panic to fail"
    )
)]

pub mod analyse;
pub mod cli;
pub mod collect;
pub mod model;
pub mod probe;
pub mod report;
pub mod symbolize;
pub mod target;
