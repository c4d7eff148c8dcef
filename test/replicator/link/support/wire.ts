/** Frames as docs/internals/link.md has them, written by hand: nothing here is of the code that is tested. */
import { crc32 } from 'node:zlib';

export const TOKEN = '00112233445566778899aabbccddeeff';

export interface WireFrame {
  kind: number;
  flags?: number;
  volume?: number;
  epoch?: bigint;
  index?: bigint;
  offset?: bigint;
  length?: bigint;
  aux?: bigint;
  payload?: Buffer;
  /** What the header says of the payload, when that is not so. */
  payloadBytes?: number;
  payloadChecksum?: number;
  sequence?: number;
  sender?: 'primary' | 'mirror';
  lane?: number;
  token?: string;
  magic?: number;
}

export function wireFrame(frame: WireFrame): Buffer {
  const payload = frame.payload ?? Buffer.alloc(0);
  const header = Buffer.alloc(64);
  header.writeUInt32BE(frame.magic ?? 0x42464c4b, 0);
  header[4] = frame.kind;
  header[5] = frame.flags ?? 0;
  header.writeUInt16BE(frame.volume ?? 0, 6);
  header.writeBigUInt64BE(frame.epoch ?? 0n, 8);
  header.writeBigUInt64BE(frame.index ?? 0n, 16);
  header.writeBigUInt64BE(frame.offset ?? 0n, 24);
  header.writeBigUInt64BE(frame.length ?? 0n, 32);
  header.writeBigUInt64BE(frame.aux ?? 0n, 40);
  header.writeUInt32BE(frame.payloadBytes ?? payload.length, 48);
  header.writeUInt32BE(frame.payloadChecksum ?? crc32(payload), 52);
  header.writeUInt32BE(frame.sequence ?? 0, 56);
  const seed = crc32(`${frame.token ?? TOKEN} ${frame.lane ?? 0} ${frame.sender ?? 'primary'}`);
  header.writeUInt32BE(crc32(header.subarray(0, 60), seed), 60);
  return Buffer.concat([header, payload]);
}

/** One entry of a DATA payload. */
export function entry(offset: bigint, data: Buffer, cookie = 0n): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(0x25609513, 0);
  header.writeUInt16BE(1, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(offset, 16);
  header.writeUInt32BE(data.length, 24);
  return Buffer.concat([header, data]);
}

/** A DATA frame with one entry of `blocks` blocks that are all `fill`. */
export function dataFrame(index: number, blocks: number, fill: number): WireFrame {
  const payload = entry(BigInt(index) * 4096n, Buffer.alloc(blocks * 4096, fill));
  return { kind: 1, epoch: 7n, index: BigInt(index), length: BigInt(payload.length), payload };
}

export function range(offset: bigint, length: bigint, flags = 0): Buffer {
  const bytes = Buffer.alloc(20);
  bytes.writeBigUInt64BE(offset, 0);
  bytes.writeBigUInt64BE(length, 8);
  bytes.writeUInt32BE(flags, 16);
  return bytes;
}
