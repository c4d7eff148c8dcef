/**
 * The payload of a filtered BLOCK_STATUS (protocol section 3.2): u64 effect length, then the ids of the
 * contexts that are asked for, u32 each.
 */
import type { SelectedContext } from '../handshake/negotiated.ts';
import { safeUint64 } from './request-header.ts';

const LENGTH_BYTES = 8;
const ID_BYTES = 4;

export const statusPayloadBytes = (ids: number): number => LENGTH_BYTES + ID_BYTES * ids;

export interface StatusPayload {
  /** Bytes to describe; not checked against the device. */
  readonly length: number;
  /** In the order of the payload; at least one. */
  readonly contexts: readonly SelectedContext[];
}

/** Null: cut, without ids, with an id twice or one that was not selected. */
export function decodeStatusPayload(
  bytes: Buffer,
  selected: readonly SelectedContext[],
): StatusPayload | null {
  const ids = (bytes.length - LENGTH_BYTES) / ID_BYTES;
  if (!Number.isInteger(ids) || ids < 1 || ids > selected.length) return null;
  const contexts: SelectedContext[] = [];
  for (let at = LENGTH_BYTES; at < bytes.length; at += ID_BYTES) {
    const id = bytes.readUInt32BE(at);
    const found = selected.find((each) => each.id === id);
    if (found === undefined || contexts.includes(found)) return null;
    contexts.push(found);
  }
  return { length: safeUint64(bytes.readUInt32BE(0), bytes.readUInt32BE(4)), contexts };
}
