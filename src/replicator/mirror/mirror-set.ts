/**
 * The mirrors of one volume: added, removed, paused, resumed, compared anew, and told of a new size.
 *
 * Invariants:
 * - Changes run one after another. Each is refused before anything changed, or done; what it records is
 *   durable before it takes effect.
 * - A mirror begins with every block marked, durably, before a write passes it by.
 */
import { BlockferryError } from '../../io/errors.ts';
import {
  BLOCK_BYTES,
  MIRRORS_PER_VOLUME_MAX,
  MIRROR_DRAIN_MS_MAX,
  VERIFY_RANGES_MAX,
} from '../../io/limits.ts';
import { parseNbdUri } from '../../nbd/uri/uri.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import type { MirrorRecord } from '../../volume/log/metadata.ts';
import type { MetadataRecord } from '../../volume/log/records.ts';
import type { MirrorHost } from './mirror-host.ts';
import {
  describePolicy,
  FOLLOWS,
  policyRecords,
  refuseSync,
  type MirrorPolicy,
} from '../policy/mirror-policy.ts';
import { Mirror } from './mirror.ts';
import { verifySnapshotName } from './mirror-verify.ts';
import { isReplaced } from '../../volume/names.ts';
import { ferrySnapshotName } from '../contact/peer-transfer.ts';
import { rangesOf } from '../runs/peer-verify.ts';
import { probeMirror } from '../contact/reach.ts';
import type { MirrorMode, StallPolicy, VerifyReport } from '../status.ts';

export interface NewMirror {
  readonly uri: string;
  readonly mode: MirrorMode;
  readonly stallPolicy: StallPolicy;
  /** Connections that carry the link to another node, 1 to LINK_LANES_MAX; 1 if not given. */
  readonly lanes?: number;
  /** It has most of the content already: what differs is found by comparing, and only that is sent. */
  readonly seeded?: boolean;
  /** Follows every write, and never slows the host down, if not given. */
  readonly policy?: Partial<MirrorPolicy>;
}

const DRAIN_POLL_MS = 5;

export class MirrorSet {
  readonly mirrors: Mirror[] = [];
  private readonly verifying = new Set<Mirror>();
  private last: Promise<void> = Promise.resolve();
  /** Nothing is changed behind what is under way: the volume may get another role. */
  private closed = false;
  private readonly host: MirrorHost;
  private readonly prepare: () => Promise<void>;
  private readonly changed: () => void;

  constructor(
    host: MirrorHost,
    hooks: {
      /** Before the first mirror: every write in flight passes the gate from now on. */
      prepare: () => Promise<void>;
      /** The list of mirrors changed. */
      changed: () => void;
    },
  ) {
    this.host = host;
    this.prepare = hooks.prepare;
    this.changed = hooks.changed;
  }

  /** Takes up what the metadata log records. */
  load(): void {
    const { state } = this.host.volume.metadata;
    for (const record of state.mirrors.values()) {
      const mirror = new Mirror({
        host: this.host,
        record,
        uri: parseNbdUri(record.uri),
        fresh: false,
      });
      // Regions that were hot when the node ended: the mirror may have more, or less, than the volume.
      mirror.blocks.suspectRegions(state.hot);
      this.mirrors.push(mirror);
    }
  }

  /** @throws BlockferryError URI_INVALID, MIRROR_*: nothing was changed. */
  add(wanted: NewMirror): Promise<void> {
    const uri = parseNbdUri(wanted.uri);
    const policy = { ...FOLLOWS, ...wanted.policy };
    return this.inTurn(async () => {
      refuseSync(wanted.mode, policy);
      const { volume } = this.host;
      if (this.mirrors.some((mirror) => mirror.uri.text === uri.text)) {
        throw new BlockferryError('MIRROR_EXISTS', `${uri.text} mirrors ${volume.name} already`);
      }
      if (this.mirrors.length >= MIRRORS_PER_VOLUME_MAX) {
        const message = `${volume.name} has ${this.mirrors.length} mirrors, the most there can be`;
        throw new BlockferryError('MIRROR_LIMIT', message);
      }
      const node = await probeMirror({ uri, host: this.host }, volume.sizeBytes);
      await this.prepare();
      const { state } = volume.metadata;
      const id = state.nextMirrorId;
      const { mode, stallPolicy, lanes = 1, seeded = false } = wanted;
      await this.record(
        [
          { kind: 'mirror-added', mirror: id, uri: uri.text, mode, stallPolicy },
          { kind: 'mirror-options', mirror: id, lanes, limit: null },
          // From now on it is that node or none, and the volume keeps its size.
          ...peerRecords(id, node),
          ...policyRecords(id, policy, FOLLOWS),
          { kind: 'mirror-bits-all', mirror: id, set: seeded ? 'suspect' : 'dirty' },
        ],
        () => this.withdraw(id),
      );
      const record = state.mirrors.get(id);
      if (record === undefined) throw new Error('the record of a new mirror folds into the state');
      const mirror = new Mirror({ host: this.host, record, uri, fresh: true });
      this.mirrors.push(mirror);
      this.changed();
      this.host.emit(
        'mirror-added',
        mirror,
        seeded ? `mode ${mode}; it is compared` : `mode ${mode}; the initial copy begins`,
      );
      mirror.start();
    });
  }

  remove(uri: string): Promise<void> {
    return this.inTurn(async () => {
      const mirror = this.find(uri);
      this.refuseInDoubt(mirror);
      const record = this.recordOf(mirror);
      await mirror.interrupt('is being removed');
      try {
        await this.record([{ kind: 'mirror-removed', mirror: mirror.id }], () =>
          this.restore(mirror, record),
        );
      } catch (thrown) {
        mirror.reconnect();
        throw thrown;
      }
      this.mirrors.splice(this.mirrors.indexOf(mirror), 1);
      this.changed();
      await this.discardFrozen();
      this.host.emit('mirror-removed', mirror, 'by the operator; its data stays as it is');
    });
  }

  pause(uri: string): Promise<void> {
    return this.inTurn(async () => {
      const mirror = this.find(uri);
      if (mirror.state === 'paused') return;
      await this.recordPaused(mirror, true);
      await mirror.pause();
    });
  }

  resume(uri: string): Promise<void> {
    return this.inTurn(async () => {
      const mirror = this.find(uri);
      if (mirror.state !== 'paused' && mirror.state !== 'diverged') return;
      await this.recordPaused(mirror, false);
      mirror.resume();
    });
  }

  /** Compares every block with the mirror and sends what differs. */
  resync(uri: string): Promise<void> {
    return this.inTurn(async () => {
      const mirror = this.find(uri);
      if (mirror.state === 'paused' || mirror.state === 'diverged') {
        const message = `mirror ${mirror.uri.text} is ${mirror.state}`;
        throw new BlockferryError('MIRROR_STATE', message);
      }
      await mirror.resync();
      await this.recordMarks(mirror);
    });
  }

  /** Of a mirror that is interrupted: they are durable when it is in contact again. */
  private async recordMarks(mirror: Mirror): Promise<void> {
    mirror.blocks.recordAll();
    try {
      await this.commit(() => {});
    } finally {
      mirror.reconnect();
    }
  }

  /** Bytes a second at most from now on; null: no limit. @throws BlockferryError MIRROR_NOT_FOUND, METADATA_WRITE_FAILED */
  limit(uri: string, bytesPerSecond: number | null): Promise<void> {
    return this.inTurn(async () => {
      const mirror = this.find(uri);
      const { lanes, limit: before } = this.recordOf(mirror);
      const options = (limit: number | null): MetadataRecord => ({
        kind: 'mirror-options',
        mirror: mirror.id,
        lanes,
        limit,
      });
      await this.record([options(bytesPerSecond)], () =>
        this.host.volume.metadata.append(options(before)),
      );
      mirror.limit.set(bytesPerSecond);
    });
  }

  /** What of its policy is not given stays. @throws BlockferryError USAGE, MIRROR_NOT_FOUND, METADATA_WRITE_FAILED */
  set(uri: string, wanted: Partial<MirrorPolicy>): Promise<void> {
    return this.inTurn(async () => {
      const mirror = this.find(uri);
      const { schedule, lagLimitMs, compress } = this.recordOf(mirror);
      const before = { schedule, lagLimitMs, compress };
      const policy = { ...before, ...wanted };
      refuseSync(mirror.mode, policy);
      const { id } = mirror;
      const { metadata } = this.host.volume;
      await this.record(policyRecords(id, policy, before), () => {
        for (const record of policyRecords(id, before, policy)) metadata.append(record);
      });
      this.host.emit('mirror-changed', mirror, describePolicy(policy));
      mirror.compression.set(policy.compress);
      mirror.setPolicy(policy.schedule, policy.lagLimitMs);
    });
  }

  /** Has a delta run of its schedule begin now. @throws BlockferryError MIRROR_NOT_FOUND, MIRROR_STATE */
  sync(uri: string): Promise<void> {
    return this.inTurn(() => {
      this.find(uri).requestRun();
      return Promise.resolve();
    });
  }

  /**
   * Compares a mirror with the volume as both were at one moment; other commands go on meanwhile. `repair`: what differs is
   * sent again. @throws BlockferryError MIRROR_NOT_FOUND, MIRROR_STATE, MIRROR_REFUSED, VOLUME_FAILED, METADATA_WRITE_FAILED
   */
  async verify(uri: string, { repair }: { repair: boolean }): Promise<VerifyReport> {
    const mirror = this.find(uri);
    if (this.verifying.has(mirror)) {
      throw new BlockferryError('MIRROR_STATE', `${mirror.uri.text} is being compared already`);
    }
    this.verifying.add(mirror);
    try {
      const { differing, bytesCompared } = await mirror.verify();
      if (repair && differing.count > 0) await this.repair(mirror, differing);
      const ranges = [...take(rangesOf(differing), VERIFY_RANGES_MAX)];
      return {
        bytes_compared: bytesCompared,
        bytes_differing: differing.count * BLOCK_BYTES,
        ranges,
        repaired: repair && differing.count > 0,
      };
    } finally {
      this.verifying.delete(mirror);
    }
  }

  private repair(mirror: Mirror, differing: BlockSet): Promise<void> {
    return this.inTurn(async () => {
      // It may have been removed meanwhile.
      if (!this.mirrors.includes(mirror)) throw this.notFound(mirror.uri.text);
      await mirror.repair(differing);
      await this.recordMarks(mirror);
    });
  }

  /** @throws BlockferryError MIRROR_*: a mirror cannot take the new size; nothing was changed. */
  resize(sizeBytes: number, resized: () => void): Promise<void> {
    return this.inTurn(async () => {
      const { volume } = this.host;
      this.refuseFixedSize();
      if (sizeBytes > volume.sizeBytes) {
        for (const mirror of this.mirrors) {
          await probeMirror({ uri: mirror.uri, host: this.host }, sizeBytes);
        }
      }
      const running = this.mirrors.filter((mirror) => mirror.state !== 'paused');
      for (const mirror of running) await mirror.interrupt('the volume changes its size');
      try {
        await volume.resize(sizeBytes);
        for (const mirror of this.mirrors) mirror.blocks.resize(sizeBytes / BLOCK_BYTES);
        resized();
      } finally {
        for (const mirror of running) mirror.reconnect();
      }
    });
  }

  /** Runs `change` while no mirror is in contact: those that follow are told anew what this volume is. */
  apart<Result>(why: string, change: () => Promise<Result>): Promise<Result> {
    return this.inTurn(async () => {
      const running = this.mirrors.filter(
        ({ state }) => state !== 'paused' && state !== 'diverged',
      );
      for (const mirror of running) await mirror.interrupt(why);
      try {
        return await change();
      } finally {
        for (const mirror of running) mirror.reconnect();
      }
    });
  }

  /**
   * Ships what is staged, within MIRROR_DRAIN_MS_MAX, and ends all links. What comes later, as the repair of what a comparison found,
   * is refused.
   */
  close(): Promise<void> {
    this.closed = true;
    return this.behindAll(() => this.end());
  }

  private async end(): Promise<void> {
    const { clock } = this.host.surroundings;
    const deadline = clock.now() + MIRROR_DRAIN_MS_MAX;
    this.host.queue.close('command');
    for (const mirror of this.mirrors) mirror.wake();
    while (this.mirrors.some((mirror) => mirror.draining) && clock.now() < deadline) {
      await new Promise<void>((resolve) => {
        clock.after(DRAIN_POLL_MS, resolve);
      });
    }
    for (const mirror of this.mirrors) await mirror.halt();
  }

  /** A mirror on another node has the size that it was created with. */
  private refuseFixedSize(): void {
    const { name, metadata } = this.host.volume;
    for (const mirror of this.mirrors) {
      if ((metadata.state.mirrors.get(mirror.id)?.peer ?? null) === null) continue;
      const message = `the mirror ${mirror.uri.text} of ${name} keeps its size`;
      throw new BlockferryError('MIRROR_SIZE_FIXED', message);
    }
  }

  /** Who does not know whether it took over would take writes beside it after the next start. */
  private refuseInDoubt({ id, uri }: Mirror): void {
    const { name, metadata } = this.host.volume;
    if (metadata.state.handover?.mirror !== id) return;
    const message = `it is not known whether ${uri.text} took ${name} over: it cannot be removed before that is decided`;
    throw new BlockferryError('HANDOVER_IN_DOUBT', message);
  }

  /** Contents that were frozen for mirrors that are no more, or for comparisons that ended with the process, or replaced when it was one. */
  async discardFrozen(): Promise<void> {
    const { snapshots } = this.host.volume;
    const kept = new Set([
      ...this.mirrors.map(({ id }) => ferrySnapshotName(id)),
      // A comparison discards its own when it ends, also with a mirror that was removed meanwhile.
      ...[...this.verifying].map(({ id }) => verifySnapshotName(id)),
    ]);
    for (const name of snapshots.hidden) {
      if (!(isFrozenForMirror(name) || isReplaced(name)) || kept.has(name)) continue;
      // What a full disk keeps from being deleted goes the next time.
      await snapshots.discard(name).catch(() => {});
    }
  }

  private find(text: string): Mirror {
    const uri = parseNbdUri(text);
    const mirror = this.mirrors.find((candidate) => candidate.uri.text === uri.text);
    if (mirror !== undefined) return mirror;
    throw this.notFound(uri.text);
  }

  private recordOf({ id }: Mirror): MirrorRecord {
    const record = this.host.volume.metadata.state.mirrors.get(id);
    if (record === undefined) throw new Error('a mirror has a record');
    return record;
  }

  private notFound(uri: string): BlockferryError {
    return new BlockferryError('MIRROR_NOT_FOUND', `${this.host.volume.name} has no mirror ${uri}`);
  }

  private recordPaused(mirror: Mirror, paused: boolean): Promise<void> {
    const { metadata } = this.host.volume;
    const append = (value: boolean): void =>
      metadata.append({ kind: 'mirror-paused', mirror: mirror.id, paused: value });
    append(paused);
    return this.commit(() => append(!paused));
  }

  /** Appends the records and makes them durable; if that fails, `undo` appends what takes them back. */
  private record(records: readonly MetadataRecord[], undo: () => void): Promise<void> {
    for (const record of records) this.host.volume.metadata.append(record);
    return this.commit(undo);
  }

  /** A record that could not be written stays pending, and would become durable with a later one. */
  private commit(undo: () => void): Promise<void> {
    const { volume } = this.host;
    return new Promise((resolve, reject) => {
      volume.metadata.commit((status) => {
        if (status === 0) {
          resolve();
          return;
        }
        undo();
        const message = `the metadata of ${volume.name} cannot be written (errno ${status})`;
        reject(new BlockferryError('METADATA_WRITE_FAILED', message));
      });
    });
  }

  /** A mirror that could not be added is none. */
  private withdraw(id: number): void {
    this.host.volume.metadata.append({ kind: 'mirror-removed', mirror: id });
    this.changed();
  }

  /** A mirror that could not be removed is recorded again, with what it lacks. */
  private restore(mirror: Mirror, record: MirrorRecord): void {
    const { metadata } = this.host.volume;
    const { id, uri, mode, stallPolicy, state, blocks } = mirror;
    const { lanes, limit, peer, ranAt } = record;
    metadata.append({ kind: 'mirror-added', mirror: id, uri: uri.text, mode, stallPolicy });
    metadata.append({ kind: 'mirror-options', mirror: id, lanes, limit });
    for (const each of policyRecords(id, record, FOLLOWS)) metadata.append(each);
    if (ranAt !== null) metadata.append({ kind: 'mirror-ran', mirror: id, time: ranAt });
    if (peer !== null) metadata.append({ kind: 'mirror-peer', mirror: id, ...peer });
    if (state === 'paused') metadata.append({ kind: 'mirror-paused', mirror: id, paused: true });
    blocks.recordAll();
  }

  /** Throws SHUTTING_DOWN behind `close`. */
  private inTurn<Result>(change: () => Promise<Result>): Promise<Result> {
    if (this.closed) {
      const message = `the mirrors of ${this.host.volume.name} are being closed`;
      return Promise.reject(new BlockferryError('SHUTTING_DOWN', message));
    }
    return this.behindAll(change);
  }

  private behindAll<Result>(change: () => Promise<Result>): Promise<Result> {
    const turn = this.last.then(change);
    this.last = settled(turn);
    return turn;
  }
}

/** Which node a mirror is; none for any NBD server. */
function peerRecords(mirror: number, node: string | null): MetadataRecord[] {
  return node === null ? [] : [{ kind: 'mirror-peer', mirror, node, volumeId: null }];
}

/** Resolves when it is over, whatever came of it. */
async function settled(turn: Promise<unknown>): Promise<void> {
  await turn.catch(() => {});
}

function* take<Item>(items: Iterable<Item>, most: number): Generator<Item> {
  let count = 0;
  for (const item of items) {
    if (count === most) return;
    count += 1;
    yield item;
  }
}

function isFrozenForMirror(snapshot: string): boolean {
  return snapshot.startsWith('.ferry-') || snapshot.startsWith('.verify-');
}
