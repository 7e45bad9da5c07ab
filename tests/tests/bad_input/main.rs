//! Wrong input and failing devices: every one gets a typed error that says what is wrong and where, and none gets wrong data or a panic.
//!
//! | file | what is wrong |
//! |---|---|
//! | `foreign` | a volume that is not one, or of another version, or cut off |
//! | `damage` | a flipped bit in each kind of block |
//! | `options` | options, keys, names and values out of range |
//! | `access` | paths that cannot be opened, volumes that are in use |
//! | `space` | full disks, real and simulated |
//! | `faults` | reads, writes and flushes that fail |

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod damage;
mod faults;
mod foreign;
mod image;
mod options;
mod space;
mod support;
