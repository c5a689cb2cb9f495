//! A section `.debug_frame`, for its unwind table.

#![no_main]

use leaktrace::target::unwind::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::debug_frame(bytes));
