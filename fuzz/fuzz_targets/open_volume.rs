//! See `siltstone::internals::fuzz::open_volume`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::open_volume(bytes));
