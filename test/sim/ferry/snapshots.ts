/**
 * Snapshots in a history (I9): whatever node has one, it holds what the primary held at the end of its epoch; what a primary answered for
 * is there until somebody deletes it; and a mirror whose position is behind a snapshot has it.
 */
import type { LinkPosition } from '../../../src/replicator/link/messages.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { answered } from '../../volume/support/request.ts';
import { BlockferryError } from '../../../src/io/errors.ts';
import { wrongUnless } from '../failure.ts';
import type { Step } from './history.ts';
import type { MirrorNode } from './mirror-node.ts';
import type { Node } from './node.ts';
import { KeptSnapshots } from './kept-snapshots.ts';
import { refusal, type Operations } from './operations.ts';
import { differences, originsOf, type Boundary, type Oracle } from './oracle.ts';
import type { PrimaryNode } from './primary-node.ts';
import { readOf } from './requests.ts';
import type { Process } from './world.ts';

interface Taken {
  readonly name: string;
  readonly boundary: Boundary;
  /** Its host was told that it is there. */
  answered: boolean;
  /** Somebody asked for its end. */
  leaving: boolean;
  /** Its host was told that it could not be kept, and it may be there after the next start: nobody promised it to a mirror. */
  doubtful: boolean;
}

/** A snapshot as a node has it. */
export interface FoundSnapshot {
  readonly id: string;
  readonly name: string;
  readonly bytes: Buffer;
}

const SHUTDOWN = 108;
/** What the names of operators may be good for or not. */
const NAME_CODES: readonly string[] = ['SNAPSHOT_EXISTS', 'SNAPSHOT_NOT_FOUND'];

export class SnapshotBook {
  private readonly oracle: Oracle;
  private readonly operations: Operations;
  /** By id. */
  private readonly taken = new Map<string, Taken>();
  /** By name of the mirror. */
  private readonly kept = new Map<string, KeptSnapshots>();
  /** The process of which commands are under way, how many, and of those that delete something the names. */
  private running = { process: null as Process | null, count: 0, deleting: [] as string[] };

  constructor(oracle: Oracle, operations: Operations) {
    this.oracle = oracle;
    this.operations = operations;
  }

  keptBy({ name }: MirrorNode): KeptSnapshots {
    let found = this.kept.get(name);
    if (found === undefined) this.kept.set(name, (found = new KeptSnapshots()));
    return found;
  }

  /** Notes what a mirror has that it may not lose. */
  look(node: MirrorNode): void {
    this.keptBy(node).look(node, (id) => {
      const found = this.taken.get(id);
      // What its primary is deleting already may go.
      return found === undefined || found.leaving ? Infinity : found.boundary.epoch;
    });
  }

  /** In the turn of its instant. */
  took(id: string, name: string, replaces: string | null, epoch: number): void {
    const boundary = this.oracle.at(epoch);
    wrongUnless(boundary !== null, `snapshot ${name} is of epoch ${epoch}, which never ended`);
    // Whoever deletes that name may come right behind.
    const leaving = this.running.deleting.includes(name);
    this.taken.set(id, { name, boundary, answered: false, leaving, doubtful: false });
    if (replaces !== null) this.leave(replaces);
  }

  /** Its end was asked for, or it could not be kept. */
  leave(id: string): void {
    const found = this.taken.get(id);
    if (found !== undefined) found.leaving = true;
  }

  // ---- the operator

  /** Commands are under way: nobody stops the node meanwhile. */
  busy({ process }: PrimaryNode): boolean {
    return process !== null && this.running.process === process && this.running.count > 0;
  }

  private began({ process }: PrimaryNode, deleting: readonly string[]): () => void {
    if (this.running.process !== process) this.running = { process, count: 0, deleting: [] };
    const { running } = this;
    running.count += 1;
    running.deleting.push(...deleting);
    return () => {
      running.count -= 1;
      for (const name of deleting) running.deleting.splice(running.deleting.indexOf(name), 1);
    };
  }

  step(primary: PrimaryNode, { how, name }: Extract<Step, { kind: 'snapshot' }>): void {
    if (primary.device === null || primary.closing) return;
    const { snapshots } = primary.volume;
    const what = `${how} of snapshot ${name}`;
    const ended = this.began(primary, how === 'delete' ? [name] : []);
    const refused = (thrown: unknown): void => {
      ended();
      if (thrown instanceof BlockferryError && NAME_CODES.includes(thrown.code)) return;
      if (how !== 'delete') this.doubt(name);
      refusal(primary, what)(thrown);
    };
    if (how === 'delete') {
      for (const taken of this.taken.values()) if (taken.name === name) taken.leaving = true;
      this.operations.operate(primary, what, snapshots.delete(name), { done: ended, refused });
      return;
    }
    const made = how === 'take' ? snapshots.create(name) : snapshots.refresh(name);
    this.operations.operate(primary, what, made, {
      done: ({ id }) => {
        ended();
        const found = this.taken.get(id);
        wrongUnless(found !== undefined, `nobody heard of the instant of snapshot ${name}`);
        found.answered = true;
      },
      refused,
    });
  }

  private doubt(name: string): void {
    for (const taken of this.taken.values()) {
      if (taken.name === name && !taken.answered) taken.doubtful = true;
    }
  }

  // ---- what is there

  /** What the primary has, as its process begins or at any later time. */
  ofPrimary(primary: PrimaryNode): void {
    const { volume } = primary;
    const here = new Set(volume.snapshots.list().map(({ id }) => id));
    for (const [id, { name, answered: told, leaving }] of this.taken) {
      wrongUnless(here.has(id) || !told || leaving, `the primary lost snapshot ${name}`);
    }
    this.read(primary, volume);
  }

  /** Reads all that a node has, while the world goes on. */
  read(node: Node, volume: Volume): void {
    for (const { id, name } of volume.snapshots.list()) {
      const device = volume.snapshots.device(name);
      if (device === null) continue;
      const request = readOf({ offset: 0, length: volume.sizeBytes });
      const what = `a read of ${node.name}@${name}`;
      const status = answered(request, (asked) => device.read(asked));
      this.operations.operate(node, what, status, {
        done: (result) => {
          const isGone = !volume.snapshots.list().some((each) => each.id === id);
          const excused = isGone || node.troubled || node.closing || result === SHUTDOWN;
          wrongUnless(result === 0 || excused, `${what} was answered ${result} for no reason`);
          if (result === 0) this.mustBe(node.name, { id, name, bytes: request.bytes });
        },
      });
    }
  }

  private mustBe(where: string, { id, name, bytes }: FoundSnapshot): Taken {
    const found = this.taken.get(id);
    wrongUnless(found !== undefined, `${where} has a snapshot ${name} that nobody took`);
    wrongUnless(found.name === name, `${where} has snapshot ${found.name} under the name ${name}`);
    const { content, epoch } = found.boundary;
    const wrong = differences(content, bytes);
    wrongUnless(
      wrong.length === 0,
      `${where}@${name} is not what the primary was at epoch ${epoch}: ${originsOf(this.oracle, wrong, bytes)}`,
    );
    return found;
  }

  /** What a mirror would have that ended now, at a position. */
  mustFit(
    node: MirrorNode,
    position: LinkPosition | null,
    found: readonly FoundSnapshot[],
    when: string,
  ): void {
    const held = position?.epoch ?? 0;
    const where = `${node.name} ${when}`;
    for (const each of found) {
      const { boundary } = this.mustBe(where, each);
      wrongUnless(
        boundary.epoch <= held,
        `${where} is at epoch ${held}, and has snapshot ${each.name} of epoch ${boundary.epoch}`,
      );
    }
    if (node.setBack || position === null) return;
    const ids = new Set(found.map(({ id }) => id));
    const names = new Set(found.map(({ name }) => name));
    const kept = this.keptBy(node);
    kept.mustBeIn(ids, where);
    for (const [id, { name, boundary, answered: told, leaving }] of this.taken) {
      const isDue = told && !leaving && boundary.epoch <= held && !(kept.ever && names.has(name));
      wrongUnless(
        ids.has(id) || !isDue,
        `${where} is at epoch ${held}, and has no snapshot ${name} of epoch ${boundary.epoch}`,
      );
    }
  }

  /** Null: a mirror has what the primary has, and nothing else. */
  difference(primary: PrimaryNode, node: MirrorNode): string | null {
    const list = primary.volume.snapshots.list();
    const mine = new Set(list.map(({ id }) => id));
    const theirs = node.secondary!.volume.snapshots.list();
    // What it kept stays, and what came later under that name did not get there.
    const { ever } = this.keptBy(node);
    const kept = ever ? theirs.filter(({ id }) => !mine.has(id)) : [];
    const isOut = ({ id, name }: { id: string; name: string }): boolean =>
      kept.some((each) => each.id === id || each.name === name);
    const here = this.namesOf(list.filter((each) => !isOut(each)));
    const there = this.namesOf(theirs.filter((each) => !isOut(each)));
    return here === there ? null : `the primary has snapshots ${here}, and ${node.name} ${there}`;
  }

  private namesOf(snapshots: readonly { id: string; name: string }[]): string {
    return snapshots
      .filter(({ id }) => this.taken.get(id)?.doubtful !== true)
      .map(({ id, name }) => `${name}=${id.slice(0, 8)}`)
      .toSorted()
      .join(' ');
  }
}
