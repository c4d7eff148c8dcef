/**
 * Every number of the NBD protocol, under the specification's own names. No logic but number -> name
 * for logs. 64-bit magics are pairs of u32, because nothing here reads a BigInt.
 */

/** A 64-bit number as its two big-endian halves. */
export interface Magic64 {
  readonly high: number;
  readonly low: number;
}

/** First 8 bytes from a server: "NBDMAGIC". */
export const NBD_INIT_MAGIC: Magic64 = Object.freeze({ high: 0x4e42444d, low: 0x41474943 });
/** Second 8 bytes of a newstyle greeting, and the start of each client option: "IHAVEOPT". */
export const NBD_OPTION_MAGIC: Magic64 = Object.freeze({ high: 0x49484156, low: 0x454f5054 });
/** Second 8 bytes of an oldstyle greeting. Known so that it can be refused by name. */
export const NBD_OLDSTYLE_MAGIC: Magic64 = Object.freeze({ high: 0x00004202, low: 0x81861253 });
/** Start of each option reply. */
export const NBD_OPTION_REPLY_MAGIC: Magic64 = Object.freeze({ high: 0x0003e889, low: 0x045565a9 });

export const NBD_REQUEST_MAGIC = 0x25609513;
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const NBD_EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const NBD_EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Byte widths of the fixed headers (protocol section 2). */
export const NBD_GREETING_BYTES = 18;
export const NBD_CLIENT_FLAGS_BYTES = 4;
export const NBD_OPTION_HEADER_BYTES = 16;
export const NBD_OPTION_REPLY_HEADER_BYTES = 20;
/** EXPORT_NAME's answer: size, flags, and the zeroes that NO_ZEROES leaves out. */
export const NBD_EXPORT_NAME_REPLY_BYTES = 10;
export const NBD_EXPORT_NAME_PAD_BYTES = 124;
export const NBD_REQUEST_BYTES = 28;
export const NBD_EXTENDED_REQUEST_BYTES = 32;
export const NBD_SIMPLE_REPLY_BYTES = 16;
export const NBD_STRUCTURED_REPLY_BYTES = 20;
export const NBD_EXTENDED_REPLY_BYTES = 32;

/** TCP port assigned by IANA. */
export const NBD_PORT = 10809;

type ValueOf<T> = T[keyof T];

/** Handshake flags: server, 16 bit; client, 32 bit. The bits mean the same. */
export const NBD_HANDSHAKE_FLAG = Object.freeze({
  NBD_FLAG_FIXED_NEWSTYLE: 1,
  NBD_FLAG_NO_ZEROES: 2,
} as const);

export const NBD_CLIENT_FLAG = Object.freeze({
  NBD_FLAG_C_FIXED_NEWSTYLE: 1,
  NBD_FLAG_C_NO_ZEROES: 2,
} as const);

/** Options, client to server. */
export const NBD_OPT = Object.freeze({
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  /** Withdrawn: always unsupported. */
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
  /** Not of the specification, and far from its numbers: see private-option.ts. */
  BLOCKFERRY: 0x62660001,
} as const);
export type NbdOption = ValueOf<typeof NBD_OPT>;

/** Option reply types. */
export const NBD_REP = Object.freeze({
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  /** Data of an accepted NBD_OPT_BLOCKFERRY. */
  BLOCKFERRY: 0x62660001,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const);
export type NbdOptionReply = ValueOf<typeof NBD_REP>;

/** Set in every option reply type that is an error. Compare with `>>> 0` in mind, or with `>=`. */
export const NBD_REP_FLAG_ERROR = 0x80000000;

/** Info types, inside NBD_REP.INFO. */
export const NBD_INFO = Object.freeze({
  EXPORT: 0,
  NAME: 1,
  DESCRIPTION: 2,
  BLOCK_SIZE: 3,
} as const);
export type NbdInfo = ValueOf<typeof NBD_INFO>;

/** Transmission flags: what an export can do. */
export const NBD_FLAG = Object.freeze({
  HAS_FLAGS: 0x0001,
  READ_ONLY: 0x0002,
  SEND_FLUSH: 0x0004,
  SEND_FUA: 0x0008,
  ROTATIONAL: 0x0010,
  SEND_TRIM: 0x0020,
  SEND_WRITE_ZEROES: 0x0040,
  SEND_DF: 0x0080,
  CAN_MULTI_CONN: 0x0100,
  SEND_RESIZE: 0x0200,
  SEND_CACHE: 0x0400,
  SEND_FAST_ZERO: 0x0800,
  BLOCK_STATUS_PAYLOAD: 0x1000,
} as const);

/** Commands. */
export const NBD_CMD = Object.freeze({
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  RESIZE: 8,
} as const);
export type NbdCommand = ValueOf<typeof NBD_CMD>;

/** Command flags. */
export const NBD_CMD_FLAG = Object.freeze({
  FUA: 0x01,
  NO_HOLE: 0x02,
  DF: 0x04,
  REQ_ONE: 0x08,
  FAST_ZERO: 0x10,
  PAYLOAD_LEN: 0x20,
} as const);

/** Reply flags of structured and extended chunks. */
export const NBD_REPLY_FLAG = Object.freeze({
  DONE: 0x0001,
} as const);

/** Chunk types of structured and extended replies. BLOCK_STATUS is 5; `nbd.h` of the reference has it wrong. */
export const NBD_REPLY_TYPE = Object.freeze({
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const);
export type NbdReplyType = ValueOf<typeof NBD_REPLY_TYPE>;

/** Set in every chunk type that is an error. */
export const NBD_REPLY_TYPE_FLAG_ERROR = 0x8000;

/** The only error values that may stand in a reply. */
export const NBD_ERRNO = Object.freeze({
  OK: 0,
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const);
export type NbdErrno = ValueOf<typeof NBD_ERRNO>;

/** Bits of a block status extent, by meta context. */
export const NBD_STATE = Object.freeze({
  /** base:allocation */
  HOLE: 1,
  ZERO: 2,
  /** qemu:dirty-bitmap:NAME */
  DIRTY: 1,
} as const);

/** Meta context names and namespaces. */
export const NBD_META = Object.freeze({
  BASE_ALLOCATION: 'base:allocation',
  BASE_PREFIX: 'base:',
} as const);

/** Defaults and bounds of block sizes (protocol section 1.11), in bytes. */
export const NBD_BLOCK_SIZE = Object.freeze({
  MINIMUM_MAX: 65536,
  PREFERRED_DEFAULT: 4096,
  PREFERRED_MIN: 512,
  MAXIMUM_DEFAULT: 33554432,
  MAXIMUM_UNLIMITED: 0xffffffff,
} as const);

type Names = ReadonlyMap<number, string>;

const namesOf = (table: Readonly<Record<string, number>>, prefix: string): Names =>
  new Map(Object.entries(table).map(([name, value]) => [value, prefix + name]));

const nameIn = (names: Names, prefix: string, value: number): string =>
  names.get(value) ?? `${prefix}0x${value.toString(16)}`;

const optionNames = namesOf(NBD_OPT, 'NBD_OPT_');
const optionReplyNames = namesOf(NBD_REP, 'NBD_REP_');
const infoNames = namesOf(NBD_INFO, 'NBD_INFO_');
const commandNames = namesOf(NBD_CMD, 'NBD_CMD_');
const replyTypeNames = namesOf(NBD_REPLY_TYPE, 'NBD_REPLY_TYPE_');
const errnoNames = namesOf(NBD_ERRNO, 'NBD_');

/** `NBD_OPT_GO`, or `NBD_OPT_0x63` for a number without a name. So do the functions below. */
export const nameOfOption = (value: number): string => nameIn(optionNames, 'NBD_OPT_', value);
export const nameOfOptionReply = (value: number): string =>
  nameIn(optionReplyNames, 'NBD_REP_', value);
export const nameOfInfo = (value: number): string => nameIn(infoNames, 'NBD_INFO_', value);
export const nameOfCommand = (value: number): string => nameIn(commandNames, 'NBD_CMD_', value);
export const nameOfReplyType = (value: number): string =>
  nameIn(replyTypeNames, 'NBD_REPLY_TYPE_', value);
/** `NBD_EINVAL`; 0 is `NBD_OK`. */
export const nameOfErrno = (value: number): string => nameIn(errnoNames, 'NBD_', value);

const flagNames = (
  table: Readonly<Record<string, number>>,
  prefix: string,
  value: number,
): string => {
  let rest = value;
  const names: string[] = [];
  for (const [name, bit] of Object.entries(table)) {
    if ((rest & bit) === 0) continue;
    rest &= ~bit;
    names.push(prefix + name);
  }
  if (rest !== 0 || names.length === 0) names.push(`0x${(rest >>> 0).toString(16)}`);
  return names.join('|');
};

/** `NBD_FLAG_HAS_FLAGS|NBD_FLAG_SEND_FLUSH`; bits without a name follow as one hexadecimal number. */
export const namesOfFlags = (value: number): string => flagNames(NBD_FLAG, 'NBD_FLAG_', value);
/** `NBD_CMD_FLAG_FUA`; as above. */
export const namesOfCommandFlags = (value: number): string =>
  flagNames(NBD_CMD_FLAG, 'NBD_CMD_FLAG_', value);
