"""counters.py write URI...: writes 1, 2, 3... to the start of each export in turn, always waiting for the answer, until the
server is gone or it is told to end.

counters.py read URI...: prints the number at the start of each export."""

import struct
import sys

import nbd

PLACE = 4096 + 512  # inside a block, so that the rest of it is copied up


def connect(uri):
    h = nbd.NBD()
    h.connect_uri(uri)
    return h


handles = [connect(uri) for uri in sys.argv[2:]]
if sys.argv[1] == "write":
    number = 0
    while True:
        number += 1
        for h in handles:
            h.pwrite(struct.pack(">Q", number), PLACE)
else:
    print(*(struct.unpack(">Q", h.pread(8, PLACE))[0] for h in handles))
