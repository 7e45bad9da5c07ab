use std::cmp::Reverse;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::types::Kind;

#[test]
fn empty() {
    assert!(Memtable::new().is_empty());
}
