//! libFuzzer's entry to `targets::model_name`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tollgate_fuzz::targets::model_name::check(input));
