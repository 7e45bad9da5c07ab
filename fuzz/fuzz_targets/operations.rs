//! See `siltstone::internals::fuzz::operations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::operations(bytes));
