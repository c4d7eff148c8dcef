#!/bin/bash
# Init of the user-mode Linux guest: devices that `blockferry attach --persist` keeps, under load while their servers come and
# go. It tells the host how far it is in BF_DIR/stage, and waits for the host's word in BF_DIR/finish. Beside what guest-lib.sh
# names:
#   BF_NODE, BF_BIN                the command under test
#   BF_MOVING                      port of an address that moves between two servers
#   BF_FIRST, BF_SECOND            ports of the servers
. "${0%/*}/guest-lib.sh"

mount -t tmpfs run /run # what attach keeps there is not for the host

# keep DEVICE EXPORT PORT...: attached in the background, by what keeps it attached.
keep() {
  local device=$1 name=$2 uris=()
  shift 2
  for port in "$@"; do uris+=(--uri "nbd://$BF_HOST:$port/$name"); done
  "$BF_NODE" "$BF_BIN" attach "$name" "/dev/$device" --persist --timeout 3 --foreground "${uris[@]}" &
}

attached() {
  for _ in $(seq 600); do
    [ -e "/sys/block/$1/pid" ] && return
    sleep 0.1
  done
  finish "failed: $1 was not attached"
}

keep nbd0 moving "$BF_MOVING"
attached nbd0
keep nbd1 named "$BF_FIRST" "$BF_SECOND"
attached nbd1

run mkfs mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0
run mount mount -o errors=remount-ro /dev/nbd0 /mnt/fs

# Each line is synced before the next one is written: none may fail, and none may be lost.
ledger() {
  local line=0
  until [ -e "$BF_DIR/finish" ]; do
    line=$((line + 1))
    echo "$line" >>/mnt/fs/ledger && sync /mnt/fs/ledger || return
    echo "$line" >"$BF_DIR/lines"
    sleep 0.05
  done
}

# Round after round straight on the disk, each read back with its checksums.
rounds() {
  local round=0
  until [ -e "$BF_DIR/finish" ]; do
    round=$((round + 1))
    fio --name=rounds --filename=/dev/nbd1 --size=1m --rw=randwrite --bs=4k --ioengine=libaio --iodepth=8 \
      --direct=1 --rate=2m --randseed=$round --verify=crc32c --verify_fatal=1 --do_verify=1 >"$BF_DIR/fio.log" || return
    echo "$round" >"$BF_DIR/rounds"
  done
}

ledger &
ledger=$!
rounds &
rounds=$!
echo loading >"$BF_DIR/stage"
run ledger wait $ledger
run rounds wait $rounds
wc -l </mnt/fs/ledger >"$BF_DIR/written"
run unmount umount /mnt/fs
run fsck e2fsck -fn /dev/nbd0
run detach "$BF_NODE" "$BF_BIN" detach moving
[ -e /sys/block/nbd0/pid ] && finish 'failed: it is still attached'
run keeper wait %1
# Once more, by nbd-client, to the first device that is free.
run once "$BF_NODE" "$BF_BIN" attach moving --uri "nbd://$BF_HOST:$BF_MOVING/moving"
run fsck e2fsck -fn /dev/nbd0
"$BF_NODE" "$BF_BIN" attach --list --json >"$BF_DIR/list.json" || finish 'failed: list'
run detach "$BF_NODE" "$BF_BIN" detach moving
finish passed
