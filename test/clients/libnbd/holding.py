"""holding.py URI: holds a connection and reads the first block ten times a second; says what it read whenever that is
another byte than before, and that the server is gone when it is."""

import sys
import time

import nbd

h = nbd.NBD()
h.connect_uri(sys.argv[1])
last = None
try:
    while True:
        content = h.pread(4096, 0)
        assert content == content[:1] * 4096, "a block of two contents"
        if content[0] != last:
            last = content[0]
            print("read", last, flush=True)
        time.sleep(0.1)
except nbd.Error:
    print("gone", flush=True)
