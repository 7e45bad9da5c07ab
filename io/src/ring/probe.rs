//! Questions about a descriptor that only raw system calls answer.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

/// The alignment that direct I/O on this file needs, for offsets and memory alike; `None` where the kernel does not tell.
pub(crate) fn direct_alignment(fd: RawFd) -> Option<u32> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; the answer is a valid place for a `statx`.
    let result =
        unsafe { libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, answer.as_mut_ptr()) };
    // SAFETY: all zeros is a valid `statx`, and the kernel wrote over it or did not.
    let answer = unsafe { answer.assume_init() };
    let alignment = answer.stx_dio_offset_align.max(answer.stx_dio_mem_align);
    let told = result == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    (told && alignment.is_power_of_two() && (512..=4096).contains(&alignment)).then_some(alignment)
}

/// Whether the file takes I/O that must not block, so that a ring needs no worker thread for it.
pub(crate) fn takes_nowait(fd: RawFd) -> bool {
    let mut buffer = crate::Buffer::heap(crate::buffer::ALIGNMENT);
    let vector = libc::iovec { iov_base: buffer.as_raw().cast(), iov_len: buffer.len() };
    // SAFETY: one valid vector, of a buffer that lives until the call returns.
    let result = unsafe { libc::preadv2(fd, &raw const vector, 1, 0, libc::RWF_NOWAIT) };
    result >= 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

/// Whether the kernel is of this version or a newer one.
pub(crate) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}
