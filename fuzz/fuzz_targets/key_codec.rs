//! See `siltstone::internals::fuzz::key_codec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::key_codec(bytes));
