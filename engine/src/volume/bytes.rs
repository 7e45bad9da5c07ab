//! Little-endian fields at fixed offsets of a page, and the checksum that binds a page to its place.
//!
//! For pages of a known, already checked length: an offset outside the slice is a bug of the codec, not damage, and panics. Parsing
//! of variable-length data is in [`crate::manifest`].

/// Reads the u32 at `at`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// Reads the u64 at `at`.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Reads `N` bytes at `at`.
#[inline]
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Writes a u32 at `at`.
#[inline]
pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes a u64 at `at`.
#[inline]
pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| *chunk == [0; 64][..chunk.len()])
}

/// CRC32C over the volume's identity, the device offset at which `bytes` stand, and `bytes` themselves with the four bytes of the
/// checksum field at `crc_at` taken as zero. So the same bytes at another place, or in another volume, do not pass.
pub(crate) fn placed_crc(volume: &[u8; 16], offset: u64, bytes: &[u8], crc_at: usize) -> u32 {
    let mut crc = crc32c::crc32c(volume);
    crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &bytes[..crc_at]);
    crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[crc_at + 4..])
}
