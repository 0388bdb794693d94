//! libFuzzer's entry to `targets::ndjson`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate_fuzz::targets::ndjson::check(input));
