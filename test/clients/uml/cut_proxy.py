"""cut_proxy.py HOST PORT TARGET_HOST TARGET_PORT: passes bytes both ways, until SIGUSR1 comes: then the first
connection that brings requests again is reset at both ends. Bytes on their way are lost, as with a cable
that is pulled."""

import asyncio
import signal
import socket
import struct
import sys

BLOCK = 256 * 1024
BYTES_BEFORE_CUT = 16 * 1024
RESET = struct.pack("ii", 1, 0)  # close sends RST


def reset(writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


class Proxy:
    def __init__(self, target):
        self.target = target
        self.links = 0
        self.armed = False

    def arm(self):
        self.armed = True

    async def accept(self, reader, writer):
        there, thither = await asyncio.open_connection(*self.target)
        self.links += 1
        ends = (writer, thither)
        try:
            await asyncio.gather(self.requests(reader, thither, ends), self.replies(there, writer))
        except OSError:
            pass
        self.links -= 1
        for end in ends:
            end.close()

    async def requests(self, reader, writer, ends):
        seen = 0
        while data := await reader.read(BLOCK):
            writer.write(data)
            await writer.drain()
            seen = seen + len(data) if self.armed else 0
            if seen >= BYTES_BEFORE_CUT:
                self.armed = False
                for end in ends:
                    reset(end)
                print("cut, left", self.links - 1, flush=True)
                return
        writer.write_eof()

    async def replies(self, reader, writer):
        while data := await reader.read(BLOCK):
            writer.write(data)
            await writer.drain()


async def main(host, port, *target):
    proxy = Proxy(target)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, proxy.arm)
    server = await asyncio.start_server(proxy.accept, host, port)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
