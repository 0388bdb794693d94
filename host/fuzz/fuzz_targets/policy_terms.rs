//! libFuzzer's entry to the target `policy_terms` of `policies`.
#![no_main]

use std::sync::LazyLock;

use tollgate_fuzz::policies::{self, Bench};

static BENCH: LazyLock<Bench> = LazyLock::new(|| Bench::new(tollgate_fuzz::component));

libfuzzer_sys::fuzz_target!(|input: &[u8]| policies::policy_terms(&BENCH, input));
