"""wrong_requests.py URI FORM: requests that no well-behaved client sends. The volume is over 4 GiB."""

import errno
import sys

import nbd
from judge import *

uri, form = sys.argv[1:3]
h = connect(uri, form)
size = h.get_size()
assert size > (1 << 32) + (1 << 20), size

# Past the end, from one byte to the largest offsets that there are.
for offset in (size, size - 1, size - 511, size + 512, 1 << 53, (1 << 63) - 512):
    for count in (512, 4096):
        at = "%d bytes at %d" % (count, offset)
        expect(h, errno.EINVAL, "read " + at, lambda: h.pread(count, offset))
        expect(h, errno.ENOSPC, "write " + at, lambda: h.pwrite(b"x" * count, offset))
        expect(h, errno.ENOSPC, "zero " + at, lambda: h.zero(count, offset))
        expect(h, errno.EINVAL, "trim " + at, lambda: h.trim(count, offset))
        expect(h, errno.EINVAL, "cache " + at, lambda: h.cache(count, offset))
for offset in ((1 << 64) - 512, (1 << 64) - 1, 1 << 63):
    for command, wanted in (
        (READ, errno.EINVAL),
        (WRITE_ZEROES, errno.ENOSPC),
        (TRIM, errno.EINVAL),
        (CACHE, errno.EINVAL),
    ):
        got = raw(h, command, 0, offset, 512)[0]
        assert got == wanted, (command, offset, name_of(got))
        in_step(h, "command %d at %d" % (command, offset))
    got = raw(h, WRITE, 0, offset, 512, b"x" * 512)[0]
    assert got == errno.ENOSPC, (offset, name_of(got))
    in_step(h, "write at %d" % offset)
expect(h, errno.ENOSPC, "zero 4 GiB past the end", lambda: h.zero((1 << 32) - 512, size - 512))
expect(h, errno.EINVAL, "trim 4 GiB past the end", lambda: h.trim((1 << 32) - 512, size - 512))
for offset in (size - 512, (1 << 32) - 256, (1 << 32) - 1):
    h.pwrite(b"e" * 512, offset)
    assert h.pread(512, offset) == b"e" * 512

# Flags that do not belong to the command, flags that nobody defined, and flags that were not offered.
FLAGS_OF = {
    READ: FUA | (DF if form == "structured" else 0),
    WRITE: FUA,
    FLUSH: FUA,
    TRIM: FUA,
    CACHE: FUA,
    WRITE_ZEROES: FUA | NO_HOLE | FAST_ZERO,
}
assert h.can_fast_zero() and h.can_cache() and h.can_df() == (form == "structured")
h.pwrite(b"k" * 4096, 8192)
for command, legal in FLAGS_OF.items():
    for bit in range(16):
        flags = 1 << bit
        if flags & legal:
            continue
        length = 0 if command == FLUSH else 4096
        payload = b"x" * 4096 if command == WRITE else b""
        got = raw(h, command, flags, 0 if command == FLUSH else 8192, length, payload)[0]
        assert got == errno.EINVAL, "command %d flags %#x: %s" % (command, flags, name_of(got))
        in_step(h, "flags")
assert h.pread(4096, 8192) == b"k" * 4096, "a refused request changed the content"

# FUA is legal on everything that was offered.
for command in FLAGS_OF:
    length = 0 if command == FLUSH else 512
    payload = b"f" * 512 if command == WRITE else b""
    error, _ = raw(h, command, FUA, 0, length, payload)
    assert error == 0, "FUA on command %d: %s" % (command, name_of(error))
    in_step(h, "FUA")

# Commands that nobody defined carry no payload.
for command in (8, 9, 42, 0x7FFF, 0xFFFF):
    for flags in (0, FUA, 0xFFFF):
        error, chunks = raw(h, command, flags, 4096, 4096)
        assert error == errno.EINVAL, (command, flags, name_of(error))
        assert (chunks != []) == (form == "structured"), "an error with text where that is agreed"
        in_step(h, "command %d" % command)

# BLOCK_STATUS without a context.
for length in (0, 512, (1 << 32) - 1):
    error, _ = raw(h, BLOCK_STATUS, 0, 0, length)
    assert error == errno.EINVAL, (length, name_of(error))
    in_step(h, "block status")

# Length 0 succeeds and does nothing.
for command in (READ, WRITE, TRIM, CACHE, WRITE_ZEROES):
    for offset in (0, 1, 4096, size):
        error, chunks = raw(h, command, 0, offset, 0)
        assert error == 0, "command %d, no bytes at %d: %s" % (command, offset, name_of(error))
        assert all(kind == 0 for kind, _ in chunks), chunks
        in_step(h, "no bytes")
expect(h, 0, "read of nothing", lambda: h.pread(0, 0))

# FLUSH has no range.
for offset, length in ((512, 0), (0, 512), (size, 1)):
    error, _ = raw(h, FLUSH, 0, offset, length)
    assert error == errno.EINVAL, (offset, length, name_of(error))
    in_step(h, "flush with a range")

# Payloads over the largest that was offered (32 MiB).
LARGEST = 32 << 20
assert h.get_block_size(nbd.SIZE_MAXIMUM) == LARGEST
h.pwrite(b"l" * LARGEST, 1)
assert h.pread(LARGEST, 1) == b"l" * LARGEST
over = {errno.EINVAL} if form == "simple" else {0, errno.EINVAL, errno.EOVERFLOW}
expect(h, over, "read of 33 MiB", lambda: h.pread(33 << 20, 0))
expect(h, over, "read of 64 MiB", lambda: h.pread(64 << 20, 0))
expect(h, errno.EINVAL, "write of one byte too many", lambda: h.pwrite(b"x" * (LARGEST + 1), 0))
expect(h, errno.EINVAL, "write of 64 MiB", lambda: h.pwrite(b"x" * (64 << 20), 0))
assert h.pread(4, 1) == b"llll", "a refused write changed the content"

# Any size and any offset is served.
for offset, count in ((1, 1), (4095, 2), (511, 513), ((1 << 32) - 3, 7), (size - 1, 1)):
    data = bytes((offset + i) % 251 for i in range(count))
    h.pwrite(data, offset, nbd.CMD_FLAG_FUA)
    assert h.pread(count, offset) == data, (offset, count)
    h.zero(count, offset)
    assert h.pread(count, offset) == bytes(count), (offset, count)
    h.cache(count, offset)
    h.trim(count, offset)

# Zeroes that must be fast or nothing; never with ENOTSUP where they need not be.
h.pwrite(b"z" * 65536, 1 << 20)
for offset, count in ((1 << 20, 65536), ((1 << 20) + 1, 510), ((1 << 20) + 4095, 4098)):
    before = h.pread(count, offset)
    got = outcome(lambda: h.zero(count, offset, nbd.CMD_FLAG_FAST_ZERO))
    assert got in (0, errno.ENOTSUP), name_of(got)
    after = h.pread(count, offset)
    assert after == (bytes(count) if got == 0 else before), "fast zero of %d at %d" % (count, offset)
for flags in (0, NO_HOLE, FUA, NO_HOLE | FUA):
    h.pwrite(b"z" * 8193, 12345)
    h.zero(8193, 12345, flags)
    assert h.pread(8193, 12345) == bytes(8193), flags

# Ranges as large as the wire can name them.
h.pwrite(b"t" * 512, 1 << 30)
for call in (h.zero, h.trim):
    call((1 << 32) - 1, 1)
    assert h.pread(512, 1 << 30) == bytes(512)
h.cache((1 << 32) - 1, 0)
in_step(h, "4 GiB at once")

# Pipelined writes with a disconnect right behind them: every one of them counts.
done = []
for i in range(100):
    buffer = nbd.Buffer.from_bytearray(bytearray([i + 1]) * 4096)
    h.aio_pwrite(buffer, i * 4096, lambda error: done.append(error.value) or 1)
h.shutdown()
assert done == [0] * 100, done
h = connect(uri, form)
for i in range(100):
    assert h.pread(4096, i * 4096) == bytes([i + 1]) * 4096, i

# Requests far apart in one burst: a wrong one among right ones takes none of them with it.
results = {}
for i in range(64):
    offset = size if i % 7 == 3 else i * 4096
    h.aio_pread(
        nbd.Buffer(4096), offset, lambda error, i=i: results.__setitem__(i, error.value) or 1
    )
while len(results) < 64:
    h.poll(-1)
assert all((results[i] != 0) == (i % 7 == 3) for i in results), results
h.shutdown()
print("judged")
