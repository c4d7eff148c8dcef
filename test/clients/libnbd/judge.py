"""What the scripts beside this one share: a libnbd handle that lets every wrong request through, and a
way to send bytes that libnbd has no call for over the same connection, between two of its requests.

libnbd parses all that the server says in the handshake and in its replies, and fails on anything that
breaks the protocol; so each of its calls also judges that the stream is still in step.
"""

import errno
import os
import struct
import sys

import nbd

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE = range(9)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))

NAMES = {number: name for number, name in errno.errorcode.items()}


def name_of(number):
    return "success" if number == 0 else NAMES.get(number, str(number))


def connect(uri, form="structured", contexts=()):
    """A connection with client-side checks off. `form` is simple or structured."""
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_request_structured_replies(form == "structured")
    for context in contexts:
        h.add_meta_context(context)
    h.connect_uri(uri)
    assert h.get_structured_replies_negotiated() == (form == "structured"), form
    return h


def outcome(call):
    """0, or the errno that the server answered."""
    try:
        call()
    except nbd.Error as error:
        # A connection that broke is no answer, whatever its errno.
        assert error.errnum not in (None, 0, errno.ENOTCONN, errno.EPIPE, errno.EPROTO), error
        return error.errnum
    return 0


def expect(h, wanted, what, call):
    """`wanted` is an errno, 0 for success, or a set of them. The connection must stay in step."""
    allowed = wanted if isinstance(wanted, (set, frozenset)) else {wanted}
    got = outcome(call)
    assert got in allowed, "%s: %s, expected %s" % (
        what,
        name_of(got),
        " or ".join(name_of(number) for number in sorted(allowed)),
    )
    in_step(h, what)


def in_step(h, what):
    assert h.aio_is_ready(), "%s: the connection is %s" % (what, h.connection_state())
    assert len(h.pread(16, 0)) == 16, what


def read_exactly(fd, count):
    parts = []
    while count > 0:
        part = os.read(fd, count)
        assert part, "the server closed the connection"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def raw(h, command, flags=0, offset=0, length=0, payload=b"", cookie=0x0123456789ABCDEF):
    """Sends one request of the compact form past libnbd and returns (errno, chunks), where a chunk
    is (type, payload); a simple reply has no chunks."""
    os.set_blocking(h.aio_get_fd(), True)
    try:
        fd = h.aio_get_fd()
        header = struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length)
        write_all(fd, header + payload)
        return read_reply(fd, cookie, length if command == READ else 0)
    finally:
        os.set_blocking(h.aio_get_fd(), False)


def read_reply(fd, cookie, data_bytes):
    chunks = []
    error = 0
    while True:
        (magic,) = struct.unpack(">I", read_exactly(fd, 4))
        if magic == 0x67446698:
            assert not chunks, "a simple reply among chunks"
            error, got = struct.unpack(">IQ", read_exactly(fd, 12))
            assert got == cookie, hex(got)
            if error == 0:
                read_exactly(fd, data_bytes)
            return error, chunks
        assert magic == 0x668E33EF, hex(magic)
        flags, kind, got, length = struct.unpack(">HHQI", read_exactly(fd, 16))
        assert got == cookie, hex(got)
        assert flags in (0, 1), hex(flags)
        payload = read_exactly(fd, length)
        chunks.append((kind, payload))
        if kind & 0x8000:
            code, text = struct.unpack(">IH", payload[:6])
            assert code != 0
            assert len(payload) == 6 + text + (8 if kind == 0x8002 else 0), (kind, payload)
            payload[6 : 6 + text].decode("utf-8")
            error = error or code
        if flags & 1:
            return error, chunks


def extents_of(h, context, length, offset, flags=0):
    """The (length, flags) pairs that one BLOCK_STATUS gives for one context."""
    found = []

    def called(name, start, entries, error):
        assert start == offset, (start, offset)
        if name == context:
            assert not found, "two chunks for one context"
            found.extend(zip(entries[::2], entries[1::2]))

    h.block_status(length, offset, called, flags)
    assert found, "no answer for %s" % context
    return found


def whole_map(h, context, step=(1 << 32) - 512):
    """Every extent of the export, neighbours of equal flags joined: [(start, length, flags)]."""
    size = h.get_size()
    runs = []
    offset = 0
    while offset < size:
        for length, flags in extents_of(h, context, min(step, size - offset), offset):
            assert length > 0
            if runs and runs[-1][2] == flags:
                runs[-1] = (runs[-1][0], runs[-1][1] + length, flags)
            else:
                runs.append((offset, length, flags))
            offset += length
    assert offset == size, (offset, size)
    return runs
