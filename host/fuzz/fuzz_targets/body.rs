//! libFuzzer's entry to `targets::body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate_fuzz::targets::body::check(input));
