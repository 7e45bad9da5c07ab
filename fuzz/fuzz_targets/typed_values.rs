//! See `siltstone::internals::fuzz::typed_values`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::typed_values(bytes));
