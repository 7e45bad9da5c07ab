//! See `siltstone::internals::fuzz::log_walk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::log_walk(bytes));
