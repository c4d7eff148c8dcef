"""switch_proxy.py HOST PORT TARGET_HOST FIRST_PORT SECOND_PORT: one address in front of two servers, as one that moves
between two machines. It leads to the first until SIGUSR1 comes, then to the second; connections to the first are reset.
A server that is not there refuses the client too."""

import asyncio
import signal
import socket
import struct
import sys

BLOCK = 256 * 1024
RESET = struct.pack("ii", 1, 0)  # close sends RST


class Proxy:
    def __init__(self, host, ports):
        self.host = host
        self.ports = ports
        self.writers = set()

    def switch(self):
        self.ports = self.ports[1:]
        for writer in self.writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        print("switched", flush=True)

    async def accept(self, reader, writer):
        try:
            there, thither = await asyncio.open_connection(self.host, self.ports[0])
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, thither}
        self.writers |= ends
        try:
            await asyncio.gather(self.carry(reader, thither), self.carry(there, writer))
        except OSError:
            pass
        self.writers -= ends
        for end in ends:
            end.close()

    async def carry(self, reader, writer):
        while data := await reader.read(BLOCK):
            writer.write(data)
            await writer.drain()
        writer.close()


async def main(host, port, target, *ports):
    proxy = Proxy(target, [int(each) for each in ports])
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, proxy.switch)
    server = await asyncio.start_server(proxy.accept, host, int(port))
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
