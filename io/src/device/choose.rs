//! Choosing how a path is driven.
//!
//! | path | what can drive it, best first |
//! |---|---|
//! | a file, or nothing yet | file |
//! | a block device | block; by name also passthrough, of the namespace that it is the whole of |
//! | an NVMe character device | passthrough; block, where it has a block device |
//!
//! Without a name the first that works is taken. One that lacks something (the permission, a kernel that has it) gives way to the next; one that
//! is there but refuses (in use, of zones, gone) is an error, since the next is the same device. A block device is not driven past the block layer
//! unless that is asked for: partitions, mounts and other programs are known to the block layer only.
//!
//! With a name it is that one or an error which says what is missing. So it is with completions that are polled for: they are only where they
//! are asked for, since a core is busy as long as anything is in flight.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::queue::Queue;
use super::{DeviceKind, DeviceRequest, Geometry, Kind, OpenMode, file, nvme};
use crate::ring::probe;
use crate::{IoError, OpKind};

/// One way of driving a device.
struct Candidate {
    kind: DeviceKind,
    path: PathBuf,
}

/// Opens a path as it is asked for, or as the best that works.
pub(super) fn open(path: &Path, mode: OpenMode, request: DeviceRequest) -> Result<(Kind, Geometry), IoError> {
    let (kind, mut geometry) = open_best(path, mode, request.kind)?;
    if request.polled {
        let refused = |reason: &str| Err(IoError::other(OpKind::Open, path, 0, 0, reason));
        match geometry.kind {
            DeviceKind::NvmePassthrough if !kernel_polls_namespaces() => return refused(KERNEL_POLLS_BADLY),
            DeviceKind::Block | DeviceKind::NvmePassthrough if has_poll_queues(path) => geometry.polled = true,
            DeviceKind::Block | DeviceKind::NvmePassthrough => return refused(NO_POLL_QUEUES),
            _ => return refused("completions are polled for on block devices and NVMe namespaces only"),
        }
    }
    Ok((kind, geometry))
}

const NO_POLL_QUEUES: &str = "it has no queues to poll: NVMe has them with the module parameter nvme.poll_queues";

const KERNEL_POLLS_BADLY: &str = "to poll for completions past the block layer Linux 6.5 is needed: earlier ones may crash by it; leave it out, or \
    give the block device";

/// Whether the kernel can poll for the completions of NVMe commands. Before this version it looked for a command's bio where the completion had
/// put the address of a function.
fn kernel_polls_namespaces() -> bool {
    probe::kernel_is_at_least(6, 5)
}

/// Whether the block device, or that of the namespace, is polled by those who ask for it.
fn has_poll_queues(path: &Path) -> bool {
    let block = nvme::block_device(path).unwrap_or_else(|| path.to_owned());
    std::fs::metadata(block).is_ok_and(|metadata| Queue::of(metadata.rdev()).number("io_poll").is_some())
}

fn open_best(path: &Path, mode: OpenMode, wanted: Option<DeviceKind>) -> Result<(Kind, Geometry), IoError> {
    let mut candidates = candidates(path);
    if let Some(wanted) = wanted {
        candidates.retain(|candidate| candidate.kind == wanted);
        if candidates.is_empty() {
            return Err(IoError::other(OpKind::Open, path, 0, 0, missing(path, wanted)));
        }
    } else {
        // What is not asked for by name.
        candidates.truncate(if nvme::is_namespace(path) { 2 } else { 1 });
    }
    let mut passed_over: Option<IoError> = None;
    for candidate in &candidates {
        match open_as(candidate, mode) {
            Ok(opened) => {
                tell(path, candidate, wanted, passed_over.as_ref(), &opened.1);
                return Ok(opened);
            }
            Err(error) if wanted.is_none() && is_unavailable(&error) => {
                passed_over.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(passed_over.unwrap_or_else(|| IoError::other(OpKind::Open, path, 0, 0, "nothing can drive it")))
}

/// In the order of the table above.
fn candidates(path: &Path) -> Vec<Candidate> {
    let candidate = |kind, path: &Path| Candidate { kind, path: path.to_owned() };
    if nvme::is_namespace(path) {
        let block = nvme::block_device(path).map(|block| candidate(DeviceKind::Block, &block));
        return [candidate(DeviceKind::NvmePassthrough, path)].into_iter().chain(block).collect();
    }
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        let namespace = nvme::namespace_of(path).map(|namespace| candidate(DeviceKind::NvmePassthrough, &namespace));
        return [candidate(DeviceKind::Block, path)].into_iter().chain(namespace).collect();
    }
    vec![candidate(DeviceKind::File, path)]
}

fn open_as(candidate: &Candidate, mode: OpenMode) -> Result<(Kind, Geometry), IoError> {
    match candidate.kind {
        DeviceKind::NvmePassthrough => {
            nvme::Namespace::open(&candidate.path, mode).map(|(namespace, geometry)| (Kind::Nvme(namespace), geometry))
        }
        _ => file::OpenFile::open(&candidate.path, mode).map(|(file, geometry)| (Kind::File(file), geometry)),
    }
}

/// Whether an error says that this way is not there, while another may be.
fn is_unavailable(error: &IoError) -> bool {
    matches!(error.errno, libc::EACCES | libc::EPERM | libc::ENOSYS | libc::ENOTTY)
}

/// Why a path cannot be driven as this.
fn missing(path: &Path, wanted: DeviceKind) -> String {
    match wanted {
        DeviceKind::NvmePassthrough if path.to_string_lossy().contains("nvme") => {
            "the whole of a namespace is needed, with its character device (/dev/ng0n1): a partition has none".into()
        }
        DeviceKind::NvmePassthrough => "it is no NVMe namespace: give /dev/nvme0n1 or /dev/ng0n1".into(),
        DeviceKind::Block => "it is no block device: give one, or let it be driven as what it is".into(),
        DeviceKind::File => "it is a device, no file: let it be driven as what it is".into(),
        _ => "a path is no simulated disk".into(),
    }
}

/// The one line that says what was chosen and why.
fn tell(
    path: &Path,
    chosen: &Candidate,
    wanted: Option<DeviceKind>,
    passed_over: Option<&IoError>,
    geometry: &Geometry,
) {
    let why = match (wanted, passed_over) {
        (Some(_), _) => "asked for by name".to_owned(),
        (None, Some(error)) => format!("the better one is not available: {error}"),
        (None, None) => "the best for such a path".to_owned(),
    };
    let (device, driven_as) = (chosen.path.display(), chosen.kind);
    tracing::info!(path = %path.display(), %device, ?driven_as, %why, ?geometry, "device opened");
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::SharedDevice;

    #[test]
    fn a_file_is_driven_as_a_file_and_as_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        drop(SharedDevice::open(&path, OpenMode::Create).unwrap());
        let request = |kind| DeviceRequest { kind: Some(kind), ..DeviceRequest::default() };
        drop(SharedDevice::open_with(&path, OpenMode::ReadWrite, request(DeviceKind::File)).unwrap());
        let polled = DeviceRequest { polled: true, ..DeviceRequest::default() };
        let error = SharedDevice::open_with(&path, OpenMode::ReadWrite, polled).map(drop).unwrap_err();
        assert!(error.to_string().contains("polled for on block devices"), "{error}");
        for (kind, reason) in [
            (DeviceKind::Block, "no block device"),
            (DeviceKind::NvmePassthrough, "no NVMe namespace"),
            (DeviceKind::Simulated, "no simulated disk"),
        ] {
            let error = SharedDevice::open_with(&path, OpenMode::ReadWrite, request(kind)).map(drop).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn only_what_is_missing_gives_way() {
        let error = |errno| IoError::from_errno(OpKind::Open, "/dev/ng0n1", 0, 0, errno);
        assert!([libc::EACCES, libc::EPERM, libc::ENOSYS].into_iter().all(|errno| is_unavailable(&error(errno))));
        assert!(
            ![libc::EBUSY, libc::EAGAIN, libc::EIO, libc::ENODEV]
                .into_iter()
                .any(|errno| is_unavailable(&error(errno)))
        );
    }
}
