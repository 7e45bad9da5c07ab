//! See `siltstone::internals::fuzz::log_block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::log_block(bytes));
