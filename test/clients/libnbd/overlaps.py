"""overlaps.py URI SEED OPERATIONS: overlapping writes, zeroes, trims, flushes and reads, many in flight over
four connections.

Each sector is a register: a read may give what was written by an operation that was not yet overwritten for
sure: by one that was issued after its acknowledgement and acknowledged before the read was issued. At the end
every connection must read the same."""

import random
import struct
import sys

import nbd

SECTOR = 512
BLOCK = 4096
SPAN = 2 << 20
SECTORS = SPAN // SECTOR
DEPTH = 12
NEVER = 1 << 60

uri, seed, operations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
handles = []
for _ in range(4):
    h = nbd.NBD()
    h.connect_uri(uri)
    handles.append(h)


handles[0].zero(SPAN, 0)


class Change:
    __slots__ = ("value", "issued", "acked")

    def __init__(self, value, issued):
        self.value = value
        self.issued = issued
        self.acked = NEVER


clock = 0
history = [[Change(0, -2)] for _ in range(SECTORS)]
for changes in history:
    changes[0].acked = -1
flying = [0] * len(handles)
# When each read in flight was issued.
reading = set()
seen = {"reads": 0, "late": 0}


def tick():
    global clock
    clock += 1
    return clock


def prune(changes, now):
    """Forgets what no read may give any more, neither one in flight nor one that is issued from now on."""
    before = min(reading, default=now)
    newest = max((c.issued for c in changes if c.acked < before), default=-3)
    return [c for c in changes if c.acked >= newest]


def change(h, index, kind, first, count):
    now = tick()
    value = now if kind == "write" else 0
    made = Change(value, now)
    for sector in range(first, first + count):
        history[sector] = prune(history[sector], now)
        history[sector].append(made)
    flying[index] += 1

    def done(error):
        assert error.value == 0, (kind, error.value)
        made.acked = tick()
        flying[index] -= 1
        return 1

    offset, length = first * SECTOR, count * SECTOR
    flags = nbd.CMD_FLAG_FUA if rng.random() < 0.02 else 0
    if kind == "write":
        data = bytearray(struct.pack(">Q", value) * (length // 8))
        h.aio_pwrite(nbd.Buffer.from_bytearray(data), offset, done, flags)
    elif kind == "zero":
        no_hole = nbd.CMD_FLAG_NO_HOLE if rng.random() < 0.3 else 0
        h.aio_zero(length, offset, done, flags | no_hole)
    else:
        h.aio_trim(length, offset, done, flags)


def read(h, index, first, count):
    issued = tick()
    reading.add(issued)
    buffer = nbd.Buffer(count * SECTOR)
    flying[index] += 1
    seen["reads"] += 1

    def done(error):
        assert error.value == 0, error.value
        flying[index] -= 1
        reading.discard(issued)
        data = bytes(buffer.to_bytearray())
        for at in range(count):
            part = data[at * SECTOR : (at + 1) * SECTOR]
            (value,) = struct.unpack(">Q", part[:8])
            assert part == struct.pack(">Q", value) * (SECTOR // 8), "a torn sector"
            known = history[first + at]
            over = [o for o in known if o.acked < issued]
            allowed = {w.value for w in known if not any(w.acked < o.issued for o in over)}
            assert value in allowed, (first + at, value, sorted(allowed))
            seen["late"] += len(allowed) > 1
        return 1

    h.aio_pread(buffer, first * SECTOR, done)


def flush(h, index):
    flying[index] += 1

    def done(error):
        assert error.value == 0, error.value
        flying[index] -= 1
        return 1

    h.aio_flush(done)


def poll_all():
    for h in handles:
        while h.poll(0) > 0:
            pass


left = operations
while left > 0 or any(flying):
    for index, h in enumerate(handles):
        while left > 0 and flying[index] < DEPTH:
            left -= 1
            kind = rng.choice(("write", "write", "write", "zero", "trim", "read", "read", "flush"))
            if kind == "flush":
                if rng.random() < 0.2:
                    flush(h, index)
                continue
            length = rng.choice((1, 1, 2, 7, 8, 8, 9, 64, 256, 1000))
            first = rng.randrange(SECTORS - length)
            if kind == "trim":
                first -= first % 8
                length = max(8, length - length % 8)
            if kind == "read":
                read(h, index, first, length)
            else:
                change(h, index, kind, first, length)
    poll_all()

images = [h.pread(SPAN, 0) for h in handles]
assert all(image == images[0] for image in images), "two connections read different bytes"
assert seen["reads"] > operations // 8, seen
assert seen["late"] > 100, "too little was in flight together: %r" % seen
for h in handles:
    h.shutdown()
print("judged")
