//! A mapped file, for its facts and its symbol tables.

#![no_main]

use leaktrace::symbolize::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::elf_facts(bytes));
