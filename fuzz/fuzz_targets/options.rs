//! See `siltstone::internals::fuzz::options`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::options(bytes));
