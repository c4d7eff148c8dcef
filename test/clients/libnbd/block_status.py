"""block_status.py URI SEED: what base:allocation and sparse reads say, against a model of the content.

The model is a bytearray that goes through the same writes, zeroes and trims. Block status may always say
"data"; it must never call a byte a hole or zero that is not zero, and must call holes what was never
written or was trimmed whole. Zeroes may be holes or zeroes that were written: that is the server's choice.
"""

import errno
import random
import sys

import nbd
from judge import *

uri, seed = sys.argv[1], int(sys.argv[2])
HOLE, ZERO = 1, 2
ALLOCATION = "base:allocation"
BLOCK = 4096

h = connect(uri, "structured", [ALLOCATION])
assert h.can_meta_context(ALLOCATION)
size = h.get_size()
span = 48 << 20  # what the model covers; the rest stays empty
assert size > (1 << 32) + span

# Nothing was written: one hole, told in one extent although it is longer than 32 bits can say.
assert whole_map(h, ALLOCATION) == [(0, size, HOLE | ZERO)]
told = extents_of(h, ALLOCATION, (1 << 32) - 1, 0)
assert len(told) == 1 and told[0][0] >= (1 << 32) - 4096, told
told = extents_of(h, ALLOCATION, (1 << 32) - 512, size - ((1 << 32) - 512))
assert told == [((1 << 32) - 512, HOLE | ZERO)], told

# Data at the edges of what 32 bits can say, and at the end.
for offset in (0, (1 << 32) - BLOCK, 1 << 32, size - BLOCK):
    h.pwrite(b"d" * BLOCK, offset)
assert whole_map(h, ALLOCATION) == [
    (0, BLOCK, 0),
    (BLOCK, (1 << 32) - 2 * BLOCK, HOLE | ZERO),
    ((1 << 32) - BLOCK, 2 * BLOCK, 0),
    ((1 << 32) + BLOCK, size - (1 << 32) - 2 * BLOCK, HOLE | ZERO),
    (size - BLOCK, BLOCK, 0),
]
h.trim(BLOCK, (1 << 32) - BLOCK)
h.trim(BLOCK, 1 << 32)
h.trim(BLOCK, 0)
h.trim(BLOCK, size - BLOCK)
assert whole_map(h, ALLOCATION) == [(0, size, HOLE | ZERO)], whole_map(h, ALLOCATION)

# Zeroes that must keep their space are no hole.
h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_NO_HOLE)
for start, length, flags in whole_map(h, ALLOCATION):
    if start < 2 << 20 and start + length > 1 << 20:
        assert not flags & HOLE, (start, length, flags)
h.trim(1 << 20, 1 << 20)


def refused(wanted, *request):
    error, chunks = raw(h, BLOCK_STATUS, *request)
    assert error == wanted, (request, name_of(error))
    assert all(kind & 0x8000 or kind == 0 for kind, _ in chunks), "an answer beside the error"
    in_step(h, "block status %r" % (request,))


refused(errno.EINVAL, 0, 0, 0)
refused(errno.EINVAL, 0, size, 1)
refused(errno.EINVAL, 0, size - 1, 2)
refused(errno.EINVAL, 0, size - 512, (1 << 32) - 1)
refused(errno.EINVAL, 0, (1 << 64) - 512, 512)
for flag in (NO_HOLE, DF, FAST_ZERO, PAYLOAD_LEN, 0x40, 0x8000):
    refused(errno.EINVAL, flag, 0, 512)
assert raw(h, BLOCK_STATUS, FUA, 0, 512)[0] == 0
assert raw(h, BLOCK_STATUS, FUA | REQ_ONE, 0, 512)[0] == 0


def check_status(model, offset, length):
    one = rng.random() < 0.3
    told = extents_of(h, ALLOCATION, length, offset, nbd.CMD_FLAG_REQ_ONE if one else 0)
    what = "status of %d at %d: %r" % (length, offset, told)
    if one:
        assert len(told) == 1 and told[0][0] <= length, what
    position, end = offset, offset + length
    for index, (run, flags) in enumerate(told):
        assert run > 0 and flags in (0, ZERO, HOLE | ZERO), what
        assert index == len(told) - 1 or position + run < end, what
        assert index == 0 or told[index - 1][1] != flags, what
        assert position + run <= size, what
        if flags & ZERO:
            part = model[position : min(position + run, span)]
            assert not any(part), what
        position += run


def check_read(model, offset, length, flags):
    seen = []

    def chunk(data, start, status, error):
        assert error.value == 0
        seen.append((start, len(data), status))
        if status == nbd.READ_HOLE:
            assert not any(data)

    data = h.pread_structured(length, offset, chunk, flags)
    what = "read of %d at %d: %r" % (length, offset, seen)
    assert data == model[offset : offset + length], what
    position = offset
    for start, count, _ in sorted(seen):
        assert start == position and count > 0, what
        position += count
    assert position == offset + length, what
    if flags & nbd.CMD_FLAG_DF:
        assert len(seen) == 1 and seen[0][2] == nbd.READ_DATA, what
    return any(status == nbd.READ_HOLE for _, _, status in seen)


rng = random.Random(seed)
model = bytearray(span)
holes = 0
for step in range(600):
    length = rng.choice((1, 511, 512, BLOCK, 3 * BLOCK + 7, 65536, 65536, 1 << 20, 5 << 20))
    offset = rng.randrange(span - length)
    if rng.random() < 0.6:
        offset -= offset % BLOCK
    kind = rng.randrange(10)
    if kind < 3:
        data = rng.randbytes(min(length, 1 << 20))
        h.pwrite(data, offset)
        model[offset : offset + len(data)] = data
    elif kind == 3:
        h.zero(length, offset, rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        model[offset : offset + length] = bytes(length)
    elif kind == 4:
        h.trim(length, offset)
        # Whole blocks read as zeroes afterwards, what is beside them stays or becomes zero.
        for part in ((offset, length),):
            fresh = h.pread(part[1], part[0])
            first, last = -(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK
            for at in (i for i in range(length) if fresh[i] != model[offset + i]):
                assert fresh[at] == 0, "trim left neither the old byte nor zero"
            if last > first:
                assert not any(fresh[first - offset : last - offset]), "trim kept whole blocks"
            model[offset : offset + length] = fresh
    elif kind < 7:
        check_status(model, offset, length)
    else:
        flags = nbd.CMD_FLAG_DF if length <= 65536 and rng.random() < 0.4 else 0
        holes += check_read(model, offset, length, flags)
assert holes > 10, "sparse reads told %d holes" % holes

# A large unfragmented read is served or refused as too long, never in parts.
got = outcome(lambda: check_read(model, 0, 16 << 20, nbd.CMD_FLAG_DF))
assert got in (0, errno.EOVERFLOW), name_of(got)

# What was given back whole is told as holes, to the block.
h.trim(span, 0)
h.pwrite(b"x" * 10000, 100001)
first, last = 100001 // BLOCK * BLOCK, -(-110001 // BLOCK) * BLOCK
wanted = [(0, first, 3), (first, last - first, 0), (last, size - last, 3)]
assert whole_map(h, ALLOCATION) == wanted, whole_map(h, ALLOCATION)

# REQ_ONE stops at the end of what was asked, also inside a run.
assert extents_of(h, ALLOCATION, 512, 512, nbd.CMD_FLAG_REQ_ONE) == [(512, 3)]
assert extents_of(h, ALLOCATION, 5, first + 1, nbd.CMD_FLAG_REQ_ONE) == [(5, 0)]
h.shutdown()
print("judged")
