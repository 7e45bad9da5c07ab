//! Side-by-side harness.

fn main() {}
