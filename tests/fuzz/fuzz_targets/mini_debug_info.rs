//! A section `.gnu_debugdata`, for the functions in it.

#![no_main]

use leaktrace::symbolize::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::mini_debug_info(bytes));
