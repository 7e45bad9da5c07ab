#!/bin/sh
# The guest's first process: mounts what programs expect, loads the modules, runs the plan and switches the machine off.
# Lines for the host begin with @@.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/sbin HOME=/tmp TMPDIR=/tmp DM_DISABLE_UDEV=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs tmp /dev/shm
mount -t tmpfs tmp /tmp
# The end of the console's lines is a line feed alone.
stty -F /dev/console -onlcr

for module in $(cat /modules/order); do
    case $module in
        # Short queues: the host looks through them for each write.
        nvme.ko) insmod /modules/$module poll_queues=2 io_queue_depth=64 || echo "@@NOMODULE $module" ;;
        # Its disk is made by the step that needs it.
        scsi_debug.ko) ;;
        *) insmod /modules/$module || echo "@@NOMODULE $module" ;;
    esac
done
# Namespaces are scanned behind our back. How many there are is on the kernel's command line.
tries=0
while [ ! -b /dev/nvme0n$NAMESPACES ] && [ $tries -lt 300 ]; do
    sleep 0.1
    tries=$((tries + 1))
done

# step NAME COMMAND...: tells how the command ended. It runs until its first failure; of what it prints the end is shown then.
step() {
    name=$1
    shift
    echo "@@START $name"
    begun=$(cut -d. -f1 /proc/uptime)
    ( set -eu; "$@" ) </dev/null >/tmp/step.log 2>&1
    status=$?
    seconds=$(($(cut -d. -f1 /proc/uptime) - begun))
    if [ $status = 0 ]; then
        echo "@@PASS $seconds $name"
    else
        tail -n 15 /tmp/step.log | cut -c1-400
        echo "@@FAIL $seconds $name (status $status)"
    fi
}

. /steps.sh
. /plan.sh
echo "@@END"
sync
poweroff -f
