#!/bin/bash
# Init of the user-mode Linux guest: a load that goes on while the host cuts connections and stops the
# server. It tells the host how far it is in BF_DIR/stage. Beside what guest-lib.sh names:
#   BF_TIMEOUT                     seconds after which the kernel sends a request again elsewhere
#   BF_FIO_MIB                     bytes that fio writes and verifies, at 8 MiB/s
. "${0%/*}/guest-lib.sh"

attach nbd0 "$BF_TIMEOUT"
blockdev --getsize64 /dev/nbd0 >"$BF_DIR/size"

# Straight on the disk, many in flight: every request that the kernel fails is an error of fio's.
echo loading >"$BF_DIR/stage"
run load fio --name=load --filename=/dev/nbd0 --size="${BF_FIO_MIB}m" --rw=randwrite \
  --bssplit=4k/60:16k/20:64k/15:256k/5 --ioengine=libaio --iodepth=32 --direct=1 --rate=8m \
  --fsync=256 --verify=crc32c --verify_fatal=1 --do_verify=1 --output="$BF_DIR/fio.log"
echo loaded >"$BF_DIR/stage"
run flush blockdev --flushbufs /dev/nbd0
detach nbd0
finish passed
