/**
 * The least of an NBD client: greeting, GO, and then it holds its connection and says nothing. What it
 * sends is spelled out here, so that it costs the bench next to nothing and owes the server's code nothing.
 */
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';

const GREETING_BYTES = 18;
const REPLY_HEADER_BYTES = 20;
const REPLY_MAGIC = Buffer.from('0003e889045565a9', 'hex');
const OPT_GO = 7;
const REP_ACK = 1;
const ANSWER_MS_MAX = 10_000;

/** Client flags (fixed newstyle, no zeroes), then GO for `exportName` without information requests. */
function opening(exportName: string): Buffer {
  const name = Buffer.from(exportName);
  const bytes = Buffer.alloc(4 + 16 + 4 + name.length + 2);
  bytes.writeUInt32BE(3, 0);
  bytes.write('IHAVEOPT', 4, 'latin1');
  bytes.writeUInt32BE(OPT_GO, 12);
  bytes.writeUInt32BE(4 + name.length + 2, 16);
  bytes.writeUInt32BE(name.length, 20);
  name.copy(bytes, 24);
  return bytes;
}

/** Exactly so many bytes. */
async function take(socket: Socket, bytes: number): Promise<Buffer> {
  if (bytes === 0) return Buffer.alloc(0);
  for (;;) {
    const piece = socket.read(bytes) as Buffer | null; // all of them, or what was left before the end
    if (piece?.length === bytes) return piece;
    if (piece !== null || socket.readableEnded) throw new Error('the server hung up');
    await once(socket, 'readable');
  }
}

async function negotiate(socket: Socket, exportName: string): Promise<void> {
  await once(socket, 'connect');
  const greeting = await take(socket, GREETING_BYTES);
  if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('no greeting');
  socket.write(opening(exportName));
  for (;;) {
    const header = await take(socket, REPLY_HEADER_BYTES);
    if (!header.subarray(0, 8).equals(REPLY_MAGIC)) throw new Error('no option reply');
    const [type, length] = [header.readUInt32BE(12), header.readUInt32BE(16)];
    const data = await take(socket, length);
    if (type === REP_ACK) return;
    if (type >= 0x8000_0000) throw new Error(`GO was refused: ${data.toString()}`);
  }
}

/** A connection in the transmission phase of `exportName`; rejects when it is refused or takes over 10 s. */
export async function connectIdle(path: string, exportName: string): Promise<Socket> {
  const socket = connect(path);
  const timer = setTimeout(() => socket.destroy(new Error('no answer in time')), ANSWER_MS_MAX);
  try {
    await negotiate(socket, exportName);
    socket.on('error', () => undefined); // an idle client does not mind how it ends
    return socket;
  } catch (thrown) {
    socket.destroy();
    throw thrown;
  } finally {
    clearTimeout(timer);
  }
}
