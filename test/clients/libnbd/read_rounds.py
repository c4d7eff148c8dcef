"""Reads what rounds.py writes, all of it in one read, again and again until SIGTERM, and holds it to the history.

Prints how many reads there were, and how many different states they showed. A mixture of two states, or an older state than
the one before, goes to stderr.

Usage: read_rounds.py URI BLOCKS SPREAD
"""

import signal
import sys

import nbd

uri = sys.argv[1]
blocks, spread = (int(text) for text in sys.argv[2:])
STEP = 7
ended = False


def end(*_):
    global ended
    ended = True


def state(content):
    """How many writes of the history it has, or None."""
    numbers = []
    for index in range(blocks):
        block = content[index * spread : index * spread + 4096]
        if block != block[:8] * 512:
            return None
        numbers.append(int.from_bytes(block[:8], "little"))
    number = max(numbers)
    ordered = [numbers[(index * STEP + number) % blocks] for index in range(blocks)]
    written = ordered.count(number)
    if number == 0:
        return 0
    if ordered != [number] * written + [number - 1] * (blocks - written):
        return None
    return (number - 1) * blocks + written


signal.signal(signal.SIGTERM, end)
h = nbd.NBD()
h.connect_uri(uri)
reads, states, last = 0, 0, -1
while not ended:
    now = state(h.pread(blocks * spread, 0))
    reads += 1
    if now is None or now < last:
        print(f"read {reads}: state {now} after {last}", file=sys.stderr)
        break
    states += now > last
    last = now
print(reads, states)
