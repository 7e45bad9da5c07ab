# What runs in the guest. Each function is a step, which fails at the first command that does.

# The value of an attribute of a block device's queue.
queue() {
    cat "/sys/block/$1/queue/$2"
}

# is WHAT FOUND EXPECTED
is() {
    [ "$2" = "$3" ] || { echo "$1 is '$2', not '$3'"; return 1; }
}

# Both namespaces, as block devices and for passthrough, each with its LBA size; a volatile cache; several queues, two of them polled.
namespaces() {
    for pair in nvme0n1:512 nvme0n2:4096; do
        device=${pair%:*}
        is "the logical block of $device" "$(queue $device logical_block_size)" "${pair#*:}"
        is "the cache of $device" "$(queue $device write_cache)" "write back"
        is "io_poll of $device" "$(queue $device io_poll)" 1
        [ -b /dev/$device ] || { echo "no /dev/$device"; return 1; }
        [ -c /dev/ng${device#nvme} ] || { echo "no /dev/ng${device#nvme}"; return 1; }
    done
    is "poll_queues" "$(cat /sys/module/nvme/parameters/poll_queues)" 2
    dmesg | grep -q '[1-9]/0/2 default/read/poll queues' || { dmesg | grep nvme; return 1; }
}

# wipe DEVICE: nothing is on it any more.
wipe() {
    blkdiscard $1
}

# job STORE ARGUMENT...: the flights job; its outputs are those of the host.
job() {
    rm -rf /tmp/out
    siltstone job flights --input /data/flights.csv --store "$@" --output /tmp/out --shards 2 --memory 64M --checkpoint-every 5000
    (cd /tmp/out && sha256sum -c /data/outputs.sha256)
    siltstone verify "$1"
}

# The same, killed again and again and begun anew.
job_killed() {
    rm -rf /tmp/out
    kills=0
    until [ $kills = 3 ]; do
        siltstone job flights --input /data/flights.csv --store "$1" --output /tmp/out --shards $((1 + kills % 2)) --memory 64M \
            --checkpoint-every 3000 &
        job=$!
        sleep $((5 + kills))
        # A fast machine may have ended it before; but not the first time.
        kill -9 $job || [ $kills -gt 0 ] || { echo "the job had ended before it was killed"; return 1; }
        wait $job || true
        siltstone verify "$1"
        kills=$((kills + 1))
    done
    siltstone job flights --input /data/flights.csv --store "$1" --output /tmp/out --shards 2 --memory 64M
    (cd /tmp/out && sha256sum -c /data/outputs.sha256)
    siltstone verify "$1"
}

job_on_device() {
    wipe $1
    job $1
}

# job_on_namespace NAME: the device past the block layer, by its own name and by that of the block device; read through the block layer.
job_on_namespace() {
    wipe /dev/nvme$1
    job /dev/ng$1
    siltstone verify /dev/nvme$1
    wipe /dev/nvme$1
    job /dev/nvme$1 --backend nvme
    siltstone info /dev/ng$1 | grep -q "past the block layer"
    siltstone info /dev/nvme$1 | grep -q "a block device"
}

# excluded: while the job has the namespace open by one of its nodes, the other is refused to those that would only read, too.
excluded() {
    for pair in ng0n1:nvme0n1 nvme0n2:ng0n2; do
        wipe /dev/nvme0n${pair##*n}
        siltstone job flights --input /data/flights.csv --store /dev/${pair%:*} --output /tmp/out --memory 64M &
        job=$!
        sleep 4
        says "another process" siltstone verify /dev/${pair#*:}
        kill -0 $job || { echo "the job was over before"; return 1; }
        wait $job
        siltstone verify /dev/${pair#*:}
    done
}

# Linux 6.5 or later.
kernel_polls_namespaces() {
    uname -r | awk -F '[.-]' '{ exit !($1 > 6 || ($1 == 6 && $2 >= 5)) }'
}

# job_polled: completions are polled for, through the block layer and past it; a device without queues for it says so.
job_polled() {
    wipe /dev/nvme0n1
    job /dev/nvme0n1 --polled
    wipe /dev/nvme0n2
    if kernel_polls_namespaces; then
        job /dev/ng0n2 --polled
    else
        says "Linux 6.5 is needed" siltstone job flights --input /data/flights.csv --store /dev/ng0n2 --output /tmp/out --polled
    fi
    truncate -s 64M /tmp/image
    /bin/losetup /dev/loop0 /tmp/image
    trap 'losetup -d /dev/loop0' EXIT
    siltstone job flights --input /data/flights.csv --store /dev/loop0 --output /tmp/out --polled 2>/tmp/polled && return 1
    grep -q "nvme.poll_queues" /tmp/polled
}

# devices_model: io's device tests, and the engine against the model, on all namespaces, through the block layer and past it.
devices_model() {
    export SILTSTONE_TEST_DEVICES=/dev/nvme0n1,/dev/nvme0n2,/dev/ng0n1,/dev/ng0n2
    block_devices the_devices_that_the_environment_names --nocapture
    model model_on_the_devices_that_the_environment_names --nocapture
}

# probed: a small volume's device is measured through the block layer, past it, and with completions that are polled for, and the volume keeps
# the profile. The tables go to the console.
probed() {
    ways="block nvme block:--polled"
    kernel_polls_namespaces && ways="$ways nvme:--polled"
    for way in $ways; do
        how=$(echo $way | tr : ' ')
        wipe /dev/nvme0n1
        siltstone format /dev/nvme0n1 --size 48M --extent 64K
        siltstone probe /dev/nvme0n1 --backend $how >/tmp/probe
        { echo "probe of nvme0n1, $how"; cat /tmp/probe; } >/dev/console
        siltstone info /dev/nvme0n1 >/tmp/info
        grep -q "^profile *reads of 4 KiB" /tmp/info || { cat /tmp/info; return 1; }
    done
}

job_killed_on_device() {
    wipe $1
    job_killed $1
}

job_killed_on_namespace() {
    wipe /dev/nvme$1
    job_killed /dev/ng$1
}

# on FILESYSTEM DEVICE COMMAND...: with such a filesystem mounted at /mnt, which is the folder for temporary files too.
on() {
    case $1 in
        ext4) mkfs.ext4 -q -F -E nodiscard $2 ;;
        xfs) mkfs.xfs -q -f -K $2 ;;
        btrfs) mkfs.btrfs -q -f -K $2 ;;
    esac
    mount -t $1 $2 /mnt
    trap 'umount /mnt' EXIT
    shift 2
    TMPDIR=/mnt "$@"
}

# io's tests, but for two that count on a turn to take less than a millisecond, which it does not on an emulated CPU.
device_tests() {
    conformance --test-threads=2 --skip foreground_work_goes_before_background_work_which_yields_to_it \
        --skip timers_fire_in_the_order_of_their_deadlines
}

# job_on_loop FILE: a loop device with direct I/O on a file.
job_on_loop() {
    truncate -s 256M $1
    # By its path: busybox has one without direct I/O, and prefers its own.
    /bin/losetup --direct-io=on /dev/loop0 $1
    trap 'losetup -d /dev/loop0; umount /mnt' EXIT
    is "the direct I/O of loop0" "$(cat /sys/block/loop0/loop/dio)" 1
    job /dev/loop0
}

job_on_zram() {
    [ -b /dev/zram0 ] || { echo "no /dev/zram0"; return 1; }
    echo 256M >/sys/block/zram0/disksize
    trap 'echo 1 >/sys/block/zram0/reset' EXIT
    job /dev/zram0
}

# pulled DEVICE [NODE]: the controller is taken away under the job on its block device or another node of it. The job ends with an error; when the
# controller is back the job goes on to the right end.
pulled() {
    store=${2:-$1}
    wipe $1
    rm -rf /tmp/out
    siltstone job flights --input /data/flights.csv --store "$store" --output /tmp/out --shards 2 --memory 64M --checkpoint-every 2000 &
    job=$!
    sleep 6
    echo 1 >/sys/block/${1#/dev/}/device/device/remove
    status=0
    wait $job || status=$?
    is "the exit status" $status 1
    [ ! -b $1 ] || { echo "$1 is still there"; return 1; }
    # The kernel ends the job's ring behind its back; until then the controller's number is not free.
    sleep 3
    echo 1 >/sys/bus/pci/rescan
    tries=0
    while [ ! -b $1 ] && [ $tries -lt 300 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    [ -b $1 ] || { echo "$1 is not back:" /dev/nvme* /dev/ng*; return 1; }
    siltstone verify "$store"
    siltstone job flights --input /data/flights.csv --store "$store" --output /tmp/out --shards 2 --memory 64M
    (cd /tmp/out && sha256sum -c /data/outputs.sha256)
    siltstone verify "$store"
}

# written DEVICE: how many writes it has completed.
written() {
    awk '{ print $5 }' /sys/block/${1#/dev/}/stat
}

# unplugged DEVICE: the host pulls the controller under the job, which ends with an error that names the device.
unplugged() {
    wipe $1
    before=$(written $1)
    rm -rf /tmp/out
    siltstone job flights --input /data/flights.csv --store "$1" --output /tmp/out --shards 2 --memory 64M --checkpoint-every 2000 2>/tmp/unplugged &
    job=$!
    # In the middle of it: it has written for a while.
    while [ $(($(written $1) - before)) -lt 100 ]; do
        kill -0 $job || { cat /tmp/unplugged; return 1; }
        sleep 0.1
    done
    echo "@@UNPLUG nvme0" >/dev/console
    status=0
    wait $job || status=$?
    cat /tmp/unplugged
    is "the exit status" $status 1
    grep -q "$1.*the device is gone" /tmp/unplugged
    tries=0
    while [ -b $1 ]; do
        [ $tries -lt 300 ] || { echo "$1 is still there"; return 1; }
        sleep 0.1
        tries=$((tries + 1))
    done
}

# A device with a filesystem is no place for a volume, and is left as it is.
foreign() {
    mkfs.ext4 -q -F -E nodiscard $1
    before=$(dd if=$1 bs=1M count=16 2>/dev/null | sha256sum)
    if siltstone job flights --input /data/flights.csv --store $1 --output /tmp/out; then
        echo "a filesystem was taken for a volume"
        return 1
    fi
    is "what is on it" "$(dd if=$1 bs=1M count=16 2>/dev/null | sha256sum)" "$before"
}

# says REASON COMMAND...: the command ends with an error that gives this reason (a pattern of grep -E).
says() {
    reason=$1
    shift
    status=0
    "$@" >/tmp/said 2>&1 || status=$?
    is "the exit status of $*" $status 1
    grep -qE "$reason" /tmp/said || { echo "$* does not say '$reason':"; cat /tmp/said; return 1; }
}

# unfit DEVICE REASON: nothing makes a volume of it, and what is on it stays.
unfit() {
    says "$2" siltstone format $1 --force
    says "$2" siltstone job flights --input /data/flights.csv --store $1 --output /tmp/out
    says "$2|not a Siltstone volume|no volume" siltstone info $1
    says "$2|not a Siltstone volume|no volume" siltstone verify $1
}

# What cannot hold a volume says so, through the block layer and past it.
refused() {
    is "the zones of nvme0n3" "$(queue nvme0n3 zoned)" host-managed
    for node in nvme0n3 ng0n3; do
        unfit /dev/$node "a device of zones"
        says "a device of zones" siltstone probe /dev/$node
    done
    unfit /dev/ng0n4 "logical blocks have 16384 bytes"
    says "logical blocks have 16384 bytes" siltstone probe /dev/ng0n4
    unfit /dev/nvme0n4 "logical blocks have 16384 bytes|has room for 0 extents"
    for node in nvme0n5 ng0n5; do
        unfit /dev/$node "has room for 1 extents"
    done
    is "what is on the small one" "$(tr -d '\0' </dev/nvme0n5 | wc -c)" 0
}

# moved: the job is killed on blocks of 512 bytes and ends on a copy with 4096, past the block layer; and the other way round. Too small a copy is an error.
moved() {
    wipe /dev/nvme0n1
    wipe /dev/nvme0n2
    rm -rf /tmp/out
    siltstone format /dev/nvme0n1 --size 128M --extent 64K
    siltstone job flights --input /data/flights.csv --store /dev/nvme0n1 --output /tmp/out --shards 2 --memory 64M --checkpoint-every 3000 &
    job=$!
    sleep 6
    kill -9 $job || { echo "the job had ended before it was killed"; return 1; }
    wait $job || true
    dd if=/dev/nvme0n1 of=/dev/nvme0n2 bs=1M count=128 conv=fsync 2>/dev/null
    siltstone info /dev/ng0n2 | grep -q "logical blocks of 4.0 KiB"
    siltstone verify /dev/nvme0n2
    siltstone job flights --input /data/flights.csv --store /dev/ng0n2 --output /tmp/out --shards 1 --memory 64M
    (cd /tmp/out && sha256sum -c /data/outputs.sha256)
    siltstone verify /dev/ng0n2
    dd if=/dev/nvme0n2 of=/dev/nvme0n1 bs=1M count=128 conv=fsync 2>/dev/null
    siltstone verify /dev/ng0n1
    dd if=/dev/nvme0n2 of=/dev/nvme0n5 bs=1M count=1 conv=fsync 2>/dev/null
    before=$(sha256sum </dev/nvme0n5)
    for node in nvme0n5 ng0n5; do
        says "the device has 1048576" siltstone verify /dev/$node
        says "the device has 1048576" siltstone job flights --input /data/flights.csv --store /dev/$node --output /tmp/out
    done
    is "what is on the small one" "$(sha256sum </dev/nvme0n5)" "$before"
    wipe /dev/nvme0n5
}

# emulated_512: the job on a disk whose logical blocks of 512 bytes are parts of physical ones of 4096 ("512e"), a copy with logical ones of 4096, and back.
emulated_512() {
    insmod /modules/scsi_debug.ko dev_size_mb=128 sector_size=512 physblk_exp=3
    trap 'rmmod scsi_debug' EXIT
    tries=0
    until [ -b /dev/sda ] || [ $tries = 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    is "the logical block of sda" "$(queue sda logical_block_size)" 512
    is "the physical block of sda" "$(queue sda physical_block_size)" 4096
    siltstone format /dev/sda --extent 64K
    job /dev/sda
    siltstone info /dev/sda | grep -q "logical blocks of 512 B, physical of 4.0 KiB"
    wipe /dev/nvme0n2
    dd if=/dev/sda of=/dev/nvme0n2 bs=1M conv=fsync 2>/dev/null
    siltstone info /dev/nvme0n2 | grep -q "logical blocks of 4.0 KiB"
    job /dev/nvme0n2 --fresh
    dd if=/dev/nvme0n2 of=/dev/sda bs=1M count=128 conv=fsync 2>/dev/null
    siltstone verify /dev/sda
}

# flaky DEVICE: dm-flakey fails all I/O for a while, then writes only. The job ends with an error, not otherwise; and then goes on to the right end.
flaky() {
    wipe $1
    rm -rf /tmp/out
    for features in "" "1 error_writes"; do
        dmsetup create flaky --table "0 $(blockdev --getsz $1) flakey $1 0 5 3 $features"
        status=0
        siltstone job flights --input /data/flights.csv --store /dev/mapper/flaky --output /tmp/out --shards 2 --memory 64M \
            --checkpoint-every 2000 || status=$?
        is "the exit status with '$features'" $status 1
        dmsetup remove --retry flaky
        siltstone verify $1
    done
    siltstone job flights --input /data/flights.csv --store "$1" --output /tmp/out --shards 2 --memory 64M
    (cd /tmp/out && sha256sum -c /data/outputs.sha256)
    siltstone verify "$1"
}

# record DEVICE LOG ARGUMENT...: a load on a device whose writes dm-log-writes puts into a log; the messages go to the host.
record() {
    dmsetup create logged --table "0 $(blockdev --getsz $1) log-writes $1 $2"
    log=$2
    shift 2
    siltstone-torture record --device /dev/mapper/logged --name logged --messages /tmp/messages "$@"
    dmsetup remove --retry logged
    # The kernel writes its log without a flush.
    dd if=/dev/null of=$log conv=notrunc,fsync 2>/dev/null
    cat /tmp/messages >/dev/vport0p1
}

# verify DEVICE
verify() {
    siltstone verify $1 || {
        echo "verify has found something"
        return 1
    }
}

# verified DEVICE COMMAND...: what a power failure has left is whole; then the command.
verified() {
    verify $1
    shift
    "$@"
}

# worker DEVICE ARGUMENT...: does what the host says through the virtual serial port, and tells it there. What it leaves when it ends well is whole.
worker() {
    device=$1
    shift
    siltstone-torture worker "$@" <>/dev/vport0p1 1>&0
    verify $device
}
