//! See `siltstone::internals::fuzz::wal_batches`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::wal_batches(bytes));
