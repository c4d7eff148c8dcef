#!/bin/bash
# Init of the user-mode Linux guest: what a Linux host does with a network block device, from attach
# to power off. The guest's root is the host's file system (hostfs), so it writes nowhere but to
# BF_DIR; scratch space is a tmpfs. Parameters arrive as kernel command line words:
#   BF_DIR    directory on the host: result goes to BF_DIR/result, tool output to BF_DIR/guest.log
#   BF_GUEST, BF_PREFIX, BF_HOST   addresses of guest and server
#   BF_PORT, BF_EXPORT             where the export is
#   BF_CONNECTIONS                 nbd-client -C
#   BF_FIO_MIB                     bytes that each of two fio jobs writes and verifies
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C

exec >"$BF_DIR/guest.log" 2>&1
step=boot

power_off() {
  sync -f "$BF_DIR"
  echo o >/proc/sysrq-trigger
  sleep 60 # sysrq powers off from a work queue
}

finish() {
  echo "== $1"
  dmesg | tail -n 60 >"$BF_DIR/guest-dmesg.log"
  echo "$1" >"$BF_DIR/result"
  power_off
}

run() {
  step=$1
  shift
  echo "== $(cut -d' ' -f1 /proc/uptime) $step: $*"
  "$@" || finish "failed: $step: $* (exit $?)"
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /mnt
mkdir /mnt/fs

run modules insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko" nbds_max=4 max_part=0
run network ip link set lo up
run network ip addr add "$BF_GUEST/$BF_PREFIX" dev vec0
run network ip link set vec0 up

run attach nbd-client -N "$BF_EXPORT" "$BF_HOST" "$BF_PORT" /dev/nbd0 \
  -C "$BF_CONNECTIONS" -nonetlink -persist -timeout 30
for _ in $(seq 100); do
  [ "$(cat /sys/block/nbd0/size)" != 0 ] && break
  sleep 0.05
done
blockdev --getsize64 /dev/nbd0 >"$BF_DIR/size"
for flag in read_only queue/fua queue/write_cache queue/discard_max_bytes queue/write_zeroes_max_bytes; do
  [ -e "/sys/block/nbd0/$flag" ] && echo "$flag $(cat "/sys/block/nbd0/$flag")" >>"$BF_DIR/queue"
done

run mkfs mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0
run mount mount -o discard /dev/nbd0 /mnt/fs

# Random writes of mixed sizes, synced now and then; every block carries a checksum that fio reads back.
run fio fio --name=verify --directory=/mnt/fs --size="${BF_FIO_MIB}m" --rw=randwrite \
  --bssplit=4k/60:16k/20:64k/15:256k/5 --ioengine=psync --direct=1 --fsync=64 --numjobs=2 \
  --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting \
  --output="$BF_DIR/fio.log"
run delete rm /mnt/fs/verify.1.0
run trim fstrim -v /mnt/fs
run unmount umount /mnt/fs
run fsck e2fsck -fn /dev/nbd0

# After detach and attach all comes from the server, nothing from this kernel's cache.
run detach nbd-client -d /dev/nbd0
run reattach nbd-client -N "$BF_EXPORT" "$BF_HOST" "$BF_PORT" /dev/nbd1 \
  -C "$BF_CONNECTIONS" -nonetlink -persist -timeout 30
for _ in $(seq 100); do
  [ "$(cat /sys/block/nbd1/size)" != 0 ] && break
  sleep 0.05
done
run remount mount /dev/nbd1 /mnt/fs
run reread fio --name=verify --directory=/mnt/fs --filename=verify.0.0 --size="${BF_FIO_MIB}m" \
  --rw=randwrite --bssplit=4k/60:16k/20:64k/15:256k/5 --ioengine=psync --direct=1 \
  --verify=crc32c --verify_fatal=1 --verify_only --output="$BF_DIR/fio-reread.log"
run unmount umount /mnt/fs
run fsck e2fsck -fn /dev/nbd1
run detach nbd-client -d /dev/nbd1
finish passed
