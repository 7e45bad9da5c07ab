//! See `siltstone::internals::fuzz::index_block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::index_block(bytes));
