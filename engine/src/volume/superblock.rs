//! The superblock: what a volume is, and where each shard's metadata begins.
//!
//! # Layout
//!
//! Four copies, 4096 bytes each whatever the page size, at 0, 16, 32 and 48 KiB of extent 0. All integers little-endian.
//!
//! ```text
//! offset  bytes
//!      0      8  magic "SILTSTON"
//!      8      4  format version: 1
//!     12      4  CRC32C over the volume id, the copy's own device offset, and the copy with this field zero
//!     16     16  volume id
//!     32      8  generation, 1 and up; of two valid copies the higher counts
//!     40      4  page bytes
//!     44      4  extent bytes
//!     48      4  key groups
//!     52      4  shards, 0 .. 256
//!     56      8  capacity in bytes: space behind it is not used; 0 where the device's end is the only bound
//!     64   1024  root extent of each shard, u32 each; zero past the last
//!   1088     64  what was measured of the device ([`super::profile`]); zero where nothing was
//!   1152   2944  zero
//! ```
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |
//!
//! # Writing
//!
//! 1. Copies 0 and 1, then a flush.
//! 2. Copies 2 and 3, then a flush.
//!
//! At every moment two copies are at rest, so a crash leaves at least
//! two whole ones, all of the old generation or some of the new.
//!
//! # A volume in creation
//!
//! The first generation has no shards: it is written before anything else, and the one that names the root extents last. A crash in between
//! leaves a superblock without shards, or an area that was never written ([`super::Contents::Blank`]): both may be created over.

use super::bytes::{array_at, is_zero, placed_crc, put_u32, put_u64, u32_at, u64_at};
use super::profile::{IoProfile, PROFILE_BYTES};
use crate::types::ExtentId;

/// Bytes of one copy.
pub(crate) const SUPERBLOCK_BYTES: usize = 4096;
/// The most shards that a volume can have.
pub(crate) const SHARDS_MAX: usize = 256;
/// The format version that this build reads and writes.
pub(crate) const VERSION: u32 = 1;
/// Bounds of the extent size: the copies fit into the smallest.
pub(crate) const EXTENT_BYTES_MIN: u32 = 64 << 10;
pub(crate) const EXTENT_BYTES_MAX: u32 = 16 << 20;
/// Bounds of the page size.
pub(crate) const PAGE_BYTES_MIN: u32 = 512;
pub(crate) const PAGE_BYTES_MAX: u32 = 64 << 10;
/// The most writes of the superblock: SST identities have 24 bits for the generation.
pub(crate) const GENERATION_MAX: u64 = (1 << 24) - 1;
/// The most key groups: they are numbered with 16 bits.
pub(crate) const KEY_GROUPS_MAX: u32 = 1 << 16;

pub(super) const COPIES: usize = 4;
pub(super) const COPY_SPACING_BYTES: usize = 16 << 10;
/// Bytes from the start of the device that hold all copies.
pub(super) const AREA_BYTES: usize = (COPIES - 1) * COPY_SPACING_BYTES + SUPERBLOCK_BYTES;

const MAGIC: [u8; 8] = *b"SILTSTON";
const VERSION_AT: usize = 8;
pub(crate) const CRC_AT: usize = 12;
pub(crate) const VOLUME_AT: usize = 16;
const GENERATION_AT: usize = 32;
const PAGE_BYTES_AT: usize = 40;
const EXTENT_BYTES_AT: usize = 44;
const KEY_GROUPS_AT: usize = 48;
const SHARDS_AT: usize = 52;
const CAPACITY_AT: usize = 56;
pub(crate) const ROOTS_AT: usize = 64;
const PROFILE_AT: usize = ROOTS_AT + 4 * SHARDS_MAX;
const PROFILE_END: usize = PROFILE_AT + PROFILE_BYTES;

const _: () = assert!(PROFILE_END <= SUPERBLOCK_BYTES && AREA_BYTES <= EXTENT_BYTES_MIN as usize);

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Drawn at random when the volume is created.
    pub(crate) volume: [u8; 16],
    /// Counts the writes of the superblock.
    pub(crate) generation: u64,
    /// The unit of a block, a power of two.
    pub(crate) page_bytes: u32,
    /// The unit of space, a power of two.
    pub(crate) extent_bytes: u32,
    /// The number of key groups.
    pub(crate) key_groups: u32,
    /// No space behind this is used; 0 where the device's end is the only bound.
    pub(crate) capacity_bytes: u64,
    /// The root extent of each shard; none while the volume is being created.
    pub(crate) roots: Vec<ExtentId>,
    /// What was measured of the device.
    pub(crate) profile: Option<IoProfile>,
}

impl Superblock {
    /// The superblock of the next generation, with these shards.
    pub(crate) fn next(&self, roots: Vec<ExtentId>) -> Superblock {
        Superblock { generation: self.generation + 1, roots, ..self.clone() }
    }

    /// Checks sizes and counts; gives what is wrong. The same for options of a new volume and for what is read.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let in_range = |what: &str, value: u32, min: u32, max: u32| {
            let ok = value.is_power_of_two() && (min..=max).contains(&value);
            if ok {
                Ok(())
            } else {
                Err(format!("{what} of {value} bytes: a power of two from {min} to {max} is allowed"))
            }
        };
        in_range("a page", self.page_bytes, PAGE_BYTES_MIN, PAGE_BYTES_MAX)?;
        in_range("an extent", self.extent_bytes, EXTENT_BYTES_MIN, EXTENT_BYTES_MAX)?;
        if !(1..=KEY_GROUPS_MAX).contains(&self.key_groups) {
            return Err(format!("{} key groups: 1 to {KEY_GROUPS_MAX} are allowed", self.key_groups));
        }
        if self.roots.len() > SHARDS_MAX {
            return Err(format!("{} shards: at most {SHARDS_MAX} are allowed", self.roots.len()));
        }
        if self.generation == 0 || self.generation > GENERATION_MAX {
            return Err(format!("generation {} is out of range", self.generation));
        }
        if self.capacity_bytes > 0 && self.capacity_bytes < 2 * u64::from(self.extent_bytes) {
            return Err(format!("a capacity of {} bytes is less than two extents", self.capacity_bytes));
        }
        if let Some(shard) = self.roots.iter().position(|root| root.0 == 0) {
            return Err(format!("shard {shard} has no root extent"));
        }
        self.profile.as_ref().map_or(Ok(()), IoProfile::check)
    }

    /// Encodes the copy that stands at `offset`.
    pub(crate) fn encode(&self, offset: u64, page: &mut [u8]) {
        assert_eq!(page.len(), SUPERBLOCK_BYTES);
        assert_eq!(self.check(), Ok(()), "a superblock is checked before it is written");
        page.fill(0);
        page[..8].copy_from_slice(&MAGIC);
        put_u32(page, VERSION_AT, VERSION);
        page[VOLUME_AT..VOLUME_AT + 16].copy_from_slice(&self.volume);
        put_u64(page, GENERATION_AT, self.generation);
        put_u32(page, PAGE_BYTES_AT, self.page_bytes);
        put_u32(page, EXTENT_BYTES_AT, self.extent_bytes);
        put_u32(page, KEY_GROUPS_AT, self.key_groups);
        put_u32(page, SHARDS_AT, self.roots.len() as u32);
        put_u64(page, CAPACITY_AT, self.capacity_bytes);
        for (shard, root) in self.roots.iter().enumerate() {
            put_u32(page, ROOTS_AT + 4 * shard, root.0);
        }
        if let Some(profile) = &self.profile {
            profile.encode(&mut page[PROFILE_AT..PROFILE_END]);
        }
        let crc = placed_crc(&self.volume, offset, page, CRC_AT);
        put_u32(page, CRC_AT, crc);
    }

    /// Decodes the copy that stands at `offset`.
    fn decode(offset: u64, page: &[u8]) -> std::result::Result<Superblock, Defect> {
        assert_eq!(page.len(), SUPERBLOCK_BYTES);
        if page[..8] != MAGIC {
            return Err(Defect::NoMagic);
        }
        // The version comes before the checksum: another version may check itself in another way.
        let version = u32_at(page, VERSION_AT);
        if version != VERSION {
            return Err(Defect::Version(version));
        }
        let volume = array_at(page, VOLUME_AT);
        let crc = placed_crc(&volume, offset, page, CRC_AT);
        if crc != u32_at(page, CRC_AT) {
            return Err(Defect::Damaged(format!("checksum {:08x}, computed {crc:08x}", u32_at(page, CRC_AT))));
        }
        let shards = u32_at(page, SHARDS_AT) as usize;
        if shards > SHARDS_MAX {
            return Err(Defect::Damaged(format!("{shards} shards")));
        }
        let roots_end = ROOTS_AT + 4 * shards;
        if !is_zero(&page[roots_end..PROFILE_AT]) || !is_zero(&page[PROFILE_END..]) {
            return Err(Defect::Damaged("reserved bytes are not zero".into()));
        }
        let superblock = Superblock {
            volume,
            generation: u64_at(page, GENERATION_AT),
            page_bytes: u32_at(page, PAGE_BYTES_AT),
            extent_bytes: u32_at(page, EXTENT_BYTES_AT),
            key_groups: u32_at(page, KEY_GROUPS_AT),
            capacity_bytes: u64_at(page, CAPACITY_AT),
            roots: (0..shards).map(|shard| ExtentId(u32_at(page, ROOTS_AT + 4 * shard))).collect(),
            profile: IoProfile::decode(&page[PROFILE_AT..PROFILE_END]),
        };
        superblock.check().map_err(Defect::Damaged)?;
        Ok(superblock)
    }
}

/// What the copies say.
pub(super) enum Found {
    /// A volume.
    Volume(Superblock),
    /// A version that this build does not know.
    Version(u32),
}

/// Why a copy does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// It does not begin with the magic.
    NoMagic,
    /// It has another version.
    Version(u32),
    /// It is not what was written.
    Damaged(String),
}

impl Defect {
    pub(super) fn reason(&self) -> String {
        match self {
            Defect::NoMagic => "no magic".into(),
            Defect::Version(version) => format!("version {version}"),
            Defect::Damaged(reason) => reason.clone(),
        }
    }
}

pub(super) fn copy_offset(copy: usize) -> u64 {
    (copy * COPY_SPACING_BYTES) as u64
}

/// The newest whole copy, or else another version that at least two copies (so not one damaged field) agree on; and what is wrong with the others.
pub(super) fn defects_of_copies(area: &[u8]) -> Vec<(usize, String)> {
    let decoded = (0..COPIES).map(|copy| {
        let offset = copy_offset(copy);
        (copy, Superblock::decode(offset, &area[offset as usize..][..SUPERBLOCK_BYTES]))
    });
    decoded.filter_map(|(copy, result)| result.err().map(|defect| (copy, defect.reason()))).collect()
}

/// What the copies in this area say: the newest whole one, else a version that they agree on; and why the others do not count.
pub(super) fn judge(area: &[u8]) -> (Vec<Defect>, Option<Found>) {
    let mut newest: Option<Superblock> = None;
    let mut defects = Vec::new();
    for copy in 0..COPIES {
        let offset = copy_offset(copy);
        match Superblock::decode(offset, &area[offset as usize..][..SUPERBLOCK_BYTES]) {
            Ok(superblock) if newest.as_ref().is_none_or(|newest| newest.generation < superblock.generation) => {
                if newest.is_some() {
                    mark!(SuperblockCopiesDiffer);
                }
                newest = Some(superblock);
            }
            Ok(superblock) => {
                if newest.as_ref().is_some_and(|newest| newest.generation != superblock.generation) {
                    mark!(SuperblockCopiesDiffer);
                }
            }
            Err(defect) => defects.push(defect),
        }
    }
    if let Some(newest) = newest {
        return (defects, Some(Found::Volume(newest)));
    }
    let versions: Vec<u32> =
        defects.iter().filter_map(|defect| if let Defect::Version(v) = defect { Some(*v) } else { None }).collect();
    let agreed = versions.iter().copied().find(|version| versions.iter().filter(|v| *v == version).count() >= 2);
    (defects, agreed.map(Found::Version))
}

/// Whether the first copy is what was written.
pub(super) fn first_copy_is_whole(area: &[u8]) -> bool {
    Superblock::decode(0, &area[..SUPERBLOCK_BYTES]).is_ok()
}

/// Whether the first superblock of this area cannot have been written in full: the second pair of copies is untouched, and what
/// the first pair holds is nothing, or torn copies of a superblock without shards, which is zero from [`ROOTS_AT`] on.
pub(super) fn was_never_finished(area: &[u8]) -> bool {
    let copy = |copy: usize| &area[copy_offset(copy) as usize..][..SUPERBLOCK_BYTES];
    let torn = |page: &[u8]| {
        page[..8].iter().zip(MAGIC).all(|(&found, magic)| found == magic || found == 0) && is_zero(&page[ROOTS_AT..])
    };
    let outside_is_zero = (0..COPIES).all(|copy| {
        let end = copy * COPY_SPACING_BYTES + SUPERBLOCK_BYTES;
        is_zero(&area[end..area.len().min((copy + 1) * COPY_SPACING_BYTES)])
    });
    is_zero(copy(2)) && is_zero(copy(3)) && torn(copy(0)) && torn(copy(1)) && outside_is_zero
}

#[cfg(test)]
mod tests {
    use super::super::profile::tests::any_profile;
    use super::*;
    use proptest::prelude::*;

    fn superblock() -> Superblock {
        Superblock {
            volume: *b"0123456789abcdef",
            generation: 7,
            page_bytes: 4096,
            extent_bytes: 1 << 20,
            key_groups: 1024,
            capacity_bytes: 0,
            roots: vec![ExtentId(1), ExtentId(2)],
            profile: None,
        }
    }

    fn area(copies: &[(usize, &Superblock)]) -> Vec<u8> {
        let mut area = vec![0; AREA_BYTES];
        for (copy, superblock) in copies {
            let offset = copy_offset(*copy);
            superblock.encode(offset, &mut area[offset as usize..][..SUPERBLOCK_BYTES]);
        }
        area
    }

    fn found(area: &[u8]) -> Option<Superblock> {
        match judge(area).1 {
            Some(Found::Volume(superblock)) => Some(superblock),
            _ => None,
        }
    }

    #[test]
    fn the_newest_whole_copy_counts() {
        let old = superblock();
        let new = old.next(vec![ExtentId(5)]);
        let mut area = area(&[(0, &new), (1, &old), (2, &old), (3, &old)]);
        assert_eq!(found(&area), Some(new));
        area[100] ^= 1;
        assert_eq!(found(&area), Some(old));
    }

    #[test]
    fn a_copy_at_the_place_of_another_does_not_pass() {
        let mut page = vec![0; SUPERBLOCK_BYTES];
        superblock().encode(0, &mut page);
        assert_eq!(Superblock::decode(0, &page), Ok(superblock()));
        assert!(matches!(Superblock::decode(16384, &page), Err(Defect::Damaged(_))));
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut area = area(&[(0, &superblock()), (1, &superblock()), (2, &superblock()), (3, &superblock())]);
        for copy in 0..COPIES {
            put_u32(&mut area, copy * COPY_SPACING_BYTES + VERSION_AT, 9);
        }
        assert!(matches!(judge(&area).1, Some(Found::Version(9))));
        for copy in 1..COPIES {
            put_u32(&mut area, copy * COPY_SPACING_BYTES, 0);
        }
        assert!(judge(&area).1.is_none(), "one copy alone may be a damaged version field");
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let mut page = vec![0; SUPERBLOCK_BYTES];
        superblock().encode(0, &mut page);
        for at in (0..page.len()).step_by(if cfg!(miri) { 499 } else { 1 }) {
            page[at] ^= 0x10;
            assert!(Superblock::decode(0, &page).is_err(), "byte {at}");
            page[at] ^= 0x10;
        }
    }

    #[test]
    fn a_profile_that_no_probe_makes_and_bytes_behind_it_are_damage() {
        let damaged = |at: usize| {
            let mut page = vec![0; SUPERBLOCK_BYTES];
            superblock().encode(0, &mut page);
            page[at] = 1;
            let crc = placed_crc(&superblock().volume, 0, &page, CRC_AT);
            put_u32(&mut page, CRC_AT, crc);
            matches!(Superblock::decode(0, &page), Err(Defect::Damaged(_)))
        };
        assert!(damaged(PROFILE_AT) && damaged(PROFILE_END - 1) && damaged(PROFILE_END) && damaged(PROFILE_AT - 1));
    }

    #[test]
    fn an_unfinished_creation_is_told_apart_from_foreign_data() {
        assert!(was_never_finished(&area(&[])));
        let first = Superblock { generation: 1, roots: vec![], ..superblock() };
        let mut torn = area(&[(0, &first), (1, &first)]);
        torn[3..16384].fill(0);
        torn[16384..16384 + 20].fill(0);
        assert!(was_never_finished(&torn));
        assert!(!was_never_finished(&area(&[(0, &first), (1, &first), (2, &first), (3, &first)])));
        let mut foreign = area(&[]);
        foreign[0] = b'x';
        assert!(!was_never_finished(&foreign));
        for partition_table in [446, 512, 1024 + 56, 16384 + 64] {
            let mut foreign = area(&[]);
            foreign[partition_table] = 1;
            assert!(!was_never_finished(&foreign), "byte {partition_table}");
        }
        let mut foreign = area(&[]);
        foreign[9000] = 1;
        assert!(!was_never_finished(&foreign));
    }

    proptest! {
        #[test]
        fn encodes_and_decodes(
            volume: [u8; 16], generation in 1u64..1 << 24, page in 9u32..=16, extent in 16u32..=24, key_groups in 1u32..=65536, capacity: u32,
            roots in prop::collection::vec(1u32.., 0..=if cfg!(miri) { 8 } else { 256 }), copy in 0usize..4, profile in prop::option::of(any_profile()),
        ) {
            let roots = roots.into_iter().map(ExtentId).collect();
            let (page_bytes, extent_bytes) = (1 << page, 1 << extent);
            let capacity_bytes = u64::from(capacity) * 2 * u64::from(extent_bytes);
            let superblock = Superblock { volume, generation, page_bytes, extent_bytes, key_groups, capacity_bytes, roots, profile };
            let mut page = vec![0; SUPERBLOCK_BYTES];
            superblock.encode(copy_offset(copy), &mut page);
            prop_assert_eq!(Superblock::decode(copy_offset(copy), &page), Ok(superblock));
        }

        #[test]
        fn arbitrary_bytes_never_panic(drawn in prop::collection::vec(any::<u8>(), if cfg!(miri) { 64 } else { SUPERBLOCK_BYTES }), magic: bool) {
            let mut bytes = drawn.repeat(SUPERBLOCK_BYTES / drawn.len());
            if magic {
                bytes[..8].copy_from_slice(&MAGIC);
                put_u32(&mut bytes, VERSION_AT, VERSION);
            }
            prop_assert!(Superblock::decode(0, &bytes).is_err());
        }
    }
}
