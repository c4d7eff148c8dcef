/**
 * What each kind of frame may look like: who sends it, which flags it may carry, which payloads. A frame that is
 * otherwise ends the link. The table of docs/internals/link.md is held to this one by a test.
 *
 * Flags belong to their kind. COMPRESSED is that of DATA and RUN_DATA alone, and only of links whose ends agreed on a codec:
 * the reader of a lane knows that.
 */
import {
  BLOCK_BYTES,
  LINK_ANSWER_BLOCKS_MAX,
  LINK_DIGEST_BLOCKS_MAX,
  LINK_FRAME_BYTES_MAX,
  LINK_MESSAGE_BYTES_MAX,
  LINK_RANGES_MAX,
} from '../../io/limits.ts';
import { WRITE_HEADER_BYTES } from '../../nbd/client/client-prepared.ts';
import { DIGEST_BYTES } from '../../workers/kernels.ts';
import { COMPARE_GROUPS, COMPARE_TWIN, COMPARE_ZERO } from '../runs/run-frames.ts';
import { FrameKind } from './link-types.ts';
import { RANGE_BYTES } from './ranges.ts';

export type LinkSide = 'primary' | 'mirror';

/** The payload is compressed; LENGTH of the header is that of the payload before. */
export const COMPRESSED = 0x80;

export interface KindRule {
  readonly kind: FrameKind;
  /** Null: both. */
  readonly sender: LinkSide | null;
  /** Flags that it may carry. */
  readonly flags: number;
  /** Bytes of the payload: at least, at most, and a multiple of `unit`. */
  readonly least: number;
  readonly most: number;
  readonly unit: number;
  /** `length` of the header is that of the payload, before compression. */
  readonly lengthOfPayload: boolean;
}

const NONE = { least: 0, most: 0, unit: 1 };
const ENTRIES = { least: WRITE_HEADER_BYTES + BLOCK_BYTES, most: LINK_FRAME_BYTES_MAX, unit: 4 };
const RANGES = { least: RANGE_BYTES, most: LINK_RANGES_MAX * RANGE_BYTES, unit: RANGE_BYTES };
const MESSAGE = { least: 1, most: LINK_MESSAGE_BYTES_MAX, unit: 1 };
const QUESTION = { least: 0, most: LINK_DIGEST_BLOCKS_MAX * DIGEST_BYTES, unit: DIGEST_BYTES };
const ANSWER = { least: 0, most: LINK_ANSWER_BLOCKS_MAX / 8, unit: 1 };
const COMPARE_FLAGS = COMPARE_ZERO | COMPARE_TWIN | COMPARE_GROUPS;

const PRIMARY = { sender: 'primary', flags: 0, lengthOfPayload: false } as const;
const DATA = { sender: 'primary', flags: COMPRESSED, ...ENTRIES, lengthOfPayload: true } as const;
const MIRROR = { sender: 'mirror', flags: 0, lengthOfPayload: false } as const;
const BOTH = { sender: null, flags: 0, lengthOfPayload: false } as const;

/** By the names of the kinds. */
export const KIND_RULES: Readonly<Record<keyof typeof FrameKind, KindRule>> = Object.freeze({
  DATA: { kind: FrameKind.DATA, ...DATA },
  RANGES: { kind: FrameKind.RANGES, ...PRIMARY, ...RANGES },
  COMMAND: { kind: FrameKind.COMMAND, ...PRIMARY, ...MESSAGE },
  CLOSE: { kind: FrameKind.CLOSE, ...PRIMARY, ...NONE },
  ACK: { kind: FrameKind.ACK, ...MIRROR, ...NONE },
  CONTROL: { kind: FrameKind.CONTROL, ...BOTH, ...MESSAGE },
  HEARTBEAT: { kind: FrameKind.HEARTBEAT, ...BOTH, ...NONE },
  RUN_DATA: { kind: FrameKind.RUN_DATA, ...DATA },
  RUN_RANGES: { kind: FrameKind.RUN_RANGES, ...PRIMARY, ...RANGES },
  DIGESTS: { kind: FrameKind.DIGESTS, ...PRIMARY, ...QUESTION, flags: COMPARE_FLAGS },
  DIFFERS: { kind: FrameKind.DIFFERS, ...MIRROR, ...ANSWER, flags: COMPARE_FLAGS },
  AWAITS: { kind: FrameKind.AWAITS, ...PRIMARY, ...NONE },
});

const byNumber: readonly (KindRule | undefined)[] = numbered(Object.values(KIND_RULES));
const names: readonly (string | undefined)[] = numbered(Object.keys(KIND_RULES));

/** Null for a number that is no kind. */
export function kindRule(kind: number): KindRule | null {
  return byNumber[kind] ?? null;
}

/** As the tables call it, for messages. */
export function nameOfKind(kind: FrameKind): string {
  return names[kind] ?? 'nameless';
}

/** A compressed payload is shorter than what it was, which is what the rule is about. */
export function payloadFits(
  rule: KindRule,
  flags: number,
  payloadBytes: number,
  length: number,
): boolean {
  const compressed = rule.lengthOfPayload && (flags & COMPRESSED) !== 0;
  const plainBytes = compressed ? length : payloadBytes;
  if (plainBytes < rule.least || plainBytes > rule.most) return false;
  if (plainBytes % rule.unit !== 0) return false;
  if (compressed) return payloadBytes > 0 && payloadBytes < length;
  return !rule.lengthOfPayload || length === payloadBytes;
}

/** Each at the number of its kind. */
function numbered<T>(items: readonly T[]): (T | undefined)[] {
  const list: (T | undefined)[] = [];
  for (const [index, rule] of Object.values(KIND_RULES).entries()) list[rule.kind] = items[index];
  return list;
}
