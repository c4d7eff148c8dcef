"""slots.py write URI LOG SEED: keeps writing slots at random, many in flight over two connections, each time the next
number all over the slot, rarely with FUA or followed by a flush, until the server is gone. LOG gets a line before
a write is sent ("i SLOT NUMBER") and after it was answered ("a SLOT NUMBER"); never two in flight for one slot.

slots.py check URI ACKED ISSUED LOG: every sector of every slot holds one number, no less than the last that LOG's first ACKED
bytes tell to be answered, and no more than the last that its first ISSUED bytes tell to be sent.
Prints how many slots held a number."""

import os
import random
import struct
import sys

import nbd

SLOT = 16384
SECTOR = 512
SLOTS = 3072
DEPTH = 24


def write(uri, log, seed):
    rng = random.Random(seed)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    handles = [nbd.NBD() for _ in range(2)]
    for h in handles:
        h.connect_uri(uri)
    numbers = [0] * SLOTS
    busy = set()

    def answered(slot, number):
        def called(error):
            if error.value == 0:
                os.write(out, b"a %d %d\n" % (slot, number))
                busy.discard(slot)
            return 1

        return called

    try:
        while True:
            while len(busy) < DEPTH:
                slot = rng.randrange(SLOTS)
                if slot in busy:
                    continue
                busy.add(slot)
                numbers[slot] += 1
                data = nbd.Buffer.from_bytearray(bytearray(struct.pack(">Q", numbers[slot]) * (SLOT // 8)))
                os.write(out, b"i %d %d\n" % (slot, numbers[slot]))
                h = handles[rng.randrange(2)]
                flags = nbd.CMD_FLAG_FUA if rng.random() < 0.002 else 0
                h.aio_pwrite(data, slot * SLOT, answered(slot, numbers[slot]), flags)
                if rng.random() < 0.001:
                    h.aio_flush()
            for h in handles:
                h.poll(1 if h.aio_in_flight() else 0)
    except nbd.Error as error:
        print("ended:", error)


def states(log, length):
    """The last number of each slot that was sent, and that was answered, in the first bytes of the log."""
    last = {"i": [0] * SLOTS, "a": [0] * SLOTS}
    with open(log, "rb") as lines:
        for line in lines.read(length).decode().splitlines(True):
            if line.endswith("\n"):
                kind, slot, number = line.split()
                last[kind][int(slot)] = int(number)
    return last


def check(uri, acked_bytes, issued_bytes, log):
    least = states(log, acked_bytes)["a"]
    most = states(log, issued_bytes)["i"]
    h = nbd.NBD()
    h.connect_uri(uri)
    held = 0
    for slot in range(SLOTS):
        content = h.pread(SLOT, slot * SLOT)
        whole = content == content[:8] * (SLOT // 8)
        for at in range(0, SECTOR if whole else SLOT, SECTOR):
            sector = content[at : at + SECTOR]
            assert sector == sector[:8] * (SECTOR // 8), "slot %d: a torn sector at %d" % (slot, at)
            (number,) = struct.unpack(">Q", sector[:8])
            assert least[slot] <= number <= most[slot], (
                "slot %d at %d holds %d, not %d to %d" % (slot, at, number, least[slot], most[slot])
            )
        held += content[:8] != bytes(8)
    print(held)


if sys.argv[1] == "write":
    write(sys.argv[2], sys.argv[3], int(sys.argv[4]))
else:
    check(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
