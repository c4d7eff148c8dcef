"""Writes rounds: the same number into every one of many scattered blocks, one write after the other, then a FLUSH.

So each state that the disk ever had is known by its content: the first blocks in the order of a round hold its number, the
others that of the round before (scripts/drill/rounds.ts). After each answered FLUSH the number of the round goes to stdout. A
round that was begun before may be written again: it writes the same.

Usage: rounds.py URI FIRST_ROUND LAST_ROUND BLOCKS SPREAD [PAUSE_MS]
BLOCKS blocks of 4096 bytes, SPREAD bytes from one to the next, from byte 0 on, and PAUSE_MS of rest after each round. Ends with
exit code 3 when the server is lost.
"""

import sys
import time

import nbd

uri = sys.argv[1]
first, last, blocks, spread = (int(text) for text in sys.argv[2:6])
pause_seconds = int(sys.argv[6]) / 1000 if len(sys.argv) > 6 else 0
STEP = 7

h = nbd.NBD()
h.connect_uri(uri)
try:
    for number in range(first, last + 1):
        content = number.to_bytes(8, "little") * 512
        for index in range(blocks):
            h.pwrite(content, (index * STEP + number) % blocks * spread)
        h.flush()
        print(number, flush=True)
        time.sleep(pause_seconds)
except nbd.Error:
    sys.exit(3)
