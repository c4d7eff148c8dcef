"""cut_proxy.py HOST PORT TARGET_HOST TARGET_PORT: passes bytes both ways, and resets the oldest living
connection at both ends on each SIGUSR1. Bytes on their way are lost then, as with a cable pulled."""

import asyncio
import signal
import socket
import struct
import sys

BLOCK = 256 * 1024
RESET = struct.pack("ii", 1, 0)  # close sends RST


def reset(writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def pump(reader, writer):
    try:
        while data := await reader.read(BLOCK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass


async def main(host, port, target_host, target_port):
    links = []

    async def accept(reader, writer):
        there, thither = await asyncio.open_connection(target_host, target_port)
        link = (writer, thither)
        links.append(link)
        print("open", len(links), flush=True)
        await asyncio.gather(pump(reader, thither), pump(there, writer))
        if link in links:
            links.remove(link)
            for end in link:
                end.close()

    def cut():
        link = links.pop(0)
        for end in link:
            reset(end)
        print("cut, left", len(links), flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, cut)
    server = await asyncio.start_server(accept, host, port)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
