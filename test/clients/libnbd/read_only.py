"""read_only.py URI: an export that takes no change. It says so; a client that asks all the same is answered EPERM for
every kind of change, whatever its form, and the connection goes on; the content is the same afterwards."""

import errno
import sys

import nbd

from judge import FAST_ZERO, FUA, NO_HOLE, TRIM, WRITE, WRITE_ZEROES, connect, expect, raw

BLOCK = 4096
REFUSED = errno.EPERM


def check(form):
    h = connect(sys.argv[1], form)
    assert h.is_read_only()
    size = h.get_size()
    span = min(size, 1 << 20)
    before = h.pread(span, 0)
    payload = b"\xa5" * BLOCK
    for offset in (0, size - BLOCK):
        expect(h, REFUSED, "write", lambda at=offset: h.pwrite(payload, at))
        expect(h, REFUSED, "write with FUA", lambda at=offset: h.pwrite(payload, at, nbd.CMD_FLAG_FUA))
        expect(h, REFUSED, "trim", lambda at=offset: h.trim(BLOCK, at))
        expect(h, REFUSED, "zero", lambda at=offset: h.zero(BLOCK, at))
    for command, flags in ((TRIM, FUA), (WRITE_ZEROES, NO_HOLE), (WRITE_ZEROES, FAST_ZERO)):
        error, _ = raw(h, command, flags, 0, BLOCK)
        assert error == REFUSED, (command, flags, error)
    error, _ = raw(h, WRITE, 0, 512, 512, payload[:512])
    assert error == REFUSED, error
    assert h.pread(span, 0) == before
    h.shutdown()


check("structured")
check("simple")
print("passed")
