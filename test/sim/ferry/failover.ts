/**
 * The end of a history in which roles change: a mirror is promoted, by force or because its primary is gone; the old primary hears
 * of it and takes no write; then it becomes a mirror of what goes on, with processes that end and logs that find no room on the way.
 */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import { BlockferryError } from '../../../src/io/errors.ts';
import { answered } from '../../volume/support/request.ts';
import { takeBytes } from '../arena.ts';
import { wrongUnless } from '../failure.ts';
import type { Checks } from './checks.ts';
import type { Finale } from './history.ts';
import type { Lines as LineSet } from './lines.ts';
import { Lines } from './lines.ts';
import { VOLUME, type MirrorNode } from './mirror-node.ts';
import type { Begun, Node } from './node.ts';
import type { Operations } from './operations.ts';
import { BLOCK, differences, type Oracle } from './oracle.ts';
import { PRIMARY_VOLUME, mirrorsOf, type PrimaryNode, type Staging } from './primary-node.ts';
import { readOf, writeOf } from './requests.ts';
import { Site, contentOf } from './site.ts';
import type { World } from './world.ts';

export interface FailoverParts {
  readonly plan: Finale;
  readonly staging: Staging;
  readonly dice: Dice;
  readonly world: World;
  readonly lines: LineSet;
  readonly oracle: Oracle;
  readonly operations: Operations;
  readonly checks: Checks;
  /** Has the node started when it is down. */
  readonly start: (node: Node) => void;
}

export type Until = (what: string, ready: () => boolean, state: () => string) => Promise<void>;

/** Blocks that each side writes on its own. */
const WRITES_MAX = 12;

export class Failover {
  private readonly parts: FailoverParts;
  private readonly oldNode: PrimaryNode;
  private readonly newNode: MirrorNode;
  private readonly old: Site;
  private readonly next: Site;
  private until: Until = () => Promise.resolve();
  private tags = 0;

  constructor(parts: FailoverParts, oldNode: PrimaryNode, newNode: MirrorNode) {
    this.parts = parts;
    this.oldNode = oldNode;
    this.newNode = newNode;
    this.old = new Site(oldNode, PRIMARY_VOLUME, parts.staging);
    this.next = new Site(newNode, VOLUME, parts.staging);
  }

  /** `begun`: from now on nodes are started by `reopen`. */
  async play(until: Until, begun: () => void): Promise<void> {
    this.until = until;
    const { secondary } = this.newNode;
    if (secondary === null || secondary.volume.metadata.state.position === null) return;
    this.loosePrimary();
    begun();
    await this.next.adopt(this.newNode.begun!, secondary);
    this.newNode.handOver();
    if (!(await this.promote())) return;
    await this.bringOldBack();
    await this.failback();
    await this.rejoin();
  }

  /** False: it starts as it always did. */
  async reopen(node: Node): Promise<boolean> {
    const site = node === this.oldNode ? this.old : node === this.newNode ? this.next : null;
    if (site === null || (site === this.old && !this.demoted)) return false;
    const parts: Begun = node.open();
    if (!node.noticeEnd()) await site.adopt(parts, null);
    return true;
  }

  private demoted = false;

  // ---- promotion

  private loosePrimary(): void {
    const { plan, lines, dice } = this.parts;
    if (plan.primary === 'dead') this.oldNode.end(dice.pick(['kill', 'cut']));
    if (plan.primary === 'cut off') lines.isolate(this.newNode.name);
  }

  /** False: it holds nothing whole. */
  private async promote(): Promise<boolean> {
    const position = await this.command('the promotion', this.newNode, () =>
      this.next.failover!.promote(VOLUME, { force: true, at: null }),
    );
    if (position === null) return false;
    const { state } = this.next.primary!.volume.metadata;
    const epoch = state.generations.at(-1)!.firstEpoch - 1;
    const generation = state.generations.at(-2)!.number;
    const bytes = contentOf(this.next.primary!);
    const found = { position: { generation, epoch }, bytes };
    this.parts.checks.mustBeBoundary(this.newNode, found, 'after its promotion');
    // Readers of the mirror are cut off before it takes writes: what they may still be answered is nobody's.
    this.parts.operations.ended(this.newNode.process);
    this.scatter(this.next);
    return true;
  }

  /** What the command answers; null when it has a reason not to. */
  private async command<Result>(
    what: string,
    node: Node,
    run: () => Promise<Result>,
  ): Promise<Result | null> {
    const state: { over: boolean; result: Result | null } = { over: false, result: null };
    this.parts.operations.operate(node, what, run(), {
      done: (result) => Object.assign(state, { over: true, result }),
      refused: (thrown) => {
        if (!(thrown instanceof BlockferryError)) throw thrown;
        node.note(`${what}: ${thrown.line}`);
        state.over = true;
      },
    });
    const { process } = node;
    await this.until(
      what,
      () => state.over || process?.over === true,
      () => '',
    );
    return state.result;
  }

  // ---- the old primary

  private async bringOldBack(): Promise<void> {
    const { lines } = this.parts;
    this.scatter(null);
    lines.heal(this.newNode.name);
    this.parts.start(this.oldNode);
    await this.until(
      'the start of the old primary',
      () => this.oldNode.device !== null,
      () => '',
    );
    const device = this.oldNode.device!;
    const mirror = this.oldNode.mirrorOf(this.newNode.name);
    const asks = mirror !== null && mirror.state !== 'paused' && mirror.state !== 'diverged';
    if (!asks || device.volume.metadata.state.mirrors.get(mirror.id)?.peer === null) return;
    await this.until(
      'the news of the promotion',
      // An operator may have sent it away just before, or does so now.
      () => {
        const asked = this.oldNode.mirrorOf(this.newNode.name);
        return device.fenced !== null || asked === null || asked.state === 'paused';
      },
      () => `${mirror.state} ${mirror.lastError ?? ''}`,
    );
    if (device.fenced === null) return;
    const late = writeOf(0, takeBytes(BLOCK).fill(0x77));
    this.parts.operations.operate(
      this.oldNode,
      'a late write',
      answered(late, (asked) => device.write(asked)),
      {
        done: (status) => wrongUnless(status !== 0, 'a fenced primary answered a write'),
      },
    );
  }

  private async failback(): Promise<void> {
    const { oldNode, old } = this;
    // Somebody may have started it anew because its volume failed.
    this.parts.start(oldNode);
    await this.until(
      'another start of the old primary',
      () => oldNode.device !== null,
      () => '',
    );
    const device = oldNode.device!;
    // Some of it is still on its way when its clients are cut off.
    this.scatter(null);
    this.demoted = true;
    await old.adopt(oldNode.begun!, device);
    const { mirrors } = device.volume.metadata.state;
    oldNode.note(`fails back, ${mirrors.size} mirrors`);
    // Its clients are cut off: nobody hears what is said to them.
    this.parts.operations.ended(oldNode.process);
    await this.command('the failback', oldNode, () =>
      old.failover!.failback(PRIMARY_VOLUME, this.newNode.name, { force: true }),
    );
    oldNode.handOver();
    if (old.secondary === null) return;
    const { snapshots } = old.secondary.volume;
    const kept = snapshots.list().find(({ name }) => name.startsWith('diverged'));
    wrongUnless(kept !== undefined, 'what the old primary held is not kept');
    const request = readOf({ offset: 0, length: device.sizeBytes });
    let status: number | null = null;
    const frozen = snapshots.device(kept.name)!;
    void answered(request, (asked) => frozen.read(asked)).then((result) => (status = result));
    await this.until(
      'a read of what it held',
      () => status !== null,
      () => '',
    );
    const found = differences(this.parts.oracle.now, request.bytes);
    const blocks = found.join(' ');
    wrongUnless(status === 0 && found.length === 0, `${kept.name} has other blocks: ${blocks}`);
  }

  // ---- the way back

  private async rejoin(): Promise<void> {
    const { plan } = this.parts;
    this.scatter(this.next);
    const ends = [...plan.ends];
    const refused = [...plan.refused];
    let asked = -Infinity;
    await this.until(
      'the way back after a failover',
      () => {
        const { time } = this.parts.world;
        if (time - asked > 2000) {
          asked = time;
          const no = refused.shift();
          if (no !== undefined) [this.newNode, this.oldNode][no.node]!.refuse(no);
          this.ask();
          const end = ends.shift();
          if (end !== undefined)
            [this.newNode, this.oldNode][end.node]!.disk?.endAfter(end.how, end.calls);
          this.scatter(this.next);
        }
        if (ends.length > 0) return false;
        return this.inStep();
      },
      () => this.whyNot(),
    );
    for (const { disk } of [this.newNode, this.oldNode]) disk?.forgetEnding();
    const [here, there] = [contentOf(this.next.primary!), await this.read()];
    const found = differences(blocksOf(here), there);
    wrongUnless(found.length === 0, `after a failback blocks ${found.join(' ')} differ`);
  }

  /** What an operator does who wants the old primary for a mirror. */
  private ask(): void {
    const { next, old, newNode, oldNode } = this;
    const { primary, failover } = next;
    if (old.primary !== null && old.failover !== null) {
      const again = old.failover.failback(PRIMARY_VOLUME, newNode.name, { force: true });
      this.parts.operations.operate(oldNode, 'failback', again, { refused: () => {} });
    }
    if (next.secondary !== null && failover !== null) {
      const again = failover.promote(VOLUME, { force: true, at: null });
      this.parts.operations.operate(newNode, 'promote', again, { refused: () => {} });
    }
    if (primary === null || old.secondary === null) return;
    const uri = Lines.uri(oldNode.name, PRIMARY_VOLUME);
    if (primary.mirrorStatuses().some((mirror) => mirror.uri === uri)) return;
    const adding = primary.addMirror({ uri, mode: 'async', stallPolicy: 'degrade' });
    this.parts.operations.operate(newNode, 'add p', adding, { refused: () => {} });
  }

  private inStep(): boolean {
    const { primary } = this.next;
    const { secondary } = this.old;
    if (primary === null || secondary === null || this.parts.operations.count > 0) return false;
    const [mirror] = mirrorsOf(primary);
    if (mirror === undefined || mirror.state !== 'streaming') return false;
    const { stagedBytes, blocks } = mirror;
    if (stagedBytes + blocks.dirtyBytes + blocks.suspectBytes > 0) return false;
    return secondary.intake.applied?.epoch === primary.position().epoch;
  }

  private whyNot(): string {
    const { primary } = this.next;
    return JSON.stringify([
      primary?.mirrorStatuses() ?? 'no primary',
      this.old.secondary?.sourceStatus() ?? 'no secondary',
      this.parts.operations.names,
    ]);
  }

  private async read(): Promise<Buffer> {
    const secondary = this.old.secondary!;
    const request = readOf({ offset: 0, length: secondary.sizeBytes });
    let status: number | null = null;
    void answered(request, (asked) => secondary.read(asked)).then((result) => (status = result));
    await this.until(
      'a read of the old primary',
      () => status !== null,
      () => '',
    );
    wrongUnless(status === 0, `a read of the old primary was answered ${String(status)}`);
    return request.bytes;
  }

  /** Writes here and there; null: through the old primary. */
  private scatter(site: Site | null): void {
    const device = site === null ? this.oldNode.device : site.primary;
    const node = site === null ? this.oldNode : site.node;
    if (device === null || !node.running) return;
    const { dice, oracle, operations } = this.parts;
    for (let count = dice.below(WRITES_MAX); count > 0; count -= 1) {
      this.tags += 1;
      const block = dice.below(oracle.blockCount);
      const length = Math.min(dice.between(1, 4), oracle.blockCount - block) * BLOCK;
      // Without content of its own it has rubbish.
      const fill = dice.chance(75) ? 128 + (this.tags % 127) : 0xaa;
      const request = writeOf(block * BLOCK, takeBytes(length).fill(fill));
      const call = dice.chance(75) ? 'write' : 'zero';
      operations.operate(
        node,
        `own ${call}`,
        answered(request, (asked) => device[call](asked)),
      );
    }
  }
}

function blocksOf(bytes: Buffer): Buffer[] {
  return Array.from({ length: bytes.length / BLOCK }, (_, block) =>
    bytes.subarray(block * BLOCK, (block + 1) * BLOCK),
  );
}
