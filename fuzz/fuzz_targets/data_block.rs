//! See `siltstone::internals::fuzz::data_block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::data_block(bytes));
