//! The list of steps.

/// A step.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// What holds when it passes.
    pub(crate) about: &'static str,
    pub(crate) how: How,
    /// The longest that it may take, on a busy machine.
    pub(crate) seconds_max: u64,
}

/// How a step is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By a command of `guest/steps.sh`, in the machine that all such steps share.
    Guest(&'static str),
    /// By `siltstone-torture cut`, with a machine for each life of a worker.
    Cut { block_bytes: u64, node: &'static str, disk: Expected },
    /// By `siltstone-torture record` on a device of dm-log-writes in the guest, and `judge` on the host.
    Points { mode: &'static str, disk: Expected },
}

/// What a disk is like, and so what must come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It does what it says: nothing is lost that was acknowledged.
    Honest,
    /// Its flushes do nothing: the loss is noticed.
    Deaf,
}

/// The nodes of the one namespace of a machine for a worker.
const BLOCK: &str = "/dev/nvme0n1";
const CHARACTER: &str = "/dev/ng0n1";

/// All steps, in their order.
pub(crate) const STEPS: [Step; 35] = [
    Step {
        name: "namespaces",
        about: "namespaces with LBAs of 512 and 4096 bytes, block and passthrough nodes, several queues, two polled",
        how: How::Guest("namespaces"),
        seconds_max: 60,
    },
    Step {
        name: "job-ext4",
        about: "the flights job on a file of ext4, its outputs those of the host, the volume verified",
        how: How::Guest("on ext4 /dev/nvme0n1 job /mnt/store"),
        seconds_max: 300,
    },
    Step {
        name: "conformance",
        about: "io's device tests on files of ext4",
        how: How::Guest("on ext4 /dev/nvme0n1 device_tests"),
        seconds_max: 300,
    },
    Step {
        name: "job-xfs",
        about: "the flights job on a file of XFS",
        how: How::Guest("on xfs /dev/nvme0n2 job /mnt/store"),
        seconds_max: 300,
    },
    Step {
        name: "job-btrfs",
        about: "the flights job on a file of btrfs",
        how: How::Guest("on btrfs /dev/nvme0n2 job /mnt/store"),
        seconds_max: 300,
    },
    Step {
        name: "job-loop",
        about: "the flights job on a loop device with direct I/O over a file of ext4",
        how: How::Guest("on ext4 /dev/nvme0n1 job_on_loop /mnt/image"),
        seconds_max: 300,
    },
    Step {
        name: "job-zram",
        about: "the flights job on a zram device",
        how: How::Guest("job_on_zram"),
        seconds_max: 300,
    },
    Step {
        name: "job-512",
        about: "the same on /dev/nvme0n1, LBAs of 512 bytes",
        how: How::Guest("job_on_device /dev/nvme0n1"),
        seconds_max: 300,
    },
    Step {
        name: "job-4096",
        about: "the same on /dev/nvme0n2, LBAs of 4096 bytes",
        how: How::Guest("job_on_device /dev/nvme0n2"),
        seconds_max: 300,
    },
    Step {
        name: "job-ng-512",
        about: "the same past the block layer, on /dev/ng0n1",
        how: How::Guest("job_on_namespace 0n1"),
        seconds_max: 300,
    },
    Step {
        name: "job-ng-4096",
        about: "the same on /dev/ng0n2",
        how: How::Guest("job_on_namespace 0n2"),
        seconds_max: 300,
    },
    Step {
        name: "job-killed-512",
        about: "the same, with the process killed three times on the way",
        how: How::Guest("job_killed_on_device /dev/nvme0n1"),
        seconds_max: 400,
    },
    Step {
        name: "job-killed-4096",
        about: "the same on /dev/nvme0n2",
        how: How::Guest("job_killed_on_device /dev/nvme0n2"),
        seconds_max: 400,
    },
    Step {
        name: "job-killed-ng",
        about: "the same past the block layer, on /dev/ng0n1",
        how: How::Guest("job_killed_on_namespace 0n1"),
        seconds_max: 400,
    },
    Step {
        name: "excluded",
        about: "what is open by one node of a namespace is refused by the other",
        how: How::Guest("excluded"),
        seconds_max: 200,
    },
    Step {
        name: "job-polled",
        about: "the same with completions that are polled for, on /dev/nvme0n1 and /dev/ng0n2",
        how: How::Guest("job_polled"),
        seconds_max: 400,
    },
    Step {
        name: "probed",
        about: "a namespace is measured through the block layer, past it and polled; the volume keeps the profile",
        how: How::Guest("probed"),
        seconds_max: 600,
    },
    Step {
        name: "devices",
        about: "io's device tests and the model test on all namespaces, through the block layer and past it",
        how: How::Guest("devices_model"),
        seconds_max: 1200,
    },
    Step {
        name: "foreign",
        about: "a device with a filesystem is refused and left as it is",
        how: How::Guest("foreign /dev/nvme0n1"),
        seconds_max: 120,
    },
    Step {
        name: "refused",
        about: "namespaces with zones, with blocks that are too large, and too small: each node says what is wrong",
        how: How::Guest("refused"),
        seconds_max: 300,
    },
    Step {
        name: "moved",
        about: "a volume copied from LBAs of 512 bytes to LBAs of 4096 goes on past the block layer; too small a copy is an error",
        how: How::Guest("moved"),
        seconds_max: 400,
    },
    Step {
        name: "emulated-512",
        about: "the job on logical blocks of 512 bytes in physical ones of 4096, on a copy with logical ones of 4096, and back",
        how: How::Guest("emulated_512"),
        seconds_max: 400,
    },
    Step {
        name: "pulled",
        about: "the controller is removed under the job: an error, and then the right outputs all the same",
        how: How::Guest("pulled /dev/nvme0n1"),
        seconds_max: 300,
    },
    Step {
        name: "pulled-ng",
        about: "the same with the job past the block layer, on /dev/ng0n1",
        how: How::Guest("pulled /dev/nvme0n1 /dev/ng0n1"),
        seconds_max: 300,
    },
    Step {
        name: "flaky",
        about: "dm-flakey fails I/O under the job: an error, and then the right outputs all the same",
        how: How::Guest("flaky /dev/nvme0n2"),
        seconds_max: 300,
    },
    // The last in the guest: nothing is left of the disks.
    Step {
        name: "unplugged",
        about: "the controller is pulled by the host under the job: an error that names the device",
        how: How::Guest("unplugged /dev/nvme0n1"),
        seconds_max: 300,
    },
    Step {
        name: "points-sync",
        about: "the flush points of a load on dm-log-writes over /dev/nvme0n2: verify, and the oracle, at each",
        how: How::Points { mode: "sync", disk: Expected::Honest },
        seconds_max: 300,
    },
    Step {
        name: "points-checkpoint",
        about: "the same where writes are durable with the next checkpoint",
        how: How::Points { mode: "checkpoint", disk: Expected::Honest },
        seconds_max: 300,
    },
    Step {
        name: "points-deaf",
        about: "the same with a log that lacks what was durable: the harness sees",
        how: How::Points { mode: "sync", disk: Expected::Deaf },
        seconds_max: 300,
    },
    Step {
        name: "cut-512",
        about: "power failures under load and in recovery on /dev/nvme0n1: verify, and the oracle of acknowledged writes",
        how: How::Cut { block_bytes: 512, node: BLOCK, disk: Expected::Honest },
        seconds_max: 900,
    },
    Step {
        name: "cut-4096",
        about: "the same with LBAs of 4096 bytes",
        how: How::Cut { block_bytes: 4096, node: BLOCK, disk: Expected::Honest },
        seconds_max: 900,
    },
    Step {
        name: "cut-ng-512",
        about: "the same past the block layer, with LBAs of 512 bytes",
        how: How::Cut { block_bytes: 512, node: CHARACTER, disk: Expected::Honest },
        seconds_max: 900,
    },
    Step {
        name: "cut-ng-4096",
        about: "the same with LBAs of 4096 bytes",
        how: How::Cut { block_bytes: 4096, node: CHARACTER, disk: Expected::Honest },
        seconds_max: 900,
    },
    Step {
        name: "cut-ng-deaf",
        about: "past the block layer a disk that does not flush is found to lose writes: the harness sees",
        how: How::Cut { block_bytes: 4096, node: CHARACTER, disk: Expected::Deaf },
        seconds_max: 600,
    },
    Step {
        name: "cut-deaf",
        about: "a disk that does not flush is found to lose writes: the harness sees",
        how: How::Cut { block_bytes: 512, node: BLOCK, disk: Expected::Deaf },
        seconds_max: 600,
    },
];
