//! See `siltstone::internals::fuzz::checkpoint_manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::checkpoint_manifest(bytes));
