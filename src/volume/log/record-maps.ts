/**
 * Records whose payload is a msgpack map. Invariants: every field that a record needs is there and has its type and
 * range; what else the map holds is left out.
 */
import assert from 'node:assert';
import { GENERATIONS_MAX } from '../../io/limits.ts';
import { CONTAINER_KINDS } from '../containers.ts';
import { isRefusal, REFUSALS } from '../refusals.ts';
import { PayloadRefused, refuseUnless } from './payload-refused.ts';
import type {
  Booted,
  Cloned,
  Fenced,
  Generation,
  HistorySet,
  LayerPlaced,
  MetadataRecord,
  MirrorAdded,
  MirrorOptions,
  MirrorPeer,
  MirrorCompress,
  MirrorPolicy,
  MirrorSchedule,
  RecordKind,
  RunOpened,
  SnapshotCreated,
  SnapshotRemoved,
  SourceBound,
  SourcePolicy,
  VolumeCreated,
} from './records.ts';

type FieldMap = Readonly<Record<string, unknown>>;

/** Readers of the kinds whose payload is a map. */
const READERS: Partial<Record<RecordKind, (map: FieldMap) => MetadataRecord>> = {
  'volume-created': (map): VolumeCreated => ({
    kind: 'volume-created',
    id: identifier(map),
    name: text(map, 'name'),
    sizeBytes: integer(map, 'sizeBytes'),
    createdAt: integer(map, 'createdAt'),
    nextMirrorId: integer(map, 'nextMirrorId'),
  }),
  'snapshot-created': (map): SnapshotCreated => ({
    kind: 'snapshot-created',
    id: identifier(map),
    name: text(map, 'name'),
    layer: integer(map, 'layer'),
    createdAt: integer(map, 'createdAt'),
    sizeBytes: integer(map, 'sizeBytes'),
    ...markOf(map),
  }),
  'snapshot-removed': (map): SnapshotRemoved => ({
    kind: 'snapshot-removed',
    id: identifier(map),
  }),
  booted: (map): Booted => ({ kind: 'booted', id: identifier(map) }),
  cloned: (map): Cloned => ({
    kind: 'cloned',
    volume: identifier(map, 'volume'),
    snapshot: identifier(map, 'snapshot'),
  }),
  'layer-placed': placedOf,
  'mirror-added': mirrorOf,
  'history-set': (map): HistorySet => ({
    kind: 'history-set',
    generations: generationsOf(map),
  }),
  'source-bound': (map): SourceBound => ({
    kind: 'source-bound',
    node: text(map, 'node'),
    volumeId: maybe(map, 'volumeId', identifier),
  }),
  'source-policy': policyOf,
  'run-opened': runOf,
  'mirror-peer': (map): MirrorPeer => ({
    kind: 'mirror-peer',
    mirror: integer(map, 'mirror'),
    node: text(map, 'node'),
    volumeId: maybe(map, 'volumeId', identifier),
  }),
  fenced: (map): Fenced => ({ kind: 'fenced', reason: text(map, 'reason') }),
  'mirror-options': (map): MirrorOptions => ({
    kind: 'mirror-options',
    mirror: integer(map, 'mirror'),
    lanes: integer(map, 'lanes'),
    limit: maybe(map, 'limit', integer),
  }),
  'mirror-compress': (map): MirrorCompress => {
    const mode = text(map, 'mode');
    refuseUnless(mode === 'auto' || mode === 'off', 'a mirror is compressed in an unknown way');
    return { kind: 'mirror-compress', mirror: integer(map, 'mirror'), mode };
  },
  'mirror-policy': (map): MirrorPolicy => ({
    kind: 'mirror-policy',
    mirror: integer(map, 'mirror'),
    schedule: scheduleOf(mapOf(map['schedule'])),
    lagLimitMs: maybe(map, 'lagLimitMs', integer),
  }),
};

/** The record of a msgpack map, whose fields are checked one by one. Throws PayloadRefused. */
export function recordOfMap(kind: RecordKind, decoded: unknown): MetadataRecord {
  const read = READERS[kind];
  assert(read !== undefined, 'no other kind is a map');
  return read(mapOf(decoded));
}

function mapOf(value: unknown): FieldMap {
  refuseUnless(typeof value === 'object' && value !== null, 'a record or a part of it is no map');
  return value as FieldMap;
}

function markOf({ mark }: FieldMap): Pick<SnapshotCreated, 'mark'> {
  if (mark === undefined) return {};
  const told = mapOf(mark);
  const position = { generation: integer(told, 'generation'), epoch: integer(told, 'epoch') };
  return { mark: { ...position, shipped: flag(told, 'shipped') } };
}

function runOf(map: FieldMap): RunOpened {
  return {
    kind: 'run-opened',
    run: identifier(map, 'run'),
    generation: integer(map, 'generation'),
    epoch: integer(map, 'epoch'),
    time: integer(map, 'time'),
    generations: generationsOf(map),
    base: identifier(map, 'base'),
    full: flag(map, 'full'),
  };
}

function policyOf({ refuses }: FieldMap): SourcePolicy {
  refuseUnless(Array.isArray(refuses), 'what a mirror refuses is not a list');
  refuseUnless(refuses.length <= REFUSALS.length, 'a mirror refuses too much');
  return {
    kind: 'source-policy',
    refuses: refuses.map((word: unknown) => {
      refuseUnless(isRefusal(word), 'a mirror refuses what is unknown here');
      return word;
    }),
  };
}

function scheduleOf(map: FieldMap): MirrorSchedule {
  const kind = text(map, 'kind');
  switch (kind) {
    case 'stream':
    case 'on-demand':
      return { kind };
    case 'every':
      return { kind, intervalMs: integer(map, 'intervalMs') };
    case 'quiet': {
      const bytesPerSecond = integer(map, 'bytesPerSecond');
      return { kind, bytesPerSecond, intervalMs: integer(map, 'intervalMs') };
    }
    default:
      throw new PayloadRefused('a mirror has an unknown schedule');
  }
}

function generationsOf(map: FieldMap): Generation[] {
  const { generations } = map;
  refuseUnless(Array.isArray(generations), 'the generations are not a list');
  refuseUnless(generations.length <= GENERATIONS_MAX, 'there are too many generations');
  return generations.map((entry: unknown) => {
    const generation = mapOf(entry);
    return {
      number: integer(generation, 'number'),
      id: identifier(generation),
      firstEpoch: integer(generation, 'firstEpoch'),
    };
  });
}

function maybe<Value>(
  map: FieldMap,
  name: string,
  read: (map: FieldMap, name: string) => Value,
): Value | null {
  return map[name] === null ? null : read(map, name);
}

function flag(map: FieldMap, name: string): boolean {
  const value = map[name];
  refuseUnless(typeof value === 'boolean', `the field ${name} is not true or false`);
  return value;
}

function placedOf(map: FieldMap): LayerPlaced {
  const named = text(map, 'container');
  const container = CONTAINER_KINDS.find((kind) => kind === named);
  refuseUnless(container !== undefined, 'a layer lies in a container of an unknown kind');
  const layer = integer(map, 'layer');
  return { kind: 'layer-placed', layer, container, location: text(map, 'location') };
}

function mirrorOf(map: FieldMap): MirrorAdded {
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

function identifier(map: FieldMap, name = 'id'): string {
  const id = text(map, name);
  refuseUnless(/^[0-9a-f]{32}$/.test(id), 'an id is not 32 hexadecimal digits');
  return id;
}

function text(map: FieldMap, name: string): string {
  const value = map[name];
  refuseUnless(typeof value === 'string', `the field ${name} is not a text`);
  return value;
}

function integer(map: FieldMap, name: string): number {
  const value = map[name];
  refuseUnless(typeof value === 'number', `the field ${name} is not a number`);
  refuseUnless(Number.isSafeInteger(value), `the field ${name} is not an integer`);
  refuseUnless(value >= 0, `the field ${name} is negative`);
  return value;
}
