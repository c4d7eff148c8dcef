"""stopping.py URI COUNT: writes pipelined over COUNT connections until the server goes away, one block after
the other; then prints which blocks were acknowledged, as JSON: [[connection, blocks acknowledged in order]].

Every request gets an answer, and every answer is success, ESHUTDOWN, or the end of the connection."""

import errno
import json
import sys

import nbd

DEPTH = 16
BLOCK = 4096
REGION = 16 << 20

uri, count = sys.argv[1], int(sys.argv[2])


class Load:
    def __init__(self, index):
        self.h = nbd.NBD()
        self.h.connect_uri(uri)
        self.base = index * REGION
        self.next = 0
        self.flying = {}
        self.done = []
        self.refused = {}
        self.ended = False

    def step(self):
        while not self.ended and len(self.flying) < DEPTH and self.next < REGION // BLOCK:
            number = self.next
            self.next += 1
            data = nbd.Buffer.from_bytearray(bytearray((number % 255 + 1).to_bytes(1, "big") * BLOCK))
            self.flying[number] = data
            try:
                self.h.aio_pwrite(
                    data, self.base + number * BLOCK, lambda error, n=number: self.answered(n, error)
                )
            except nbd.Error as error:
                self.flying.pop(number, None)
                assert self.h.aio_is_dead() or self.h.aio_is_closed(), error
                self.ended = True
        try:
            self.h.poll(1)
        except nbd.Error as error:
            assert self.h.aio_is_dead() or self.h.aio_is_closed(), error
            self.ended = True
        if self.h.aio_is_dead() or self.h.aio_is_closed() or self.next >= REGION // BLOCK:
            self.ended = True

    def answered(self, number, error):
        self.flying.pop(number, None)
        if error.value == 0:
            self.done.append(number)
        else:
            self.refused[error.value] = self.refused.get(error.value, 0) + 1
        return 1


loads = [Load(index) for index in range(count)]
print("writing", flush=True)
while not all(load.ended for load in loads):
    for load in loads:
        if not load.ended:
            load.step()
for load in loads:
    assert set(load.refused) <= {errno.ESHUTDOWN, errno.ENOTCONN}, load.refused
    assert load.next < REGION // BLOCK, "the load was over before the server stopped"
print(json.dumps([load.done for load in loads]), flush=True)
