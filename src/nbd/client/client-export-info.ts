/**
 * What a server says about an export, checked before anything is built on it (protocol sections 1.5,
 * 1.6, 1.11).
 *
 * Invariant: an ExportInfo holds only values that the rest of the client may use unchecked: the size is
 * a positive safe integer, block sizes are in range, a payload of `maximumPayload` is never refused
 * for its size.
 */
import { NBD_PAYLOAD_BYTES_MAX } from '../../io/limits.ts';
import { NBD_BLOCK_SIZE, NBD_FLAG } from '../constants.ts';

export interface ExportInfo {
  /** 1 .. 2^53 - 1. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  /** WRITE_ZEROES, and NO_HOLE with it. */
  readonly canWriteZeroes: boolean;
  readonly canTrim: boolean;
  readonly canMultiConn: boolean;
  /** Bytes; offsets and lengths of requests are multiples of it. A power of two, 1 .. 65536. */
  readonly minimumBlock: number;
  /** Bytes; a power of two, at least 512. A hint. */
  readonly preferredBlock: number;
  /** Bytes of the largest READ or WRITE, a multiple of `minimumBlock`; never over NBD_PAYLOAD_BYTES_MAX. */
  readonly maximumPayload: number;
}

export interface BlockSizes {
  readonly minimum: number;
  readonly preferred: number;
  /** As sent: NBD_BLOCK_SIZE.MAXIMUM_UNLIMITED stands for no limit. */
  readonly maximum: number;
}

/** What holds for a server that does not say (protocol section 1.11). Nobody refuses 512. */
export const DEFAULT_BLOCK_SIZES: BlockSizes = Object.freeze({
  minimum: 1,
  preferred: NBD_BLOCK_SIZE.PREFERRED_DEFAULT,
  maximum: NBD_BLOCK_SIZE.MAXIMUM_DEFAULT,
});

/** The answer to "may this be used?": the info, or in words why not. */
export type Judged<T> = { readonly ok: T } | { readonly wrong: string };

/** `size` and `flags` as they came with INFO_EXPORT or EXPORT_NAME. */
export function judgeExport(
  size: { readonly high: number; readonly low: number },
  flags: number,
  blocks: BlockSizes,
): Judged<ExportInfo> {
  const sizeBytes = size.high * 2 ** 32 + size.low;
  if (!Number.isSafeInteger(sizeBytes)) return { wrong: `an export of ${sizeBytes} bytes` };
  if (sizeBytes === 0) return { wrong: 'an export of 0 bytes' };
  if ((flags & NBD_FLAG.HAS_FLAGS) === 0) return { wrong: 'transmission flags without HAS_FLAGS' };
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const payload = Math.min(blocks.maximum, NBD_PAYLOAD_BYTES_MAX);
  return {
    ok: {
      sizeBytes,
      readOnly: has(NBD_FLAG.READ_ONLY),
      canFlush: has(NBD_FLAG.SEND_FLUSH),
      canFua: has(NBD_FLAG.SEND_FUA),
      canWriteZeroes: has(NBD_FLAG.SEND_WRITE_ZEROES),
      canTrim: has(NBD_FLAG.SEND_TRIM),
      canMultiConn: has(NBD_FLAG.CAN_MULTI_CONN),
      minimumBlock: blocks.minimum,
      preferredBlock: blocks.preferred,
      maximumPayload: payload - (payload % blocks.minimum),
    },
  };
}

export function judgeBlockSizes(blocks: BlockSizes): Judged<BlockSizes> {
  const { minimum, preferred, maximum } = blocks;
  if (!isPowerOfTwo(minimum) || minimum > NBD_BLOCK_SIZE.MINIMUM_MAX) {
    return { wrong: `a minimum block of ${minimum} bytes` };
  }
  if (!isPowerOfTwo(preferred) || preferred < Math.max(minimum, NBD_BLOCK_SIZE.PREFERRED_MIN)) {
    return { wrong: `a preferred block of ${preferred} bytes` };
  }
  // A maximum that is no multiple of the minimum is rounded down later: it harms nobody.
  if (maximum < preferred) return { wrong: `a maximum payload of ${maximum} bytes` };
  return { ok: blocks };
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}
