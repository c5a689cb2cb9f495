//! Does the real command, on real processes under the real kernel, say exactly what they leaked?
//!
//! Needs root, and fails without it. Every target is a program of `../programs` that knows its own
//! truth; every wait has a condition and a deadline.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod allocators;
mod bad_input;
mod budget;
mod check_frees;
mod chosen;
mod commands;
mod corrupt_objects;
mod discovery;
mod follow;
mod formats;
mod fuzz_corpus;
mod groups;
mod heap_check;
mod interrupted_calls;
mod languages;
mod ledger;
mod lifecycle;
mod links;
mod loaded_later;
mod mappings;
mod names;
mod namespaces;
mod own_allocators;
mod processes;
mod programs;
mod readme;
mod real_programs;
mod replaced_operators;
mod report;
mod run;
mod sampling;
mod shared;
mod soak;
mod stacks;
mod trace;
mod trust;
mod under_load;
mod windows;
