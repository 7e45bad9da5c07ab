//! See `siltstone::internals::fuzz::sst_footer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::sst_footer(bytes));
