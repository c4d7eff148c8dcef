/**
 * Payloads of metadata records: to bytes and back.
 *
 * The layouts below are the one description: the codec walks them, and a test holds
 * docs/internals/metadata-log.md against them.
 *
 * Invariants:
 * - Decoding accepts exactly what encoding makes: every byte is used, reserved bytes are zero, enumerated
 *   fields have a known value, integers are safe. Anything else is PayloadRefused.
 * - A decoded record shares no memory with the bytes it came from.
 */
import assert from 'node:assert';
import { Packr } from 'msgpackr';
import { METADATA_RECORD_BYTES_MAX } from '../../io/limits.ts';
import { LEAF_BYTES } from '../maps/leaf.ts';
import type {
  Booted,
  Cloned,
  MetadataRecord,
  MirrorAdded,
  RecordKind,
  SnapshotCreated,
  SnapshotRemoved,
  VolumeCreated,
} from './records.ts';

/** A payload that no version of this program would have written. */
export class PayloadRefused extends Error {}

/** `maybe-leaf` is a leaf, or nothing at the end; `u32-list` is a count and as many numbers. */
export type FieldType =
  | 'u64'
  | 'u32'
  | 'state'
  | 'set'
  | 'boolean'
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
  'generation-opened': { code: 15, fields: [['generation', 'u64']] },
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
};

const KIND_OF_CODE = new Map<number, RecordKind>(
  Object.entries(LAYOUTS).map(([kind, layout]) => [layout.code, kind as RecordKind]),
);

export function codeOfKind(kind: RecordKind): number {
  return LAYOUTS[kind].code;
}

/** The kind that a code stands for, or null for a code of a later version. */
export function kindOfCode(code: number): RecordKind | null {
  return KIND_OF_CODE.get(code) ?? null;
}

const WIDTH: Readonly<Record<Exclude<FieldType, 'maybe-leaf' | 'u32-list'>, number>> = {
  u64: 8,
  u32: 4,
  state: 1,
  set: 1,
  boolean: 1,
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

/** `useRecords: false` keeps the bytes plain msgpack maps, readable by any other program. */
const packr = new Packr({ useRecords: false });

/** The payload of a record, without padding. */
export function encodePayload(record: MetadataRecord): Buffer {
  const { fields } = LAYOUTS[record.kind];
  if (fields === null) {
    const { kind: _, ...content } = record;
    return packr.pack(content);
  }
  const values = record as unknown as Readonly<Record<string, unknown>>;
  let length = 0;
  for (const [name, type] of fields) length += widthOf(type, values[name]);
  assert(length <= METADATA_RECORD_BYTES_MAX, 'a record fits its largest payload');
  const payload = Buffer.alloc(length);
  let offset = 0;
  for (const [name, type] of fields) {
    encodeField(payload, offset, type, values[name]);
    offset += widthOf(type, values[name]);
  }
  return payload;
}

function encodeField(payload: Buffer, offset: number, type: FieldType, value: unknown): void {
  if (type === 'u64' || type === 'u32' || type === 'state') {
    assert(typeof value === 'number', 'a number field has a number');
    assert(Number.isSafeInteger(value), 'a number field has an integer');
    if (type === 'u64') writeU64(payload, offset, value);
    else if (type === 'u32') payload.writeUInt32BE(value, offset);
    else payload.writeUInt8(value, offset);
  } else if (type === 'set') {
    payload.writeUInt8(value === 'dirty' ? 0 : 1, offset);
  } else if (type === 'boolean') {
    payload.writeUInt8(value === true ? 1 : 0, offset);
  } else if (value instanceof Uint8Array) {
    assert.equal(value.length, LEAF_BYTES, 'a leaf has its size');
    payload.set(value, offset);
  } else if (Array.isArray(value)) {
    payload.writeUInt32BE(value.length, offset);
    value.forEach((entry: number, index) => payload.writeUInt32BE(entry, offset + 4 + index * 4));
  }
}

/** The record of a payload. Throws PayloadRefused. */
export function decodePayload(kind: RecordKind, payload: Buffer): MetadataRecord {
  const { fields } = LAYOUTS[kind];
  if (fields === null) return decodeMap(kind, payload);
  const record: Record<string, unknown> = { kind };
  let offset = 0;
  for (const [name, type] of fields) {
    const rest = payload.length - offset;
    refuseUnless(rest >= widthOf(type), `a ${kind} record is too short`);
    const value = decodeField(payload, offset, type);
    offset += widthOf(type, value);
    if (name !== '') record[name] = value;
  }
  refuseUnless(offset === payload.length, `a ${kind} record is too long`);
  if (kind === 'mirror-bits') {
    const mixed = record['state'] === 2;
    refuseUnless(mixed === (record['leaf'] !== null), 'a mirror-bits record has a wrong leaf');
  }
  return record as unknown as MetadataRecord;
}

function decodeField(payload: Buffer, offset: number, type: FieldType): unknown {
  switch (type) {
    case 'u64':
      return readU64(payload, offset);
    case 'u32':
      return payload.readUInt32BE(offset);
    case 'state':
      return enumerated(payload.readUInt8(offset), 3);
    case 'set':
      return enumerated(payload.readUInt8(offset), 2) === 0 ? 'dirty' : 'suspect';
    case 'boolean':
      return enumerated(payload.readUInt8(offset), 2) === 1;
    case 'leaf':
      return Uint8Array.from(payload.subarray(offset, offset + LEAF_BYTES));
    case 'maybe-leaf':
      if (payload.length === offset) return null;
      refuseUnless(payload.length >= offset + LEAF_BYTES, 'a leaf is too short');
      return Uint8Array.from(payload.subarray(offset, offset + LEAF_BYTES));
    case 'u32-list': {
      const count = payload.readUInt32BE(offset);
      refuseUnless(payload.length >= offset + 4 + count * 4, 'a list is too short');
      return Array.from({ length: count }, (_, i) => payload.readUInt32BE(offset + 4 + i * 4));
    }
    case 'reserved-2':
    case 'reserved-3':
    case 'reserved-6':
      break;
  }
  const bytes = payload.subarray(offset, offset + WIDTH[type]);
  refuseUnless(
    bytes.every((byte) => byte === 0),
    'reserved bytes are not zero',
  );
  return null;
}

function enumerated(value: number, count: number): number {
  refuseUnless(value < count, 'an enumerated field has an unknown value');
  return value;
}

function decodeMap(kind: RecordKind, payload: Buffer): MetadataRecord {
  let decoded: unknown;
  try {
    decoded = packr.unpack(payload);
  } catch (cause) {
    throw new PayloadRefused(`a ${kind} record is not msgpack`, { cause });
  }
  refuseUnless(typeof decoded === 'object' && decoded !== null, `a ${kind} record is not a map`);
  const map = decoded as Readonly<Record<string, unknown>>;
  if (kind === 'volume-created') {
    return {
      kind,
      id: identifier(map),
      name: text(map, 'name'),
      sizeBytes: integer(map, 'sizeBytes'),
      createdAt: integer(map, 'createdAt'),
      nextMirrorId: integer(map, 'nextMirrorId'),
    } satisfies VolumeCreated;
  }
  if (kind === 'snapshot-created') {
    return {
      kind,
      id: identifier(map),
      name: text(map, 'name'),
      layer: integer(map, 'layer'),
      createdAt: integer(map, 'createdAt'),
      sizeBytes: integer(map, 'sizeBytes'),
    } satisfies SnapshotCreated;
  }
  if (kind === 'snapshot-removed') {
    return { kind, id: identifier(map) } satisfies SnapshotRemoved;
  }
  if (kind === 'booted') return { kind, id: identifier(map) } satisfies Booted;
  if (kind === 'cloned') {
    const volume = identifier(map, 'volume');
    return { kind, volume, snapshot: identifier(map, 'snapshot') } satisfies Cloned;
  }
  assert(kind === 'mirror-added', 'no other kind is a map');
  return decodeMirror(map);
}

function decodeMirror(map: Readonly<Record<string, unknown>>): MirrorAdded {
  const mode = text(map, 'mode');
  const stallPolicy = text(map, 'stallPolicy');
  refuseUnless(mode === 'async' || mode === 'sync', 'a mirror has an unknown mode');
  refuseUnless(
    stallPolicy === 'degrade' || stallPolicy === 'block',
    'a mirror has an unknown stall policy',
  );
  return {
    kind: 'mirror-added',
    mirror: integer(map, 'mirror'),
    uri: text(map, 'uri'),
    mode,
    stallPolicy,
  };
}

/** 32 hexadecimal digits: the id of a volume or a snapshot. */
function identifier(map: Readonly<Record<string, unknown>>, name = 'id'): string {
  const id = text(map, name);
  refuseUnless(/^[0-9a-f]{32}$/.test(id), 'an id is not 32 hexadecimal digits');
  return id;
}

function text(map: Readonly<Record<string, unknown>>, name: string): string {
  const value = map[name];
  refuseUnless(typeof value === 'string', `the field ${name} is not a text`);
  return value;
}

function integer(map: Readonly<Record<string, unknown>>, name: string): number {
  const value = map[name];
  refuseUnless(typeof value === 'number', `the field ${name} is not a number`);
  refuseUnless(Number.isSafeInteger(value), `the field ${name} is not an integer`);
  refuseUnless(value >= 0, `the field ${name} is negative`);
  return value;
}

export function writeU64(bytes: Buffer, offset: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, 'a u64 is a safe integer');
  bytes.writeUInt32BE(Math.floor(value / 2 ** 32), offset);
  bytes.writeUInt32BE(value % 2 ** 32, offset + 4);
}

/** Throws PayloadRefused for a value that is not a safe integer. */
export function readU64(bytes: Buffer, offset: number): number {
  const value = bytes.readUInt32BE(offset) * 2 ** 32 + bytes.readUInt32BE(offset + 4);
  refuseUnless(Number.isSafeInteger(value), 'a number is too large');
  return value;
}

function refuseUnless(condition: boolean, message: string): asserts condition {
  if (!condition) throw new PayloadRefused(message);
}
