/**
 * A second, independent notion of the protocol's bytes, written from the specification and not from
 * src/nbd: numbers stand here as literals on purpose. Hex in, hex out, BigInt for 64 bits.
 */
export const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');

const number = (bytes: number, value: number | bigint): Buffer =>
  hex(
    BigInt(value)
      .toString(16)
      .padStart(2 * bytes, '0'),
  );
export const u16 = (value: number): Buffer => number(2, value);
export const u32 = (value: number): Buffer => number(4, value);
export const u64 = (value: number | bigint): Buffer => number(8, value);

/** Client flags FIXED_NEWSTYLE and NO_ZEROES. */
export const CLIENT_FLAGS: Buffer = u32(3);

export const option = (kind: number, data: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([hex('49484156454f5054'), u32(kind), u32(data.length), data]);

export const infoData = (name: string | Buffer, infos: readonly number[] = []): Buffer => {
  const bytes = Buffer.from(name);
  return Buffer.concat([u32(bytes.length), bytes, u16(infos.length), ...infos.map(u16)]);
};

export const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  starttls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;
export const REP = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsup: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  tlsRequired: 0x80000005,
  unknown: 0x80000006,
  shutdown: 0x80000007,
  tooBig: 0x80000009,
  extendedRequired: 0x8000000a,
} as const;

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export const metaData = (
  name: string | Buffer,
  queries: readonly (string | Buffer)[] = [],
): Buffer => {
  const withLength = (text: string | Buffer): Buffer => {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    return Buffer.concat([u32(bytes.length), bytes]);
  };
  return Buffer.concat([withLength(name), u32(queries.length), ...queries.map(withLength)]);
};

export const go = (name = '', infos: readonly number[] = []): Buffer =>
  option(OPT.go, infoData(name, infos));

export const CMD = {
  read: 0,
  write: 1,
  disc: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  zeroes: 6,
  blockStatus: 7,
  resize: 8,
} as const;

export const ERR = {
  perm: 1,
  io: 5,
  inval: 22,
  nospc: 28,
  overflow: 75,
  notsup: 95,
  shutdown: 108,
} as const;

export const FLAG = {
  fua: 0x01,
  noHole: 0x02,
  df: 0x04,
  reqOne: 0x08,
  fastZero: 0x10,
  payloadLen: 0x20,
} as const;

/** All transmission flags that a writable export can have. */
export const ALL_FLAGS = 0x1ded;

export interface RequestFields {
  readonly flags?: number;
  readonly cookie?: number | bigint;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly magic?: number;
  readonly payload?: Buffer;
}

/** `length` is that of the payload unless given. */
export const request = (command: number, fields: RequestFields = {}): Buffer => {
  const payload = fields.payload ?? Buffer.alloc(0);
  return Buffer.concat([
    u32(fields.magic ?? 0x25609513),
    u16(fields.flags ?? 0),
    u16(command),
    u64(fields.cookie ?? 0),
    u64(fields.offset ?? 0),
    u32(fields.length ?? payload.length),
    payload,
  ]);
};

/**
 * A request with the 32-byte header. With a payload the flag PAYLOAD_LEN is set and `length` is that of the
 * payload, unless given.
 */
export const extendedRequest = (
  command: number,
  fields: Omit<RequestFields, 'length'> & { readonly length?: number | bigint } = {},
): Buffer => {
  const payload = fields.payload ?? Buffer.alloc(0);
  const flag = fields.payload === undefined ? 0 : FLAG.payloadLen;
  return Buffer.concat([
    u32(fields.magic ?? 0x21e41c71),
    u16((fields.flags ?? 0) | flag),
    u16(command),
    u64(fields.cookie ?? 0),
    u64(fields.offset ?? 0),
    u64(fields.length ?? payload.length),
    payload,
  ]);
};

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly payload: Buffer;
}

/** All of `bytes` as option replies; throws when they are not. */
export function optionReplies(bytes: Buffer): OptionReply[] {
  const replies: OptionReply[] = [];
  for (let at = 0; at < bytes.length;) {
    if (bytes.toString('hex', at, at + 8) !== '0003e889045565a9')
      throw new Error('no option reply');
    const length = bytes.readUInt32BE(at + 16);
    const payload = bytes.subarray(at + 20, at + 20 + length);
    if (payload.length !== length) throw new Error('cut option reply');
    replies.push({
      option: bytes.readUInt32BE(at + 8),
      type: bytes.readUInt32BE(at + 12),
      payload: Buffer.from(payload),
    });
    at += 20 + length;
  }
  return replies;
}

export interface Reply {
  readonly error: number;
  readonly cookie: bigint;
  readonly data: Buffer;
}

/**
 * Whole simple replies at the beginning of `bytes`, and what is left. `readBytes` says how much data a
 * successful reply to a cookie carries; 0 by default.
 */
export function simpleReplies(
  bytes: Buffer,
  readBytes: (cookie: bigint) => number = () => 0,
): { replies: Reply[]; rest: Buffer } {
  const replies: Reply[] = [];
  let at = 0;
  while (bytes.length - at >= 16) {
    if (bytes.readUInt32BE(at) !== 0x67446698) throw new Error('no simple reply');
    const error = bytes.readUInt32BE(at + 4);
    const cookie = bytes.readBigUInt64BE(at + 8);
    const length = error === 0 ? readBytes(cookie) : 0;
    if (bytes.length - at < 16 + length) break;
    replies.push({ error, cookie, data: Buffer.from(bytes.subarray(at + 16, at + 16 + length)) });
    at += 16 + length;
  }
  return { replies, rest: bytes.subarray(at) };
}
