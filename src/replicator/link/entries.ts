/**
 * The entries of a payload of DATA and RUN_DATA: NBD write requests with their data, back to back, as
 * `nbd/client/client-prepared.ts` writes them.
 *
 * Invariants:
 * - A payload is judged whole before any entry of it is shown.
 * - Every entry is whole blocks, at least one, inside the volume, its data inside the payload; nothing is left over.
 *   They may stand in any order; where two meet, the later one is the content.
 */
import { BLOCK_BYTES } from '../../io/limits.ts';
import { WRITE_HEADER_BYTES } from '../../nbd/client/client-prepared.ts';
import { NBD_CMD, NBD_REQUEST_MAGIC } from '../../nbd/constants.ts';

/** Offsets in the header of an entry, in their order. The cookie is the sender's and says nothing. */
export const EntryLayout = Object.freeze({
  MAGIC: 0,
  FLAGS: 4,
  TYPE: 6,
  COOKIE: 8,
  OFFSET: 16,
  LENGTH: 24,
  SIZE: 28,
});

const U32 = 2 ** 32;
const UNSAFE_HIGH = 2 ** 21;

/** Called for each entry, in their order: its data is `payload[start .. start + length)` and belongs at `offset`. */
export type EntryVisitor = (offset: number, length: number, payload: Buffer, start: number) => void;

/**
 * Why `payload[0 .. bytes)` is not entries for a volume of `sizeBytes`; null when it is. Only then `visitEntries` may be
 * called with it.
 */
export function faultInEntries(payload: Buffer, bytes: number, sizeBytes: number): string | null {
  if (bytes === 0) return 'a payload without entries';
  let at = 0;
  while (at < bytes) {
    if (bytes - at < WRITE_HEADER_BYTES) return 'an entry that is cut in its header';
    if (payload.readUInt32BE(at + EntryLayout.MAGIC) !== NBD_REQUEST_MAGIC) return 'no entry';
    if (payload.readUInt32BE(at + EntryLayout.FLAGS) !== NBD_CMD.WRITE) {
      return 'an entry that is no plain write';
    }
    const offset = offsetAt(payload, at);
    const length = payload.readUInt32BE(at + EntryLayout.LENGTH);
    if (length === 0 || length % BLOCK_BYTES !== 0 || offset % BLOCK_BYTES !== 0) {
      return 'an entry that is not whole blocks';
    }
    if (length > sizeBytes || offset > sizeBytes - length) {
      return 'an entry past the end of the volume';
    }
    at += WRITE_HEADER_BYTES;
    if (length > bytes - at) return 'an entry that is cut in its data';
    at += length;
  }
  return null;
}

/** Shows the entries of a payload without a fault. Takes no memory. */
export function visitEntries(payload: Buffer, bytes: number, visit: EntryVisitor): void {
  let at = 0;
  while (at < bytes) {
    const offset = offsetAt(payload, at);
    const length = payload.readUInt32BE(at + EntryLayout.LENGTH);
    at += WRITE_HEADER_BYTES;
    visit(offset, length, payload, at);
    at += length;
  }
}

/** Infinity, which is past every end, for what is no safe integer. */
function offsetAt(payload: Buffer, at: number): number {
  const high = payload.readUInt32BE(at + EntryLayout.OFFSET);
  const low = payload.readUInt32BE(at + EntryLayout.OFFSET + 4);
  return high < UNSAFE_HIGH ? high * U32 + low : Infinity;
}
