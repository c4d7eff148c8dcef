/**
 * What a client sends, byte for byte, written from the protocol's text and sharing nothing with the
 * sources under test: every number stands here as a literal. Fields may be given wrong values on purpose;
 * nothing is checked. 64-bit fields are bigints.
 */
export const hex = (text: string): Buffer => {
  const digits = text.replaceAll(/\s/g, '');
  const bytes = Buffer.from(digits, 'hex');
  if (bytes.length * 2 !== digits.length) throw new Error(`not hexadecimal: ${text}`);
  return bytes;
};

export const u16 = (value: number): Buffer => Buffer.from([(value >> 8) & 0xff, value & 0xff]);

export const u32 = (value: number): Buffer =>
  Buffer.from([(value >>> 24) & 0xff, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff]);

export const u64 = (value: bigint): Buffer =>
  Buffer.concat([u32(Number(value >> 32n)), u32(Number(value & 0xffffffffn))]);

const NOTHING = Buffer.alloc(0);

/** FIXED_NEWSTYLE and NO_ZEROES. */
export const clientFlags = (flags: number = 3): Buffer => u32(flags);

export interface OptionFields {
  /** "IHAVEOPT". */
  readonly magic?: bigint;
  /** What the header says; the true length if not given. */
  readonly length?: number;
}

export const option = (
  number: number,
  data: Buffer = NOTHING,
  { magic = 0x49484156454f5054n, length = data.length }: OptionFields = {},
): Buffer => Buffer.concat([u64(magic), u32(number), u32(length), data]);

export const exportName = (name: string): Buffer => option(1, Buffer.from(name));
export const abort = (): Buffer => option(2);
export const list = (): Buffer => option(3);
export const startTls = (): Buffer => option(5);
export const structuredReply = (): Buffer => option(8);
export const extendedHeaders = (): Buffer => option(11);

export interface InfoFields {
  readonly nameLength?: number;
  readonly count?: number;
}

/** The data of INFO and GO. */
export const infoData = (
  name: string | Buffer,
  infos: readonly number[] = [],
  fields: InfoFields = {},
): Buffer => {
  const bytes = Buffer.from(name);
  return Buffer.concat([
    u32(fields.nameLength ?? bytes.length),
    bytes,
    u16(fields.count ?? infos.length),
    ...infos.map(u16),
  ]);
};

export const info = (name: string, infos: readonly number[] = []): Buffer =>
  option(6, infoData(name, infos));
export const go = (name: string, infos: readonly number[] = []): Buffer =>
  option(7, infoData(name, infos));

export interface MetaFields {
  readonly nameLength?: number;
  readonly count?: number;
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export const metaData = (
  name: string | Buffer,
  queries: readonly (string | Buffer)[] = [],
  fields: MetaFields = {},
): Buffer => {
  const bytes = Buffer.from(name);
  const parts = queries.map((query) => {
    const text = Buffer.from(query);
    return Buffer.concat([u32(text.length), text]);
  });
  return Buffer.concat([
    u32(fields.nameLength ?? bytes.length),
    bytes,
    u32(fields.count ?? queries.length),
    ...parts,
  ]);
};

export const listMetaContext = (name: string, queries: readonly string[] = []): Buffer =>
  option(9, metaData(name, queries));
export const setMetaContext = (name: string, queries: readonly string[] = []): Buffer =>
  option(10, metaData(name, queries));

/** Command numbers. */
export const READ = 0;
export const WRITE = 1;
export const DISC = 2;
export const FLUSH = 3;
export const TRIM = 4;
export const CACHE = 5;
export const WRITE_ZEROES = 6;
export const BLOCK_STATUS = 7;
export const RESIZE = 8;

/** Command flags. */
export const FUA = 0x01;
export const NO_HOLE = 0x02;
export const DF = 0x04;
export const REQ_ONE = 0x08;
export const FAST_ZERO = 0x10;
export const PAYLOAD_LEN = 0x20;

export interface RequestFields {
  readonly magic?: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: bigint;
  /** That of the payload if not given. */
  readonly length?: bigint;
  readonly payload?: Buffer;
}

/** The 28-byte header, and the payload. A length beyond 32 bits loses its upper half. */
export const request = (command: number, fields: RequestFields = {}): Buffer => {
  const payload = fields.payload ?? NOTHING;
  const length = fields.length ?? BigInt(payload.length);
  return Buffer.concat([
    u32(fields.magic ?? 0x25609513),
    u16(fields.flags ?? 0),
    u16(command),
    u64(fields.cookie ?? 0n),
    u64(fields.offset ?? 0n),
    u32(Number(length & 0xffffffffn)),
    payload,
  ]);
};

/** The 32-byte header of extended connections, and the payload. */
export const extendedRequest = (command: number, fields: RequestFields = {}): Buffer => {
  const payload = fields.payload ?? NOTHING;
  return Buffer.concat([
    u32(fields.magic ?? 0x21e41c71),
    u16(fields.flags ?? 0),
    u16(command),
    u64(fields.cookie ?? 0n),
    u64(fields.offset ?? 0n),
    u64(fields.length ?? BigInt(payload.length)),
    payload,
  ]);
};

/** The payload of an extended BLOCK_STATUS that asks for some contexts only. */
export const statusPayload = (effectLength: bigint, ids: readonly number[]): Buffer =>
  Buffer.concat([u64(effectLength), ...ids.map(u32)]);
