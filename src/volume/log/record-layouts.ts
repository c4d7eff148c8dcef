/**
 * The layouts of the payloads of metadata records: the one description, which the codec walks. A test holds
 * docs/internals/metadata-log.md against it.
 */
import { LEAF_BYTES } from '../maps/leaf.ts';
import type { RecordKind } from './records.ts';

/** `id` is 32 hexadecimal digits; `maybe-leaf` is a leaf, or nothing at the end; `u32-list` is a count and as many numbers. */
export type FieldType =
  | 'u64'
  | 'u32'
  | 'state'
  | 'set'
  | 'boolean'
  | 'id'
  | 'leaf'
  | 'maybe-leaf'
  | 'u32-list'
  | 'reserved-2'
  | 'reserved-3'
  | 'reserved-6';

export type Field = readonly [name: string, type: FieldType];

interface Layout {
  readonly code: number;
  /** Null: the payload is a msgpack map of the record's fields. */
  readonly fields: readonly Field[] | null;
}

const MIRROR_SET_FIELDS: readonly Field[] = [
  ['mirror', 'u32'],
  ['set', 'set'],
  ['', 'reserved-3'],
];

const POSITION_FIELDS: readonly Field[] = [
  ['generation', 'u64'],
  ['epoch', 'u64'],
  ['time', 'u64'],
];

export const LAYOUTS: Readonly<Record<RecordKind, Layout>> = {
  'volume-created': { code: 1, fields: null },
  resized: { code: 2, fields: [['sizeBytes', 'u64']] },
  'layer-created': {
    code: 3,
    fields: [
      ['layer', 'u32'],
      ['parent', 'u32'],
    ],
  },
  allocated: {
    code: 4,
    fields: [
      ['layer', 'u32'],
      ['state', 'state'],
      ['', 'reserved-3'],
      ['first', 'u64'],
      ['count', 'u64'],
    ],
  },
  'layer-region': {
    code: 5,
    fields: [
      ['layer', 'u32'],
      ['region', 'u32'],
      ['data', 'leaf'],
      ['zero', 'leaf'],
    ],
  },
  'mirror-added': { code: 6, fields: null },
  'mirror-removed': { code: 7, fields: [['mirror', 'u32']] },
  'mirror-paused': {
    code: 8,
    fields: [
      ['mirror', 'u32'],
      ['paused', 'boolean'],
      ['', 'reserved-3'],
    ],
  },
  'mirror-bits': {
    code: 9,
    fields: [
      ['mirror', 'u32'],
      ['region', 'u32'],
      ['set', 'set'],
      ['state', 'state'],
      ['', 'reserved-6'],
      ['leaf', 'maybe-leaf'],
    ],
  },
  'mirror-bits-run': {
    code: 10,
    fields: [
      ['mirror', 'u32'],
      ['set', 'set'],
      ['value', 'boolean'],
      ['', 'reserved-2'],
      ['first', 'u64'],
      ['count', 'u64'],
    ],
  },
  'mirror-bits-cleared': { code: 11, fields: MIRROR_SET_FIELDS },
  'mirror-bits-all': { code: 12, fields: MIRROR_SET_FIELDS },
  'regions-hot': { code: 13, fields: [['regions', 'u32-list']] },
  'regions-cold': { code: 14, fields: [['regions', 'u32-list']] },
  'generation-numbered': { code: 15, fields: [['generation', 'u64']] },
  opened: { code: 16, fields: [] },
  'closed-clean': { code: 17, fields: [] },
  'layer-sealed': { code: 18, fields: [['layer', 'u32']] },
  'layers-merged': {
    code: 19,
    fields: [
      ['from', 'u32'],
      ['into', 'u32'],
    ],
  },
  'layer-removed': { code: 20, fields: [['layer', 'u32']] },
  'snapshot-created': { code: 21, fields: null },
  'snapshot-removed': { code: 22, fields: null },
  'layer-resized': {
    code: 23,
    fields: [
      ['layer', 'u32'],
      ['sizeBytes', 'u64'],
    ],
  },
  booted: { code: 24, fields: null },
  cloned: { code: 25, fields: null },
  'history-set': { code: 26, fields: null },
  'generation-opened': {
    code: 27,
    fields: [
      ['number', 'u64'],
      ['id', 'id'],
      ['firstEpoch', 'u64'],
    ],
  },
  'epochs-reserved': { code: 28, fields: [['epoch', 'u64']] },
  'source-bound': { code: 29, fields: null },
  'source-cleared': { code: 30, fields: [] },
  position: { code: 31, fields: POSITION_FIELDS },
  'run-opened': { code: 32, fields: null },
  'run-marked': {
    code: 33,
    fields: [
      ['run', 'id'],
      ['cursor', 'u64'],
    ],
  },
  'run-closed': {
    code: 34,
    fields: [
      ['run', 'id'],
      ['committed', 'boolean'],
      ['', 'reserved-3'],
    ],
  },
  'mirror-peer': { code: 35, fields: null },
  'mirror-acknowledged': {
    code: 36,
    fields: [
      ['mirror', 'u32'],
      ['generation', 'u64'],
      ['epoch', 'u64'],
    ],
  },
  'mirror-run': {
    code: 37,
    fields: [['mirror', 'u32'], ['run', 'id'], ['snapshot', 'id'], ...POSITION_FIELDS],
  },
  'mirror-run-over': { code: 38, fields: [['mirror', 'u32']] },
  'mirror-options': { code: 39, fields: null },
  'sync-failed': { code: 40, fields: [['boot', 'id']] },
  'layer-placed': { code: 41, fields: null },
  fenced: { code: 42, fields: null },
  rejoining: {
    code: 43,
    fields: [
      ['mirror', 'u32'],
      ['generation', 'u64'],
      ['epoch', 'u64'],
    ],
  },
  'handing-over': {
    code: 44,
    fields: [
      ['mirror', 'u32'],
      ['id', 'id'],
      ['epoch', 'u64'],
    ],
  },
  'handover-over': { code: 45, fields: [] },
  'mirror-policy': { code: 46, fields: null },
  'mirror-ran': {
    code: 47,
    fields: [
      ['mirror', 'u32'],
      ['time', 'u64'],
    ],
  },
  'mirror-compress': { code: 48, fields: null },
  'source-policy': { code: 49, fields: null },
  'snapshot-kept': { code: 50, fields: [['id', 'id']] },
  'journal-kept': {
    code: 51,
    fields: [
      ['layer', 'u32'],
      ['generation', 'u64'],
      ['after', 'u64'],
      ['last', 'u64'],
    ],
  },
  'journal-released': { code: 52, fields: [] },
  'top-removed': { code: 53, fields: [['layer', 'u32']] },
};

const ID_BYTES = 16;

export const WIDTH: Readonly<Record<Exclude<FieldType, 'maybe-leaf' | 'u32-list'>, number>> = {
  u64: 8,
  u32: 4,
  state: 1,
  set: 1,
  boolean: 1,
  id: ID_BYTES,
  leaf: LEAF_BYTES,
  'reserved-2': 2,
  'reserved-3': 3,
  'reserved-6': 6,
};

/** Bytes of a field with this value; without a value, the least it can have. */
export function widthOf(type: FieldType, value?: unknown): number {
  if (type === 'maybe-leaf') return value instanceof Uint8Array ? LEAF_BYTES : 0;
  if (type === 'u32-list') return 4 + (Array.isArray(value) ? value.length * 4 : 0);
  return WIDTH[type];
}
