/**
 * Plays a history: starts what its steps say, lets time pass, ends processes and begins them anew, and holds what is to be
 * seen against the oracle. In the end everything is healed, and must find back by itself.
 */
import { Dice } from '../../../scripts/fuzz/dice.ts';
import type { Disk } from '../../../src/io/disk.ts';
import type { SecondaryVolume } from '../../../src/replicator/intake/secondary.ts';
import { answered, type TestRequest } from '../../volume/support/request.ts';
import { takeBytes } from '../arena.ts';
import { Wrong, wrongUnless } from '../failure.ts';
import { said, settled } from '../scheduler.ts';
import type { SimDisk } from '../sim-disk.ts';
import { Checks, type Shown } from './checks.ts';
import { Failover } from './failover.ts';
import type { Finale, History, MirrorOptions, Place, Step } from './history.ts';
import { Lines } from './lines.ts';
import { MirrorNode } from './mirror-node.ts';
import type { Node, Surroundings } from './node.ts';
import { Operations, refusal } from './operations.ts';
import { BLOCK, Oracle, differences } from './oracle.ts';
import { PrimaryNode } from './primary-node.ts';
import { readOf, writeOf } from './requests.ts';
import { SnapshotBook } from './snapshots.ts';
import { World } from './world.ts';

export type WrapDisk = (disk: SimDisk, node: string) => Disk;

/** Virtual milliseconds within which everything must be as it should again. */
const HEAL_MS_MAX = 180_000;
/** Pieces of work in one history at most: more, and something runs in a circle. */
const WORK_MAX = 3_000_000;
/** Virtual milliseconds that pass at most before what is waited for is looked at again. */
const LOOK_MS = 500;
/** Pieces of work to make a volume. */
const BEGIN_WORK_MAX = 20_000;
/** Requests of the host under way. */
const REQUESTS_MAX = 24;
/** Virtual milliseconds that an orderly stop may take. */
const CLOSE_MS_MAX = 60_000;
const TRACE_LINES = 120;
/** Rejections that nobody waits for are looked for once in so many turns. */
const TURNS_PER_LOOK = 32;
/** Bytes a second. */
const LIMIT_UNIT = 16 * 1024;
const ESHUTDOWN = 108;
/** Virtual milliseconds after which a node whose volume failed is started again. */
const FAILED_MS = 1500;

export class Player {
  readonly trace: string[] = [];
  private readonly history: History;
  private readonly world: World;
  private readonly lines: Lines;
  private readonly oracle: Oracle;
  private readonly snapshots: SnapshotBook;
  private readonly primary: PrimaryNode;
  private readonly mirrors: readonly MirrorNode[];
  private readonly nodes: readonly Node[];
  private readonly operations = new Operations();
  private readonly checks: Checks;
  /** What the host does. */
  private host = new Dice(0, 0);
  private readonly restartAt = new Map<Node, number>();
  private readonly failedSince = new Map<Node, number>();
  /** Roles change, and nodes are what their logs say. */
  private finale: Failover | null = null;
  private work = 0;
  private tags = 0;

  constructor(history: History, wrapDisk: WrapDisk = (disk) => disk) {
    this.history = history;
    const { seed, blocks, traits, journalFileBytes } = history;
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
      this.host = new Dice(history.seed, 500_000 + step.salt);
      this.note(`- ${JSON.stringify(step)}`);
      await this.step(step);
      await this.pass(step.ms);
    }
    const { finale } = history;
    if (finale === 'heal') await this.heal();
    else await this.failover(finale);
  }

  private note(line: string): void {
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
      await this.turn();
    }
  }

  private async until(
    what: string,
    ms: number,
    ready: () => boolean,
    state: () => string,
  ): Promise<void> {
    const end = this.world.time + ms;
    await this.turn();
    while (!ready()) {
      if (this.world.time >= end)
        throw new Wrong(`${what} takes more than ${ms / 1000} s: ${state()}`);
      // What `ready` asked for begins first.
      await said();
      this.world.step(Math.min(end, this.nextStart, this.world.time + LOOK_MS));
      await this.turn();
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
    this.work += 1;
    wrongUnless(this.work < WORK_MAX, 'something runs in a circle');
    await (this.work % TURNS_PER_LOOK === 0 ? settled() : said());
    this.operations.check();
    for (const mirror of this.mirrors) mirror.listen();
    for (const node of this.nodes) {
      if (node.noticeEnd()) await this.ended(node);
    }
    for (const node of this.nodes) {
      if (node.running) this.restartFailed(node);
      else if (this.isToStart(node)) await this.restart(node);
    }
  }

  private async ended(node: Node): Promise<void> {
    if (!this.restartAt.has(node)) this.restartAt.set(node, this.world.time);
    if (this.finale !== null) return;
    if (node instanceof MirrorNode) await this.checks.probe(node, 'kill');
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
    for (const place of this.history.filled) this.write(place, false);
    for (const [index, options] of this.history.mirrors.entries()) {
      this.verb(this.mirrors[index]!, 'add', options);
    }
    if (!this.history.settled) return;
    await this.until(
      'the first copy',
      HEAL_MS_MAX,
      () => this.mirrors.every((node) => this.inStep(node)),
      () => this.whyNot(),
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
    const bytes = this.contentNow();
    const { knowsBoot, knowsExtents, grain } = this.history.traits;
    // Where the machine tells too little of itself, a kill may cost what a power cut may.
    const told = knowsBoot && knowsExtents && grain === 1;
    const wrong = this.oracle.reopened(bytes, told ? node.lastEnding : 'cut');
    wrongUnless(
      wrong.length === 0,
      `the primary lost blocks ${wrong.join(' ')} in a ${node.lastEnding}`,
    );
    this.primary.replicate(parts);
    this.snapshots.ofPrimary(this.primary);
    for (const mirror of this.mirrors) this.checks.cover(mirror);
  }

  private contentNow(): Buffer {
    const { volume } = this.primary;
    const bytes = takeBytes(volume.sizeBytes);
    const status = volume.readNow(bytes, 0, bytes.length, 0);
    wrongUnless(status === 0, `the primary cannot be read: ${status}`);
    return bytes;
  }

  // ---- steps

  private async step(step: Step): Promise<void> {
    switch (step.kind) {
      case 'write':
        this.write(step, step.fua);
        return;
      case 'burst':
        this.burst(step);
        return;
      case 'zero':
        this.ask(step, { ...step, kind: 'zero' });
        return;
      case 'trim':
        this.ask(step, { ...step, kind: 'trim' });
        return;
      case 'flush':
        this.flush();
        return;
      case 'time':
        return;
      case 'kill':
      case 'cut':
        this.endLater(step);
        return;
      case 'close':
        await this.close(this.nodes[step.node % this.nodes.length]!, step.downMs);
        return;
      case 'line':
        this.line(this.mirror(step.mirror), step.how);
        return;
      case 'mend':
        this.lines.heal(this.mirror(step.mirror).name);
        return;
      case 'verb':
        this.verb(this.mirror(step.mirror), step.verb, step.options);
        return;
      case 'probe':
        await this.checks.probe(this.mirror(step.mirror), step.how);
        return;
      case 'read':
        this.read(this.mirror(step.mirror));
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
        this.mirror(step.mirror).keepBackup(this.host);
        return;
      case 'set-back':
        this.setBack(this.mirror(step.mirror));
        return;
      case 'fault':
      case 'full':
      case 'room':
      case 'slow':
        this.diskStep(step);
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

  private setBack(mirror: MirrorNode): void {
    if (mirror.backup === null) return;
    if (mirror.running) mirror.end('kill');
    mirror.restoreBackup(this.host);
    this.restartAt.set(mirror, this.world.time);
  }

  private diskStep(step: Extract<Step, { kind: 'fault' | 'full' | 'room' | 'slow' }>): void {
    const node = this.nodes[step.node % this.nodes.length]!;
    const { disk, process } = node;
    if (disk === null || process === null) return;
    if (step.kind === 'fault') disk.faults.push({ ...step });
    else if (step.kind === 'slow') process.slowMs = step.slowMs;
    else {
      const { platter } = disk;
      platter.pagesMax = step.kind === 'room' ? Infinity : platter.pagesUsed() + step.pages;
    }
  }

  private endLater(step: Extract<Step, { kind: 'kill' | 'cut' }>): void {
    const node = this.nodes[step.node % this.nodes.length]!;
    const { disk } = node;
    if (disk === null) return;
    this.restartAt.set(node, this.world.time + step.downMs);
    if (step.calls === 0) disk.endNow(step.kind);
    else disk.endAfter(step.kind, step.calls);
  }

  private async close(node: Node, downMs: number): Promise<void> {
    if (!node.running || node.closing) return;
    if (!(node instanceof MirrorNode) && !(node instanceof PrimaryNode)) return;
    let over = false;
    const ended = (): void => {
      over = true;
    };
    node.note('is asked to stop');
    await this.commandsOf(node);
    if (!node.running) return;
    this.operations.operate(node, `the stop of ${node.name}`, node.close(), {
      done: ended,
      refused: (error) => {
        refusal(node, 'a stop')(error);
        ended();
      },
    });
    const { process } = node;
    await this.until(
      `the stop of ${node.name}`,
      CLOSE_MS_MAX,
      () => over || process?.over === true,
      () => this.operations.names.join(', '),
    );
    if (process?.over === true) return;
    if (node === this.primary && !node.troubled) this.oracle.flushed(this.oracle.change);
    this.restartAt.set(node, this.world.time + downMs);
    node.end('kill');
    await this.ended(node);
  }

  /** New commands are refused before a node stops, and those under way awaited. */
  private async commandsOf(node: PrimaryNode | MirrorNode): Promise<void> {
    node.closing = true;
    if (!(node instanceof PrimaryNode)) return;
    await this.until(
      `the commands of ${node.name}`,
      CLOSE_MS_MAX,
      () => !this.snapshots.busy(node),
      () => this.operations.names.join(', '),
    );
  }

  private line(mirror: MirrorNode, how: Extract<Step, { kind: 'line' }>['how']): void {
    const { lines } = this;
    switch (how) {
      case 'cut':
      case 'cut-lane':
        lines.cut(mirror.name, how === 'cut-lane');
        return;
      case 'refused':
      case 'silent':
        lines.setState(mirror.name, how);
        lines.cut(mirror.name, false);
        return;
      case 'stall-forth':
        lines.stall(mirror.name, ['to-listener']);
        return;
      case 'stall-back':
        lines.stall(mirror.name, ['to-connector']);
        return;
      case 'stall':
        lines.setState(mirror.name, 'silent');
        lines.stall(mirror.name, ['to-listener', 'to-connector']);
    }
  }

  // ---- the operator

  private verb(
    mirror: MirrorNode,
    verb: Extract<Step, { kind: 'verb' }>['verb'],
    options: MirrorOptions,
  ): void {
    const { device, closing } = this.primary;
    if (device === null || closing) return;
    const uri = Lines.uri(mirror.name);
    const what = `${verb} ${mirror.name}`;
    switch (verb) {
      case 'add':
        return this.operations.operate(this.primary, what, device.addMirror({ uri, ...options }));
      case 'remove':
        return this.operations.operate(this.primary, what, device.removeMirror(uri));
      case 'pause':
        return this.operations.operate(this.primary, what, device.pauseMirror(uri));
      case 'resume':
        return this.operations.operate(this.primary, what, device.resumeMirror(uri));
      case 'resync':
        return this.operations.operate(this.primary, what, device.resyncMirror(uri));
      case 'limit':
      case 'unlimit': {
        const limit = verb === 'limit' ? this.host.between(1, 64) * LIMIT_UNIT : null;
        return this.operations.operate(this.primary, what, device.limitMirror(uri, limit));
      }
      case 'verify':
      case 'repair': {
        const report = device.verifyMirror(uri, { repair: verb === 'repair' });
        return this.operations.operate(this.primary, what, report, {
          done: ({ bytes_differing, ranges }) => {
            this.note(`${what}: ${bytes_differing} bytes differ`);
            wrongUnless(
              // What the mirror cannot read counts as different.
              bytes_differing === 0 || mirror.setBack || mirror.troubled,
              `${what} says that ${JSON.stringify(ranges)} differ`,
            );
          },
        });
      }
    }
  }

  // ---- the host

  private burst({ count, blocks, flushes }: Extract<Step, { kind: 'burst' }>): void {
    for (let index = 0; index < count; index += 1) {
      if (flushes && this.host.chance(25)) this.flush();
      const block = this.host.below(this.oracle.blockCount);
      const most = Math.min(blocks, this.oracle.blockCount - block);
      this.write({ offset: block * BLOCK, length: this.host.between(1, most) * BLOCK }, false);
    }
  }

  private write(place: Place, fua: boolean): void {
    this.tags += 1;
    const bytes = takeBytes(place.length).fill(1 + (this.tags % 255));
    for (let at = 0; at + 8 <= bytes.length; at += 256) bytes.writeUInt32LE(this.tags, at);
    this.ask(place, { kind: 'write', fua, bytes });
  }

  private ask(
    { offset, length }: Place,
    what: { kind: 'write' | 'zero' | 'trim'; fua: boolean; noHole?: boolean; bytes?: Buffer },
  ): void {
    const { device, closing } = this.primary;
    if (device === null || closing || this.operations.count >= REQUESTS_MAX) return;
    const { kind, fua, noHole = false, bytes } = what;
    const request = bytes === undefined ? readOf({ offset, length }) : writeOf(offset, bytes);
    request.fua = fua;
    request.noHole = noHole;
    this.request(request, kind, (asked) => device[kind](asked));
  }

  private flush(): void {
    const { device, closing } = this.primary;
    if (device === null || closing || this.operations.count >= REQUESTS_MAX) return;
    this.request(readOf({ offset: 0, length: 0 }), 'flush', (asked) => device.flush(asked));
  }

  private request(request: TestRequest, kind: string, call: (asked: TestRequest) => number): void {
    const { primary, oracle } = this;
    // A flush makes durable what was applied before it.
    const before = oracle.change;
    this.operations.operate(primary, kind, answered(request, call), {
      done: (status) => {
        if (status !== 0) {
          const excused = primary.troubled || primary.closing || status === ESHUTDOWN;
          wrongUnless(excused, `a ${kind} was answered ${status} for no reason`);
        } else if (kind === 'flush') {
          oracle.flushed(before);
          this.promised(kind, before, true);
        } else {
          const change = oracle.changeOf.get(request);
          if (change !== undefined) this.promised(kind, change, request.fua);
        }
      },
    });
  }

  /** The host was told that a change is on every synchronous mirror that is in step: durably, or at all. */
  private promised(kind: string, change: number, durably: boolean): void {
    // Hosts are sent away before a node stops.
    if (this.primary.closing) return;
    for (const node of this.mirrors) {
      const mirror = this.primary.mirrorOf(node.name);
      if (mirror?.mode !== 'sync' || mirror.state !== 'streaming' || node.setBack) continue;
      if (durably) {
        node.promised = Math.max(node.promised, change);
        const held = this.oracle.of(node.claimed)?.change ?? -1;
        wrongUnless(
          held >= change,
          `a ${kind} was answered, and ${node.name} has change ${held} of ${change} durably`,
        );
        continue;
      }
      // Its word may be older than its process.
      if (node.secondary?.sourceStatus().state !== 'streaming') continue;
      const held = this.oracle.at(node.secondary.intake.received)?.change ?? -1;
      wrongUnless(
        held >= change,
        `a ${kind} was answered, and ${node.name} holds change ${held} of ${change}`,
      );
    }
  }

  /** Reads all of a mirror through its export. */
  private read(node: MirrorNode): void {
    const { secondary, closing } = node;
    if (secondary === null || closing) return;
    const request = readOf({ offset: 0, length: this.oracle.blockCount * BLOCK });
    const first = shownBy(secondary);
    this.operations.operate(
      node,
      `a read of ${node.name}`,
      answered(request, (asked) => secondary.read(asked)),
      {
        done: (status) => {
          if (status !== 0) {
            const excused = node.troubled || node.closing || status === ESHUTDOWN;
            wrongUnless(excused, `a read of ${node.name} was answered ${status} for no reason`);
            return;
          }
          this.checks.mustBeOneOf(node, request.bytes, first, shownBy(secondary));
        },
      },
    );
  }

  // ---- the end

  /** Nothing goes wrong from now on. */
  private makeRight(): void {
    this.note('everything is healed');
    this.world.dice = new Dice(this.history.seed, 2);
    for (const mirror of this.mirrors) this.lines.heal(mirror.name);
    for (const node of this.nodes) {
      const { disk, process } = node;
      disk?.faults.splice(0);
      disk?.forgetEnding();
      if (process !== null) process.slowMs = 0;
      node.platter.pagesMax = Infinity;
      if (disk !== null) disk.platter.pagesMax = Infinity;
      if (!node.running) this.restartAt.set(node, this.world.time);
    }
  }

  private async heal(): Promise<void> {
    this.makeRight();
    let asked = -Infinity;
    await this.until(
      'the way back',
      HEAL_MS_MAX,
      () => {
        if (this.world.time - asked > 2000) {
          asked = this.world.time;
          this.bringBack();
        }
        return this.operations.count === 0 && this.mirrors.every((node) => this.inStep(node));
      },
      () => this.whyNot(),
    );
    await this.compare();
  }

  /** What an operator does who wants all mirrors in step. */
  private bringBack(): void {
    if (this.primary.device === null) return;
    for (const [index, node] of this.mirrors.entries()) {
      const mirror = this.primary.mirrorOf(node.name);
      if (mirror === null) this.verb(node, 'add', this.history.mirrors[index]!);
      else {
        const { limit = null } = this.primary.volume.metadata.state.mirrors.get(mirror.id) ?? {};
        if (limit !== null) this.verb(node, 'unlimit', this.history.mirrors[index]!);
        if (mirror.state === 'paused') this.verb(node, 'resume', this.history.mirrors[index]!);
      }
    }
  }

  private async failover(plan: Finale): Promise<void> {
    if (plan.healed) await this.heal();
    this.makeRight();
    await this.until(
      'a start',
      HEAL_MS_MAX,
      () => this.nodes.every(({ running }) => running),
      () => '',
    );
    const [mirror] = this.mirrors;
    const { history, world, lines, oracle, primary, operations, checks } = this;
    const finale = new Failover(
      {
        plan,
        staging: history,
        dice: this.world.dice,
        world,
        lines,
        oracle,
        operations,
        checks,
        start: (node) => node.running || this.restartAt.set(node, world.time),
      },
      primary,
      mirror!,
    );
    await finale.play(
      (what, ready, state) => this.until(what, HEAL_MS_MAX, ready, state),
      () => (this.finale = finale),
    );
  }

  private inStep(node: MirrorNode): boolean {
    const { device } = this.primary;
    const mirror = this.primary.mirrorOf(node.name);
    if (device === null || mirror === null || node.secondary === null) return false;
    const { state, stagedBytes, blocks } = mirror;
    if (state !== 'streaming') return false;
    if (stagedBytes + blocks.dirtyBytes + blocks.suspectBytes > 0) return false;
    const { epoch } = device.position();
    if (mirror.settledEpoch < epoch || node.secondary.intake.applied?.epoch !== epoch) return false;
    return this.snapshots.difference(this.primary, node) === null;
  }

  private whyNot(): string {
    const stuck = this.operations.names.join(', ');
    const states = this.mirrors.map((node) => {
      const mirror = this.primary.mirrorOf(node.name);
      const source = node.secondary?.sourceStatus();
      const wrong =
        this.primary.running && node.secondary !== null
          ? this.snapshots.difference(this.primary, node)
          : null;
      return `${wrong ?? ''} ${node.name} is ${mirror?.state ?? 'no mirror'} (${mirror?.lastError ?? ''}; ${JSON.stringify(mirror?.status() ?? null)}; ${JSON.stringify(source ?? null)})`;
    });
    return `${states.join('; ')}; waiting: ${stuck}`;
  }

  private async compare(): Promise<void> {
    const here = this.contentNow();
    const wrong = differences(this.oracle.now, here);
    wrongUnless(
      wrong.length === 0,
      `the primary has other blocks than its host wrote: ${wrong.join(' ')}`,
    );
    this.snapshots.ofPrimary(this.primary);
    for (const node of this.mirrors) {
      const secondary = node.secondary!;
      const request = readOf({ offset: 0, length: here.length });
      let status: number | null = null;
      void answered(request, (asked) => secondary.read(asked)).then((result) => (status = result));
      await this.until(
        `a read of ${node.name}`,
        5000,
        () => status !== null,
        () => '',
      );
      wrongUnless(status === 0, `a read of ${node.name} was answered ${String(status)}`);
      const same = here.equals(request.bytes);
      const found = same ? [] : differences(blocksOf(here), request.bytes);
      wrongUnless(same, `${node.name} is in step, and blocks ${found.join(' ')} differ`);
      await this.checks.probe(node, 'cut');
    }
  }
}

function shownBy(secondary: SecondaryVolume): Shown {
  const { run, position } = secondary.volume.metadata.state;
  const { applied, durable } = secondary.intake;
  const next = (applied?.epoch ?? 0) + 1;
  return {
    position: applied,
    next: next <= (durable?.epoch ?? 0) ? next : null,
    run: run?.epoch ?? position?.epoch ?? null,
  };
}

function blocksOf(bytes: Buffer): Buffer[] {
  return Array.from({ length: bytes.length / BLOCK }, (_, block) =>
    bytes.subarray(block * BLOCK, (block + 1) * BLOCK),
  );
}
