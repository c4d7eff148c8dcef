/**
 * What runs around and inside the user-mode kernel (guest.ts): texts that a round writes into its directory or passes on a command
 * line, so that the drills are whole wherever the package is.
 */

/**
 * Python, in the namespace: HOST PORT=PATH...: each port leads to a unix socket of the host. One that nobody listens at, or
 * that ends, ends the client's connection.
 */
export const BRIDGE = `
import asyncio, sys
BLOCK = 256 * 1024
async def carry(reader, writer):
    try:
        while data := await reader.read(BLOCK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
def door(path):
    async def accept(reader, writer):
        try:
            there, thither = await asyncio.open_unix_connection(path)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(carry(reader, thither), carry(there, writer))
    return accept
async def main(host, *doors):
    servers = []
    for each in doors:
        port, path = each.split('=', 1)
        servers.append(await asyncio.start_server(door(path), host, int(port)))
    print('ready', flush=True)
    await asyncio.gather(*(each.serve_forever() for each in servers))
asyncio.run(main(*sys.argv[1:]))
`;

/** Python, in the guest: FILE ANSWERS FINISH: numbered lines, each synced and noted (answers.ts) before the next one. */
export const LEDGER = `
import os, struct, sys, time
path, answers, finish = sys.argv[1:]
ledger = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
line = 0
while not os.path.exists(finish):
    line += 1
    begin = time.time()
    os.write(ledger, b'%015d\\n' % line)
    os.fsync(ledger)
    end = time.time()
    # Closed each time: only then does the host see it.
    with open(answers, 'ab') as notes:
        notes.write(struct.pack('<4d', 0, line, begin * 1000, end * 1000))
    time.sleep(0.01)
`;

/** Python, in the guest: DATABASE TOLD FINISH: one transaction after the other, each durable before it is told. */
export const DATABASE = `
import os, sqlite3, sys, time
path, told, finish = sys.argv[1:]
db = sqlite3.connect(path, isolation_level=None)
db.execute('PRAGMA synchronous=EXTRA')
db.execute('CREATE TABLE paid (number INTEGER PRIMARY KEY, bytes BLOB)')
number = 0
while not os.path.exists(finish):
    number += 1
    db.execute('INSERT INTO paid VALUES (?, randomblob(3000))', (number,))
    with open(told, 'w') as file:
        file.write(str(number))
    time.sleep(0.03)
db.close()
`;

/**
 * The guest's init. Its root is the host's file system (hostfs), so it writes nowhere but to BF_DIR. Words of the kernel's command
 * line: BF_DIR, BF_GUEST (address/bits), BF_HOST, BF_PORTS (of the servers, with commas), BF_EXPORT, BF_TIMEOUT (seconds), BF_NODE and
 * BF_BIN (the command under test), BF_LEDGER and BF_DATABASE (names of files), BF_FIO (1: with rounds of fio). It tells how far it is in BF_DIR/stage and
 * BF_DIR/result, and ends when BF_DIR/finish is there.
 */
export const INIT = `#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C
exec >"$BF_DIR/guest.log" 2>&1
finish() {
  echo "== $1"
  dmesg | tail -n 100 >"$BF_DIR/guest-dmesg.log"
  echo "$1" >"$BF_DIR/result"
  sync -f "$BF_DIR"
  echo o >/proc/sysrq-trigger
  sleep 60 # sysrq powers off from a work queue
}
run() {
  echo "== $(cut -d' ' -f1 /proc/uptime) $*"
  "$@" || finish "failed: $* (exit $?)"
}
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /mnt
mount -t tmpfs run /run # what attach keeps there is not for the host
mkdir /mnt/fs
run insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko" nbds_max=1 max_part=0
run ip link set lo up
run ip addr add "$BF_GUEST" dev vec0
run ip link set vec0 up

uris=()
for port in \${BF_PORTS//,/ }; do uris+=(--uri "nbd://$BF_HOST:$port/$BF_EXPORT"); done
"$BF_NODE" "$BF_BIN" attach "$BF_EXPORT" /dev/nbd0 --persist --timeout "$BF_TIMEOUT" --foreground "\${uris[@]}" &
keeper=$!
for _ in $(seq 600); do
  [ -e /sys/block/nbd0/pid ] && break
  sleep 0.1
done
[ -e /sys/block/nbd0/pid ] || finish 'failed: not attached'
# Without a TRIM of the whole volume first: it would make every region of it an active one.
run mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0
run mount -o errors=remount-ro,discard /dev/nbd0 /mnt/fs

# Round after round, each read back with its checksums.
rounds() {
  local round=0
  until [ -e "$BF_DIR/finish" ]; do
    round=$((round + 1))
    fio --name=rounds --directory=/mnt/fs --size=1m --rw=randwrite --bs=4k --ioengine=libaio --iodepth=8 \\
      --direct=1 --rate=2m --randseed=$round --verify=crc32c --verify_fatal=1 --do_verify=1 >"$BF_DIR/fio.log" || return
    echo "$round" >"$BF_DIR/rounds"
  done
}
loads=()
python3 -B "$BF_DIR/ledger.py" "/mnt/fs/$BF_LEDGER" "$BF_DIR/answers" "$BF_DIR/finish" &
loads+=($!)
python3 -B "$BF_DIR/database.py" "/mnt/fs/$BF_DATABASE" "$BF_DIR/transactions" "$BF_DIR/finish" &
loads+=($!)
[ "$BF_FIO" = 1 ] && { rounds & loads+=($!); }
echo loading >"$BF_DIR/stage"
for load in "\${loads[@]}"; do run wait "$load"; done
run umount /mnt/fs
run e2fsck -fn /dev/nbd0
run "$BF_NODE" "$BF_BIN" detach /dev/nbd0
run wait $keeper
finish passed
`;
