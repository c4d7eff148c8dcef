/** The callback calls of the client as promises of their errno, for tests. */
import type { BlockferryError } from '../../../src/io/errors.ts';
import type { NbdClient } from '../../../src/nbd/client/client.ts';

export const read = (client: NbdClient, target: Buffer, offset: number): Promise<number> =>
  new Promise((resolve) => client.read(target, 0, target.length, offset, resolve));

export const write = (client: NbdClient, payload: Buffer, offset: number): Promise<number> =>
  new Promise((resolve) => client.write(payload, 0, payload.length, offset, resolve));

export const zero = (
  client: NbdClient,
  offset: number,
  length: number,
  noHole = false,
): Promise<number> => new Promise((resolve) => client.zero(offset, length, { noHole }, resolve));

export const flush = (client: NbdClient): Promise<number> =>
  new Promise((resolve) => client.flush(resolve));

/** How the connection ended. To be called before it can. */
export const closed = (client: NbdClient): Promise<BlockferryError> =>
  new Promise((resolve) => {
    client.onClosed = resolve;
  });

/** Bytes that differ from place to place, and from seed to seed. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let at = 0; at < length; at += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

/** What a rejected promise was rejected with; fails when it was not. */
export async function rejection(promise: Promise<unknown>): Promise<BlockferryError> {
  try {
    await promise;
  } catch (thrown) {
    return thrown as BlockferryError;
  }
  throw new Error('it succeeded');
}
