//! A section `.eh_frame`, for its unwind table.

#![no_main]

use leaktrace::target::unwind::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::eh_frame(bytes));
