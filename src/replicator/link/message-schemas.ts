/**
 * What the messages of the link may hold. The bounds stand here, and nowhere else.
 *
 * On the wire a generation is a list of three, `[number, id, firstEpoch]`: with its names a thousand of them would not fit a
 * message.
 *
 * The schemas are built when they are first needed: a node without mirrors has no use for them.
 */
import { z } from 'zod';
import {
  BLOCK_BYTES,
  HANDOVER_MS_MAX,
  LINK_FEATURE_CHARACTERS_MAX,
  LINK_FEATURES_MAX,
  LINK_GENERATIONS_MAX,
  LINK_LANES_MAX,
  LINK_TEXT_CHARACTERS_MAX,
  MIRRORS_PER_VOLUME_MAX,
  SNAPSHOT_NAME_BYTES_MAX,
  SNAPSHOTS_PER_VOLUME_MAX,
  REJOIN_RUNS_PER_MESSAGE,
  VOLUME_BYTES_MAX,
  VOLUME_NAME_BYTES_MAX,
} from '../../io/limits.ts';
import { LINK_VERSION } from './link-version.ts';
import type { ControlMessage, Generation, Hello, StreamCommand, Welcome } from './messages.ts';

export interface MessageSchemas {
  readonly hello: z.ZodType<Hello>;
  readonly welcome: z.ZodType<Welcome>;
  readonly control: z.ZodType<ControlMessage>;
  readonly command: z.ZodType<StreamCommand>;
  /** The version alone, of a message whose other members may be those of another version. */
  readonly version: z.ZodType<{ readonly version: number }>;
}

let built: MessageSchemas | null = null;

export function messageSchemas(): MessageSchemas {
  built ??= build();
  return built;
}

const NODE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const ID = /^[0-9a-f]{32}$/;
const CODE = /^[A-Z][A-Z0-9_]{0,63}$/;
const VERSION_MAX = 65_535;
const BLOCKS_MAX = VOLUME_BYTES_MAX / BLOCK_BYTES;

function build(): MessageSchemas {
  const whole = z.int().min(0);
  const id = z.string().regex(ID, 'must be 32 hexadecimal digits');
  const node = z.string().regex(NODE_NAME, 'must be the name of a node');
  const size = z.int().min(BLOCK_BYTES).max(VOLUME_BYTES_MAX).multipleOf(BLOCK_BYTES);
  const cursor = z.int().min(0).max(VOLUME_BYTES_MAX);
  const block = z
    .int()
    .min(0)
    .max(BLOCKS_MAX - 1);
  const text = z.string().max(LINK_TEXT_CHARACTERS_MAX);
  const version = z.literal(LINK_VERSION);
  const lanes = z.int().min(1).max(LINK_LANES_MAX);
  const generations = z
    .array(z.tuple([z.int().min(1), id, whole]))
    .max(LINK_GENERATIONS_MAX)
    .transform((list) =>
      list.map(([number, ofIt, firstEpoch]): Generation => ({ number, id: ofIt, firstEpoch })),
    )
    .refine(areInOrder, 'must be in their order');
  const run = { run: id };
  // Those of a later version are known to it alone.
  const features = z.array(z.string().max(LINK_FEATURE_CHARACTERS_MAX)).max(LINK_FEATURES_MAX);
  const snapshotName = z
    .string()
    .min(1)
    .refine((name) => Buffer.byteLength(name) <= SNAPSHOT_NAME_BYTES_MAX, 'is too long');
  const twin = { id, name: snapshotName, createdAt: whole };
  const snapshots = z.array(id).max(SNAPSHOTS_PER_VOLUME_MAX);
  const position = z.strictObject({ generation: z.int().min(1), epoch: whole }).nullable();
  const handoverMirror = {
    uri: text,
    mode: z.enum(['async', 'sync']),
    stallPolicy: z.enum(['degrade', 'block']),
    lanes,
    limit: z.int().min(1).nullable(),
  };
  const volumeName = z
    .string()
    .min(1)
    .refine((name) => Buffer.byteLength(name) <= VOLUME_NAME_BYTES_MAX, 'is too long');
  return {
    version: z.object({ version: z.int().min(0).max(VERSION_MAX) }),
    hello: z.strictObject({
      version,
      node,
      volume: volumeName,
      volumeId: id,
      sizeBytes: size,
      generations,
      epoch: whole,
      lane: z
        .strictObject({
          token: id,
          index: z
            .int()
            .min(1)
            .max(LINK_LANES_MAX - 1),
        })
        .nullable(),
      lanes,
      features: features.exactOptional(),
    }),
    welcome: z.strictObject({
      version,
      node,
      token: id,
      lanes,
      sizeBytes: size,
      generations,
      position,
      run: z.strictObject({ id, cursor }).nullable(),
      features: features.exactOptional(),
      rejoin: z.strictObject({ generation: z.int().min(1), epoch: whole }).exactOptional(),
    }),
    control: z.discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('stream-begin'), generation: z.int().min(1), after: whole }),
      z.strictObject({
        kind: z.literal('run-begin'),
        number: whole,
        ...run,
        generation: z.int().min(1),
        epoch: whole,
        time: whole,
        sizeBytes: size,
        generations,
        full: z.boolean(),
      }),
      z.strictObject({ kind: z.literal('run-ready'), ...run, cursor }),
      z.strictObject({ kind: z.literal('run-mark'), ...run, cursor, frames: whole }),
      z.strictObject({ kind: z.literal('run-durable'), ...run, cursor }),
      z.strictObject({
        kind: z.literal('run-commit'),
        ...run,
        frames: whole,
        snapshot: z.strictObject(twin).exactOptional(),
      }),
      z.strictObject({
        kind: z.literal('run-committed'),
        ...run,
        refused: text.exactOptional(),
      }),
      z.strictObject({ kind: z.literal('run-abort'), ...run }),
      z.strictObject({ kind: z.literal('snapshots-are'), ids: snapshots }),
      z.strictObject({
        kind: z.literal('snapshots-held'),
        ids: snapshots,
        position,
        refused: text.exactOptional(),
      }),
      z.strictObject({ kind: z.literal('command-done'), epoch: whole, error: text.nullable() }),
      z.strictObject({
        kind: z.literal('may-differ'),
        runs: z
          .array(z.tuple([block, z.int().min(1).max(BLOCKS_MAX)]))
          .max(REJOIN_RUNS_PER_MESSAGE),
        more: z.boolean(),
      }),
      // Words of a later version are shown, and mean nothing else.
      z.strictObject({
        kind: z.literal('policy'),
        refuses: z.array(z.string().max(LINK_FEATURE_CHARACTERS_MAX)).max(LINK_FEATURES_MAX),
      }),
      z.strictObject({
        kind: z.literal('handover-wanted'),
        split: z.boolean(),
        withinMs: z.int().min(1).max(HANDOVER_MS_MAX),
        back: text.nullable(),
      }),
      z.strictObject({ kind: z.literal('handover-denied'), message: text }),
      z.strictObject({
        kind: z.literal('hand-over'),
        id,
        epoch: whole,
        split: z.boolean(),
        back: z.strictObject(handoverMirror).nullable(),
        others: z
          .array(z.strictObject({ ...handoverMirror, node, whole: z.boolean() }))
          .max(MIRRORS_PER_VOLUME_MAX - 1)
          .exactOptional(),
      }),
      z.strictObject({ kind: z.literal('handed-over') }),
      z.strictObject({ kind: z.literal('handover-refused'), message: text }),
      z.strictObject({ kind: z.literal('failed'), code: z.string().regex(CODE), message: text }),
    ]),
    command: z.discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('freeze'), id }),
      z.strictObject({ kind: z.literal('thaw'), id }),
      z.strictObject({
        kind: z.literal('snapshot-create'),
        ...twin,
        replaces: id.nullable(),
      }),
      z.strictObject({ kind: z.literal('snapshot-delete'), id }),
    ]),
  };
}

/** The oldest first, one after another; none begins before the one before it. */
function areInOrder(list: readonly Generation[]): boolean {
  return list.every((each, index) => {
    const before = list[index - 1];
    if (before === undefined) return true;
    return each.number === before.number + 1 && each.firstEpoch >= before.firstEpoch;
  });
}
