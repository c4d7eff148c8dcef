/**
 * What may be answered to a request: the protocol's sections 1.7, 5, 6 and its decision table, written
 * down a second time. Where several things are wrong with a request, each of their errors is right.
 */
import type { BadRange, JudgedSession } from './judge-facts.ts';

export interface JudgedRequest {
  readonly command: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: bigint;
  readonly payload: Buffer | null;
}

const EPERM = 1;
const EINVAL = 22;
const ENOSPC = 28;
const EOVERFLOW = 75;
const ENOTSUP = 95;

const FUA = 0x01;
const NO_HOLE = 0x02;
const DF = 0x04;
const REQ_ONE = 0x08;
const FAST_ZERO = 0x10;
const PAYLOAD_LEN = 0x20;

const PAYLOAD_BYTES_MAX = 33554432n;

export interface Verdict {
  /** It may succeed. */
  readonly success: boolean;
  /** It may fail with one of these. */
  readonly errors: ReadonlySet<number>;
  /** The part of the export that a BLOCK_STATUS is about; that of the request otherwise. */
  readonly length: bigint;
  /** Contexts that a BLOCK_STATUS must be answered with. */
  readonly ids: readonly number[];
}

export function verdictOf(request: JudgedRequest, session: JudgedSession): Verdict {
  const wrong = new Set<number>();
  const { command, flags, offset, length } = request;
  const legal = legalFlags(command, session);
  const ids = [...session.contexts.keys()];
  if (legal === null) return { success: false, errors: new Set([EINVAL]), length, ids };
  if ((flags & ~legal) !== 0) wrong.add(EINVAL);
  if (command === 7) return statusVerdict(request, session, wrong);
  const pastEnd = offset + length > BigInt(session.exported.size);
  const changes = command === 1 || command === 4 || command === 6;
  if (changes && session.exported.readOnly) wrong.add(EPERM);
  if (pastEnd) wrong.add(command === 1 || command === 6 ? ENOSPC : EINVAL);
  if (command === 3 && (offset !== 0n || length !== 0n)) wrong.add(EINVAL);
  if (command === 1 && session.form === 'extended' && (flags & PAYLOAD_LEN) === 0) {
    wrong.add(EINVAL);
  }
  const tooLong = length > PAYLOAD_BYTES_MAX && (command === 0 || command === 1);
  if (tooLong) wrong.add(command === 0 && session.form !== 'simple' ? EOVERFLOW : EINVAL);
  if (wrong.size > 0) return { success: false, errors: wrong, length, ids };
  const errors = new Set(badRangesOf(request, session).map((each) => each.error));
  // Holes can be told without the device's help, where replies have a word for them.
  const success = errors.size === 0 || (command === 0 && session.form !== 'simple');
  // What a device cannot do fast, it may do or say so.
  if ((flags & FAST_ZERO) !== 0) errors.add(ENOTSUP);
  return { success, errors, length, ids };
}

/** Null: the command itself is not for this client. */
function legalFlags(command: number, { flags, form, contexts }: JudgedSession): number | null {
  const offers = (bit: number): boolean => (flags & bit) !== 0;
  const fua = offers(0x0008) ? FUA : 0;
  switch (command) {
    case 0:
      return fua | (offers(0x0080) ? DF : 0);
    case 1:
      return fua | (form === 'extended' ? PAYLOAD_LEN : 0);
    case 3:
      return offers(0x0004) ? fua : null;
    case 4:
      return offers(0x0020) ? fua : null;
    case 5:
      return offers(0x0400) ? fua : null;
    case 6:
      if (!offers(0x0040)) return null;
      return fua | NO_HOLE | (offers(0x0800) ? FAST_ZERO : 0);
    case 7:
      if (form === 'simple' || contexts.size === 0) return null;
      return fua | REQ_ONE | (offers(0x1000) ? PAYLOAD_LEN : 0);
    default:
      return null;
  }
}

function statusVerdict(
  request: JudgedRequest,
  session: JudgedSession,
  wrong: Set<number>,
): Verdict {
  let { length } = request;
  let ids = [...session.contexts.keys()];
  if ((request.flags & PAYLOAD_LEN) !== 0) {
    const payload = request.payload ?? Buffer.alloc(0);
    if (payload.length < 8 || payload.length % 4 !== 0) wrong.add(EINVAL);
    else {
      length = payload.readBigUInt64BE(0);
      ids = [];
      for (let at = 8; at < payload.length; at += 4) ids.push(payload.readUInt32BE(at));
      const known = ids.every((id) => session.contexts.has(id));
      if (!known || new Set(ids).size !== ids.length) wrong.add(EINVAL);
    }
  }
  const empty = length === 0n || ids.length === 0;
  if (empty || request.offset + length > BigInt(session.exported.size)) wrong.add(EINVAL);
  const success = wrong.size === 0;
  if (!session.contextsCertain) wrong.add(EINVAL);
  return { success, errors: wrong, length, ids };
}

const OPERATIONS = ['read', 'write', null, 'flush', 'trim', null, 'zero'] as const;

/** Where the device refuses to do this. */
function badRangesOf(request: JudgedRequest, { exported }: JudgedSession): readonly BadRange[] {
  const operation = OPERATIONS[request.command] ?? null;
  if (operation === null) return [];
  const start = request.offset;
  const end = start + request.length;
  if (operation !== 'flush' && request.length === 0n) return [];
  return exported.badRanges.filter((bad) => {
    if (bad.operation !== operation) return false;
    return (
      operation === 'flush' || (BigInt(bad.offset) < end && start < BigInt(bad.offset + bad.length))
    );
  });
}
