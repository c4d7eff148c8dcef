#!/bin/bash
# Init of the user-mode Linux guest: what a Linux host does with a network block device, from attach
# to power off. Beside what guest-lib.sh names:
#   BF_FIO_MIB                     bytes that each of two fio jobs writes and verifies
. "${0%/*}/guest-lib.sh"

attach nbd0 30
blockdev --getsize64 /dev/nbd0 >"$BF_DIR/size"
for flag in read_only queue/fua queue/write_cache queue/discard_max_bytes queue/write_zeroes_max_bytes; do
  [ -e "/sys/block/nbd0/$flag" ] && echo "$flag $(cat "/sys/block/nbd0/$flag")" >>"$BF_DIR/queue"
done

run mkfs mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0
run mount mount /dev/nbd0 /mnt/fs

# Random writes of mixed sizes, synced now and then; every block carries a checksum that fio reads back.
run fio fio --name=verify --directory=/mnt/fs --size="${BF_FIO_MIB}m" --rw=randwrite \
  --bssplit=4k/60:16k/20:64k/15:256k/5 --ioengine=psync --direct=1 --fsync=64 --numjobs=2 \
  --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting \
  --output="$BF_DIR/fio.log"
run delete rm /mnt/fs/verify.1.0
run commit sync -f /mnt/fs # until then the file's blocks are not free
run trim fstrim -v /mnt/fs
run unmount umount /mnt/fs
run fsck e2fsck -fn /dev/nbd0

# After detach and attach all comes from the server, nothing from this kernel's cache.
detach nbd0
attach nbd1 30
run remount mount -o discard /dev/nbd1 /mnt/fs # trims at each commit
run reread fio --name=verify --directory=/mnt/fs --filename=verify.0.0 --size="${BF_FIO_MIB}m" \
  --rw=randwrite --bssplit=4k/60:16k/20:64k/15:256k/5 --ioengine=psync --direct=1 \
  --verify=crc32c --verify_fatal=1 --verify_only --output="$BF_DIR/fio-reread.log"
run copy dd if=/mnt/fs/verify.0.0 of=/mnt/fs/copy bs=64k count=64 status=none conv=fsync
run delete rm /mnt/fs/copy
run commit sync -f /mnt/fs
run unmount umount /mnt/fs
run fsck e2fsck -fn /dev/nbd1
detach nbd1
finish passed
