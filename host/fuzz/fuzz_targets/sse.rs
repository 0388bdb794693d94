//! libFuzzer's entry to `targets::sse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate_fuzz::targets::sse::check(input));
