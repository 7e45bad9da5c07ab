//! What else a device may hold: the marks by which filesystems, partition tables and volume managers are known.
//!
//! A device on which any of these is found is never taken for blank. The list serves the message; whether a device *is* blank is
//! decided by its being zero ([`super::contents`]).

use super::superblock::{COPY_SPACING_BYTES, SUPERBLOCK_BYTES};

/// How much of the beginning and of the end of a device is looked at: ZFS has two labels of 256 KiB at either.
pub(crate) const LOOKED_AT_BYTES: usize = 512 << 10;

/// A mark: what it tells of, where it stands, and its bytes.
struct Mark(&'static str, usize, &'static [u8]);

/// Of the beginning. More telling ones first: a boot record's mark is in many filesystems too.
const MARKS: &[Mark] = &[
    Mark("an ext2, ext3 or ext4 filesystem", 1080, &[0x53, 0xef]),
    Mark("an XFS filesystem", 0, b"XFSB"),
    Mark("a btrfs filesystem", 0x10040, b"_BHRfS_M"),
    Mark("an F2FS filesystem", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    Mark("a bcachefs filesystem or a bcache device", 4120, &[0xc6, 0x85, 0x73, 0xf6]),
    Mark("an NTFS filesystem", 3, b"NTFS    "),
    Mark("an exFAT filesystem", 3, b"EXFAT   "),
    Mark("a FAT filesystem", 82, b"FAT32   "),
    Mark("a FAT filesystem", 54, b"FAT1"),
    Mark("a SquashFS filesystem", 0, b"hsqs"),
    Mark("an ISO 9660 filesystem", 0x8001, b"CD001"),
    Mark("a ReiserFS filesystem", 0x10034, b"ReIsEr"),
    Mark("a swap area", 4086, b"SWAPSPACE2"),
    Mark("a LUKS volume", 0, b"LUKS\xba\xbe"),
    Mark("an LVM physical volume", 512, b"LABELONE"),
    Mark("a member of a Linux RAID", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    Mark("a member of a Linux RAID", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    Mark("a GPT partition table", 512, b"EFI PART"),
    Mark("a GPT partition table", 4096, b"EFI PART"),
    Mark("an MBR partition table or boot record", 510, &[0x55, 0xaa]),
];

/// Of the end, counted back from it.
const MARKS_AT_END: &[Mark] = &[
    Mark("the copy of a GPT partition table", 512, b"EFI PART"),
    Mark("the copy of a GPT partition table", 4096, b"EFI PART"),
];

/// A ZFS uberblock stands in any of many places.
const ZFS: (&str, [u8; 8]) = ("a member of a ZFS pool", 0x00ba_b10c_u64.to_le_bytes());
const ZFS_UBERBLOCKS: std::ops::Range<usize> = (128 << 10)..(256 << 10);
const ZFS_STEP: usize = 1024;

/// What was put between the copies of a superblock, where a volume has nothing.
pub(crate) fn recognised_between_copies(area: &[u8]) -> Option<&'static str> {
    let gap = SUPERBLOCK_BYTES..COPY_SPACING_BYTES;
    MARKS.iter().find(|Mark(_, offset, mark)| gap.contains(offset) && stands_at(area, *offset, mark)).map(|mark| mark.0)
}

/// What the first bytes of a device, and the last (as many as there are), are known to be; `None` where nothing is recognised.
pub(crate) fn recognised(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    let in_head = MARKS.iter().find(|Mark(_, offset, mark)| stands_at(head, *offset, mark));
    let in_zfs = || ZFS_UBERBLOCKS.step_by(ZFS_STEP).any(|offset| stands_at(head, offset, &ZFS.1)).then_some(ZFS.0);
    let at_end = |back: usize, mark| tail.len().checked_sub(back).is_some_and(|offset| stands_at(tail, offset, mark));
    let in_tail = || MARKS_AT_END.iter().find(|Mark(_, back, mark)| at_end(*back, mark));
    in_head.map(|mark| mark.0).or_else(in_zfs).or_else(|| in_tail().map(|mark| mark.0))
}

fn stands_at(bytes: &[u8], offset: usize, mark: &[u8]) -> bool {
    bytes.get(offset..offset + mark.len()) == Some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_recognised_and_blank_space_is_not() {
        let blank = vec![0; LOOKED_AT_BYTES];
        assert_eq!(recognised(&blank, &blank), None);
        assert_eq!(recognised(&[], &[]), None);
        for Mark(what, offset, bytes) in MARKS {
            let mut head = blank.clone();
            head[*offset..offset + bytes.len()].copy_from_slice(bytes);
            assert_eq!(recognised(&head, &[]), Some(*what));
            assert_eq!(recognised(&head[..offset + bytes.len() - 1], &[]), None, "cut off");
        }
        for Mark(what, back, bytes) in MARKS_AT_END {
            let mut tail = vec![0; LOOKED_AT_BYTES];
            let at = tail.len() - back;
            tail[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(recognised(&blank, &tail), Some(*what));
        }
        let mut pool = blank;
        pool[(128 << 10) + 3 * ZFS_STEP..][..8].copy_from_slice(&ZFS.1);
        assert_eq!(recognised(&pool, &[]), Some(ZFS.0));
    }
}
