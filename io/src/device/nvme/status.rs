//! What a command's status means.

/// The status field of a completion, without its phase bit: code (8 bits), type (3), retry delay (2), more, do not retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

const DO_NOT_RETRY: u16 = 1 << 14;
const TYPE_AND_CODE: u16 = 0x7ff;

impl Status {
    /// The type and the code in it.
    fn code(self) -> (u8, u8) {
        let field = self.0 & TYPE_AND_CODE;
        ((field >> 8) as u8, field as u8)
    }

    /// Whether the specification says that the same command may succeed if it is given again.
    pub(crate) fn may_be_tried_again(self) -> bool {
        let passing = matches!(
            self.code(),
            // Aborted by a loss of power or on request, or with its queue; not ready; interrupted; a transient transport error.
            (0, 0x05 | 0x07 | 0x08 | 0x21 | 0x22 | 0x82) | (3, 0x03 | 0x70)
        );
        passing && self.0 & DO_NOT_RETRY == 0
    }

    /// The nearest error number, and what the specification calls it.
    pub(crate) fn meaning(self) -> (i32, &'static str) {
        match self.code() {
            (0, 0x01) => (libc::EINVAL, "the controller does not know the command"),
            (0, 0x02) => (libc::EINVAL, "a field of the command is invalid"),
            (0, 0x04) => (libc::EIO, "data transfer error"),
            (0, 0x05) => (libc::EIO, "aborted by a loss of power"),
            (0, 0x06) => (libc::EIO, "internal error of the device"),
            (0, 0x07 | 0x08) => (libc::EIO, "aborted"),
            (0, 0x0b) => (libc::ENODEV, "the namespace is not there, or not in this format"),
            (0, 0x1c) => (libc::EACCES, "sanitising is under way"),
            (0, 0x1d) => (libc::EIO, "sanitising failed"),
            (0, 0x20) => (libc::EROFS, "the namespace is write protected"),
            (0, 0x21) => (libc::EIO, "interrupted"),
            (0, 0x22) => (libc::EIO, "transient transport error"),
            (0, 0x29) => (libc::EOPNOTSUPP, "flexible data placement is disabled"),
            (0, 0x2a) => (libc::EINVAL, "a list of placement handles is invalid"),
            (0, 0x80) => (libc::ENXIO, "behind the end of the namespace"),
            (0, 0x81) => (libc::ENOSPC, "the capacity of the namespace is exceeded"),
            (0, 0x82) => (libc::EIO, "the namespace is not ready"),
            (0, 0x83) => (libc::EBUSY, "the namespace is reserved"),
            (0, 0x84) => (libc::EBUSY, "the namespace is being formatted"),
            (2, 0x80) => (libc::EIO, "write fault"),
            (2, 0x81) => (libc::EIO, "unrecovered read error"),
            (2, 0x82..=0x84) => (libc::EIO, "end-to-end check failed"),
            (2, 0x86) => (libc::EACCES, "access denied"),
            (2, 0x87) => (libc::EIO, "the block is deallocated or unwritten"),
            (2, _) => (libc::EIO, "error of the medium"),
            (3, _) => (libc::EIO, "the path to the device failed"),
            _ => (libc::EIO, "the device failed"),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, code) = self.code();
        write!(f, "{} (NVMe status type {kind:x}h, code {code:02x}h)", self.meaning().1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_unless_the_device_forbids_it() {
        let not_ready = Status(0x0082);
        assert!(not_ready.may_be_tried_again());
        assert!(!Status(0x0082 | DO_NOT_RETRY).may_be_tried_again());
        assert!(!Status(0x0281).may_be_tried_again(), "the medium has failed, after retries of its own");
    }

    #[test]
    fn every_status_has_an_error_number_and_a_name() {
        assert_eq!(Status(0x4281).meaning(), (libc::EIO, "unrecovered read error"));
        assert_eq!(Status(0x4080).meaning().0, libc::ENXIO);
        assert_eq!(Status(0x0281).to_string(), "unrecovered read error (NVMe status type 2h, code 81h)");
        for status in 1..=u16::MAX {
            assert!(Status(status).meaning().0 > 0);
        }
    }
}
