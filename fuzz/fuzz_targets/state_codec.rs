//! See `siltstone::internals::fuzz::state_codec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::state_codec(bytes));
