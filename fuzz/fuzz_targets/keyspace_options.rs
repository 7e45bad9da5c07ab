//! See `siltstone::internals::fuzz::keyspace_options`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siltstone::internals::fuzz::keyspace_options(bytes));
