/**
 * Plays a history: starts what its steps say, lets time pass, ends processes and begins them anew, and holds what is to be
 * seen against the oracle. In the end everything is healed, and must find back by itself.
 */
import { Dice } from '../../../scripts/fuzz/dice.ts';
import type { Disk } from '../../../src/io/disk.ts';
import { inlineCompressor } from '../../../src/workers/compressor.ts';
import { Wrong, wrongUnless } from '../failure.ts';
import { said, settled } from '../scheduler.ts';
import type { SimDisk } from '../sim-disk.ts';
import { Checks } from './checks.ts';
import { Failover } from './failover.ts';
import { Healing, HEAL_MS_MAX } from './healing.ts';
import type { Finale, History, Moves, Step } from './history.ts';
import { Host } from './host.ts';
import { Lines } from './lines.ts';
import { MirrorNode } from './mirror-node.ts';
import { readMirror } from './mirror-reads.ts';
import { Moves as MovesFinale } from './moves.ts';
import type { Node, Surroundings } from './node.ts';
import { Operations } from './operations.ts';
import { Operator } from './operator.ts';
import { Oracle } from './oracle.ts';
import { PrimaryNode } from './primary-node.ts';
import { SnapshotBook } from './snapshots.ts';
import type { Stage } from './stage.ts';
import { Troubles } from './troubles.ts';
import { World } from './world.ts';

export type WrapDisk = (disk: SimDisk, node: string) => Disk;

/** Pieces of work in one history at most: more, and something runs in a circle. */
const WORK_MAX = 3_000_000;
/** Virtual milliseconds that pass at most before what is waited for is looked at again. */
const LOOK_MS = 500;
/** Pieces of work to make a volume. */
const BEGIN_WORK_MAX = 20_000;
const TRACE_LINES = 120;
/** Rejections that nobody waits for are looked for once in so many turns. */
const TURNS_PER_LOOK = 32;
/** Virtual milliseconds after which a node whose volume failed is started again. */
const FAILED_MS = 1500;

export class Player implements Stage {
  readonly trace: string[] = [];
  readonly history: History;
  readonly world: World;
  readonly lines: Lines;
  readonly oracle: Oracle;
  readonly snapshots: SnapshotBook;
  readonly primary: PrimaryNode;
  readonly mirrors: readonly MirrorNode[];
  readonly nodes: readonly Node[];
  readonly operations = new Operations();
  readonly checks: Checks;
  dice: Dice = new Dice(0, 0);
  private readonly host: Host = new Host(this);
  private readonly operator: Operator = new Operator(this);
  private readonly troubles: Troubles = new Troubles(this);
  private readonly healing: Healing = new Healing(this, this.operator);
  private readonly restartAt = new Map<Node, number>();
  private readonly failedSince = new Map<Node, number>();
  /** Roles change, and nodes are what their logs say. */
  private finale: Failover | MovesFinale | null = null;
  private work = 0;

  constructor(history: History, wrapDisk: WrapDisk = (disk) => disk) {
    this.history = history;
    const { seed, blocks, traits, journalFileBytes, compression } = history;
    this.world = new World(new Dice(seed, 1));
    this.lines = new Lines(this.world, history.line);
    this.oracle = new Oracle(blocks);
    const surroundings: Surroundings = {
      seed,
      world: this.world,
      lines: this.lines,
      traits,
      blocks,
      journalFileBytes,
      compressor: compression === null ? null : inlineCompressor(compression.bytesPerSecond),
      note: (line) => this.note(line),
      wrapDisk,
    };
    this.snapshots = new SnapshotBook(this.oracle, this.operations);
    this.primary = new PrimaryNode(surroundings, this.oracle, this.snapshots, history);
    this.mirrors = history.mirrors.map(
      (_, index) => new MirrorNode(`m${index + 1}`, index + 1, surroundings),
    );
    this.nodes = [this.primary, ...this.mirrors];
    for (const node of this.nodes) node.onEnd = (process) => this.operations.ended(process);
    this.checks = new Checks(seed, this.oracle, this.snapshots, this.primary);
  }

  /** Throws Wrong when something is. */
  async play(): Promise<void> {
    const { history } = this;
    await this.begin();
    for (const step of history.steps) {
      this.world.dice = new Dice(history.seed, 1000 + step.salt);
      this.dice = new Dice(history.seed, 500_000 + step.salt);
      this.note(`- ${JSON.stringify(step)}`);
      await this.step(step);
      await this.pass(step.ms);
    }
    const { finale } = history;
    if (finale === 'heal') await this.healing.heal();
    else await this.change(finale);
  }

  note(line: string): void {
    this.trace.push(`${this.world.time.toFixed(1).padStart(9)} ${line}`);
    if (this.trace.length > 2 * TRACE_LINES) this.trace.splice(0, TRACE_LINES);
  }

  // ---- time

  /** Lets virtual time pass, with all that happens meanwhile. */
  private async pass(ms: number): Promise<void> {
    const end = this.world.time + ms;
    await this.turn();
    while (this.world.time <= end) {
      const next = Math.min(end, this.nextStart);
      if (!this.world.step(next) && next === end) break;
      await this.spoken();
      if (this.looked()) await this.endsAndStarts();
    }
  }

  async until(what: string, ms: number, ready: () => boolean, state: () => string): Promise<void> {
    const end = this.world.time + ms;
    await this.turn();
    while (!ready()) {
      if (this.world.time >= end)
        throw new Wrong(`${what} takes more than ${ms / 1000} s: ${state()}`);
      // What `ready` asked for begins first.
      await said();
      this.world.step(Math.min(end, this.nextStart, this.world.time + LOOK_MS));
      await this.spoken();
      if (this.looked()) await this.endsAndStarts();
    }
  }

  /** When somebody starts a node again. */
  private get nextStart(): number {
    let next = Infinity;
    for (const [node, at] of this.restartAt) if (!node.running) next = Math.min(next, at);
    for (const since of this.failedSince.values()) next = Math.min(next, since + FAILED_MS);
    return Math.max(next, this.world.time);
  }

  /** Everything that promises have to say is said; ends of processes are noticed. */
  private async turn(): Promise<void> {
    await this.spoken();
    if (this.looked()) await this.endsAndStarts();
  }

  /** A turn begins: everything that promises have to say is said. */
  private spoken(): Promise<void> {
    this.work += 1;
    wrongUnless(this.work < WORK_MAX, 'something runs in a circle');
    return this.work % TURNS_PER_LOOK === 0 ? settled() : said();
  }

  /** What is seen in each turn, without a promise of its own: true when a process ended, is to start, or may have failed. */
  private looked(): boolean {
    this.operations.check();
    for (const mirror of this.mirrors) mirror.listen();
    if (this.work % TURNS_PER_LOOK === 0)
      for (const mirror of this.mirrors) this.snapshots.look(mirror);
    if (this.history.compression !== null) this.primary.weighCompression();
    for (const node of this.nodes) {
      if (node.running ? node.disk?.ended !== null : this.isToStart(node)) return true;
      if (node.troubled || this.failedSince.has(node)) return true;
    }
    return false;
  }

  private async endsAndStarts(): Promise<void> {
    for (const node of this.nodes) {
      if (node.noticeEnd()) await this.ended(node);
    }
    for (const node of this.nodes) {
      if (node.running) this.restartFailed(node);
      else if (this.isToStart(node)) await this.restart(node);
    }
  }

  async ended(node: Node): Promise<void> {
    if (!this.restartAt.has(node)) this.restartAt.set(node, this.world.time);
    if (this.finale !== null) return;
    if (node instanceof MirrorNode) await this.checks.probe(node, 'kill');
  }

  startIn(node: Node, ms: number): void {
    this.restartAt.set(node, this.world.time + ms);
  }

  private isToStart(node: Node): boolean {
    return (this.restartAt.get(node) ?? Infinity) <= this.world.time;
  }

  /** Somebody starts a node again whose volume failed. */
  private restartFailed(node: Node): void {
    if (!node.troubled && !this.failedSince.has(node)) return;
    const failed = node.store?.list().some((volume) => volume.failed) === true;
    const broken = node instanceof MirrorNode && node.secondary?.sourceStatus().state === 'failed';
    if (!failed && !broken) {
      this.failedSince.delete(node);
      return;
    }
    const now = this.world.time;
    const since = this.failedSince.get(node) ?? now;
    this.failedSince.set(node, since);
    if (now - since < FAILED_MS) return;
    this.failedSince.delete(node);
    node.end('cut');
    this.restartAt.set(node, now);
  }

  // ---- lives

  private async begin(): Promise<void> {
    for (const mirror of this.mirrors) await this.finished(mirror.create(), 'creating a mirror');
    await this.finished(this.primary.create(), 'creating the volume');
    for (const place of this.history.filled) this.host.write(place, false);
    for (const [index, options] of this.history.mirrors.entries()) {
      this.operator.verb(this.mirrors[index]!, 'add', options);
    }
    if (!this.history.settled) return;
    await this.until(
      'the first copy',
      HEAL_MS_MAX,
      () => this.mirrors.every((node) => this.healing.inStep(node)),
      () => this.healing.whyNot(),
    );
  }

  private async finished(promise: Promise<void>, what: string): Promise<void> {
    const state = { over: false };
    promise.then(
      () => (state.over = true),
      (thrown: unknown) => {
        state.over = true;
        this.operations.hear(() => {
          throw thrown;
        });
      },
    );
    await said();
    for (let count = 0; !state.over; count += 1) {
      wrongUnless(count < BEGIN_WORK_MAX && this.world.step(), `${what} hangs`);
      await said();
    }
    this.operations.check();
  }

  private async restart(node: Node): Promise<void> {
    this.restartAt.delete(node);
    if (this.finale !== null && (await this.finale.reopen(node))) return;
    if (node instanceof MirrorNode) {
      await node.start();
      return;
    }
    const parts = this.primary.open();
    if (node.noticeEnd()) return;
    const bytes = this.primary.contentNow();
    const { knowsBoot, knowsExtents, grain } = this.history.traits;
    // Where the machine tells too little of itself, a kill may cost what a power cut may.
    const told = knowsBoot && knowsExtents && grain === 1;
    const { lastEnding } = node;
    const wrong = this.oracle.reopened(bytes, lastEnding, told ? lastEnding : 'cut');
    wrongUnless(
      wrong.length === 0,
      `the primary lost blocks ${wrong.join(' ')} in a ${lastEnding}`,
    );
    this.primary.replicate(parts);
    this.snapshots.ofPrimary(this.primary);
    for (const mirror of this.mirrors) this.checks.cover(mirror);
  }

  // ---- steps

  private async step(step: Step): Promise<void> {
    switch (step.kind) {
      case 'write':
        this.host.write(step, step.fua);
        return;
      case 'burst':
        this.host.burst(step);
        return;
      case 'zero':
        this.host.ask(step, { ...step, kind: 'zero' });
        return;
      case 'trim':
        this.host.ask(step, { ...step, kind: 'trim' });
        return;
      case 'flush':
        this.host.flush();
        return;
      case 'time':
        return;
      case 'kill':
      case 'cut':
        this.troubles.endLater(step);
        return;
      case 'close':
        await this.troubles.close(this.nodes[step.node % this.nodes.length]!, step.downMs);
        return;
      case 'line':
        this.troubles.line(this.mirror(step.mirror), step.how);
        return;
      case 'mend':
        this.lines.heal(this.mirror(step.mirror).name);
        return;
      case 'verb':
        this.operator.verb(this.mirror(step.mirror), step.verb, step.options);
        return;
      case 'policy':
        this.operator.setPolicy(this.mirror(step.mirror), step.policy);
        return;
      case 'sync':
        this.operator.sync(this.mirror(step.mirror));
        return;
      case 'limit':
        this.operator.limit(
          step.mirror === null ? null : this.mirror(step.mirror),
          step.bytesPerSecond,
        );
        return;
      case 'refuse':
        this.operator.refuse(this.mirror(step.mirror), step.refuses);
        return;
      case 'pays':
        this.primary.pays.set(this.mirror(step.mirror).name, step.pays);
        return;
      case 'probe':
        await this.checks.probe(this.mirror(step.mirror), step.how);
        return;
      case 'read':
        readMirror(this, this.mirror(step.mirror));
        return;
      case 'cover':
        if (this.primary.running) for (const mirror of this.mirrors) this.checks.cover(mirror);
        return;
      case 'snapshot':
        this.snapshots.step(this.primary, step);
        return;
      case 'read-snapshots':
        this.readSnapshots(this.mirror(step.mirror));
        return;
      case 'backup':
        this.mirror(step.mirror).keepBackup(this.dice);
        return;
      case 'set-back':
        this.troubles.setBack(this.mirror(step.mirror));
        return;
      case 'fault':
      case 'full':
      case 'room':
      case 'slow':
        this.troubles.diskStep(step);
    }
  }

  private mirror(index: number): MirrorNode {
    return this.mirrors[index % this.mirrors.length]!;
  }

  private readSnapshots(mirror: MirrorNode): void {
    const { primary, snapshots } = this;
    if (primary.device !== null && !primary.closing) snapshots.ofPrimary(primary);
    if (mirror.secondary !== null && !mirror.closing) {
      snapshots.read(mirror, mirror.secondary.volume);
    }
  }

  private async change(plan: Finale | Moves): Promise<void> {
    if ('moves' in plan || plan.healed) await this.healing.heal();
    this.healing.makeRight();
    await this.until(
      'a start',
      HEAL_MS_MAX,
      () => this.nodes.every(({ running }) => running),
      () => '',
    );
    const { history, world, lines, oracle, primary, operations, checks } = this;
    const [mirror] = this.mirrors;
    const start = (node: Node): void => {
      if (!node.running) this.startIn(node, 0);
    };
    const dice = this.world.dice;
    const parts = { staging: history, dice, world, lines, oracle, operations, checks, start };
    const finale =
      'moves' in plan
        ? new MovesFinale(plan, parts, { oldNode: primary, newNode: mirror! })
        : new Failover({ plan, ...parts }, primary, mirror!);
    await finale.play(
      (what, ready, state) => this.until(what, HEAL_MS_MAX, ready, state),
      () => (this.finale = finale),
    );
  }
}
