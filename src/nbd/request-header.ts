/**
 * The compact request header: 28 bytes in, numbers out (protocol section 2). Decoding checks nothing but
 * what a number can hold; `validate.ts` judges.
 */

/** Filled in again for each request; never kept. */
export interface RequestHeader {
  magic: number;
  flags: number;
  command: number;
  /** The client's cookie as two u32: opaque, echoed bit for bit. */
  cookieHigh: number;
  cookieLow: number;
  /** Bytes; an offset that no safe integer holds becomes the largest one, which is past any end. */
  offset: number;
  /** Bytes, 0 .. 2^32 - 1. */
  length: number;
}

export const newRequestHeader = (): RequestHeader => ({
  magic: 0,
  flags: 0,
  command: 0,
  cookieHigh: 0,
  cookieLow: 0,
  offset: 0,
  length: 0,
});

/** High halves above this make offsets that are not safe integers. */
const OFFSET_HIGH_MAX = 0x1fffff;

/** Decodes the header at `view[at .. at + NBD_REQUEST_BYTES)` into `header`. */
export function decodeRequestHeader(view: DataView, at: number, header: RequestHeader): void {
  const offsetHigh = view.getUint32(at + 16);
  header.magic = view.getUint32(at);
  header.flags = view.getUint16(at + 4);
  header.command = view.getUint16(at + 6);
  header.cookieHigh = view.getUint32(at + 8);
  header.cookieLow = view.getUint32(at + 12);
  header.offset =
    offsetHigh <= OFFSET_HIGH_MAX
      ? offsetHigh * 2 ** 32 + view.getUint32(at + 20)
      : Number.MAX_SAFE_INTEGER;
  header.length = view.getUint32(at + 24);
}
