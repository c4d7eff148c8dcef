/**
 * Payloads of metadata records: to bytes and back.
 *
 * The layouts are in record-layouts.ts, what is a msgpack map in record-maps.ts.
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
import { PayloadRefused, refuseUnless } from './payload-refused.ts';
import { LAYOUTS, WIDTH, widthOf } from './record-layouts.ts';
import type { FieldType } from './record-layouts.ts';
import { recordOfMap } from './record-maps.ts';
import type { MetadataRecord, RecordKind } from './records.ts';

export { PayloadRefused } from './payload-refused.ts';
export { LAYOUTS, widthOf } from './record-layouts.ts';

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
  } else if (type === 'id') {
    assert(typeof value === 'string' && value.length === 2 * WIDTH.id, 'an id has its digits');
    payload.write(value, offset, 'hex');
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
    case 'id':
      return payload.toString('hex', offset, offset + WIDTH.id);
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
  return recordOfMap(kind, decoded);
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
