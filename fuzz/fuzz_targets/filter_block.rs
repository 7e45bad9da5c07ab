//! See `siltstone::internals::fuzz::filter_block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::filter_block(bytes));
