//! The perf map of a process with generated code.

#![no_main]

use leaktrace::symbolize::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::perf_map(bytes));
