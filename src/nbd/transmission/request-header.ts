/**
 * The header of a request, compact (28 bytes) or extended (32 bytes): bytes in, numbers out (protocol
 * section 2). Decoding checks nothing but what a number can hold; `validate.ts` judges.
 */
import {
  NBD_CMD,
  NBD_CMD_FLAG,
  NBD_EXTENDED_REQUEST_BYTES,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_BYTES,
  NBD_REQUEST_MAGIC,
} from '../constants.ts';

/** Filled in again for each request; never kept. */
export interface RequestHeader {
  magic: number;
  flags: number;
  command: number;
  /** The client's cookie as two u32: opaque, echoed bit for bit. */
  cookieHigh: number;
  cookieLow: number;
  /** The offset as it came, for the extended replies that echo it. */
  offsetHigh: number;
  offsetLow: number;
  /** Bytes; an offset that no safe integer holds becomes the largest one, which is past any end. */
  offset: number;
  /** Bytes: of the payload if there is one, else of the effect. Made safe like `offset`. */
  length: number;
}

export const newRequestHeader = (): RequestHeader => ({
  magic: 0,
  flags: 0,
  command: 0,
  cookieHigh: 0,
  cookieLow: 0,
  offsetHigh: 0,
  offsetLow: 0,
  offset: 0,
  length: 0,
});

/** The form of the requests of one connection. */
export interface RequestForm {
  readonly extended: boolean;
  readonly magic: number;
  /** Bytes of the header. */
  readonly bytes: number;
}

export const COMPACT_REQUESTS: RequestForm = Object.freeze({
  extended: false,
  magic: NBD_REQUEST_MAGIC,
  bytes: NBD_REQUEST_BYTES,
});

export const EXTENDED_REQUESTS: RequestForm = Object.freeze({
  extended: true,
  magic: NBD_EXTENDED_REQUEST_MAGIC,
  bytes: NBD_EXTENDED_REQUEST_BYTES,
});

/** High halves above this make numbers that are not safe integers. */
const HIGH_MAX = 0x1fffff;

/** 64 bits as a safe integer: what is larger becomes the largest. */
export const safeUint64 = (high: number, low: number): number =>
  high <= HIGH_MAX ? high * 2 ** 32 + low : Number.MAX_SAFE_INTEGER;

/** Decodes the header at `view[at .. at + form.bytes)` into `header`. */
export function decodeRequestHeader(
  form: RequestForm,
  view: DataView,
  at: number,
  header: RequestHeader,
): void {
  header.magic = view.getUint32(at);
  header.flags = view.getUint16(at + 4);
  header.command = view.getUint16(at + 6);
  header.cookieHigh = view.getUint32(at + 8);
  header.cookieLow = view.getUint32(at + 12);
  header.offsetHigh = view.getUint32(at + 16);
  header.offsetLow = view.getUint32(at + 20);
  header.offset = safeUint64(header.offsetHigh, header.offsetLow);
  header.length = form.extended
    ? safeUint64(view.getUint32(at + 24), view.getUint32(at + 28))
    : view.getUint32(at + 24);
}

/** Bytes of payload that follow the header: of a WRITE; in the extended form, of what says so. */
export const payloadBytesOf = (form: RequestForm, header: RequestHeader): number => {
  const follows = form.extended
    ? (header.flags & NBD_CMD_FLAG.PAYLOAD_LEN) !== 0
    : header.command === NBD_CMD.WRITE;
  return follows ? header.length : 0;
};
