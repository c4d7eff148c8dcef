"""Writes random bytes to the first LENGTH bytes of an export, and to an image of it what the export has afterwards.

A write that the export refuses with ENOSPC leaves each byte as it was or as it was to be: what it left is read back and
goes into the image. Prints how many were refused, the flush included.

Usage: fill.py URI LENGTH IMAGE
"""

import os
import sys

import nbd

uri, length, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
CHUNK = 65536

h = nbd.NBD()
h.connect_uri(uri)
refused = 0


def attempt(call):
    """0, or 1 when there was no space."""
    try:
        call()
        return 0
    except nbd.Error as error:
        if error.errno != "ENOSPC":
            raise
        return 1


with open(path, "r+b") as image:
    # Off by a part of a block: the edges of each write are copied up.
    for offset in range(512, length - CHUNK, CHUNK):
        new = os.urandom(CHUNK)
        old = os.pread(image.fileno(), CHUNK, offset)
        if attempt(lambda: h.pwrite(new, offset)) == 0:
            os.pwrite(image.fileno(), new, offset)
            continue
        refused += 1
        left = h.pread(CHUNK, offset)
        mixed = zip(left, old, new)
        assert all(byte in (was, wanted) for byte, was, wanted in mixed), hex(offset)
        os.pwrite(image.fileno(), left, offset)

refused += attempt(h.flush)
h.shutdown()
print(refused)
