//! libFuzzer's entry to `targets::usage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate_fuzz::targets::usage::check(input));
