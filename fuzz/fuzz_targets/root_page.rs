//! See `siltstone::internals::fuzz::root_page`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::root_page(bytes));
