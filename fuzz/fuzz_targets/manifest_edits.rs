//! See `siltstone::internals::fuzz::manifest_edits`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::manifest_edits(bytes));
