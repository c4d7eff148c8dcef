# Sourced by the scripts that a user-mode Linux guest runs as init. The guest's root is the host's file
# system (hostfs), so it writes nowhere but to BF_DIR; scratch space is a tmpfs at /mnt. Parameters arrive
# as kernel command line words:
#   BF_DIR    directory on the host: the verdict goes to BF_DIR/result, output of tools to BF_DIR/guest.log
#   BF_GUEST, BF_PREFIX, BF_HOST   addresses of guest and server
#   BF_PORT, BF_EXPORT             where the export is
#   BF_CONNECTIONS                 nbd-client -C
#   BF_CA                          if given: encrypt, with a server whose certificate is of this CA
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
  dmesg | tail -n 100 >"$BF_DIR/guest-dmesg.log"
  echo "$1" >"$BF_DIR/result"
  power_off
}

run() {
  step=$1
  shift
  echo "== $(cut -d' ' -f1 /proc/uptime) $step: $*"
  "$@" || finish "failed: $step: $* (exit $?)"
}

# attach DEVICE TIMEOUT_SECONDS: returns when the kernel knows the size.
attach() {
  local tls=
  [ -n "$BF_CA" ] && tls="-enable-tls -cacertfile $BF_CA -tlshostname localhost"
  # shellcheck disable=SC2086 # the words of tls are words
  run "attach $1" nbd-client -N "$BF_EXPORT" "$BF_HOST" "$BF_PORT" "/dev/$1" \
    -C "$BF_CONNECTIONS" -nonetlink -persist -timeout "$2" $tls
  for _ in $(seq 100); do
    [ "$(cat "/sys/block/$1/size")" != 0 ] && return
    sleep 0.05
  done
}

detach() {
  run "detach $1" nbd-client -d "/dev/$1"
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
