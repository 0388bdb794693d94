//! libFuzzer's entry to `targets::operation_match`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate_fuzz::targets::operation_match::check(input));
