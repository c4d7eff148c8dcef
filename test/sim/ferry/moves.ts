/**
 * The end of a history in which the writes move between two nodes, there and back again: switchovers and splits, asked for on either
 * side, while hosts write, disks run full and nodes end. At no time two nodes take the writes of one line, no write that was answered is lost, and
 * after each move all is in step again: of two lines one survives.
 */
import { BlockferryError } from '../../../src/io/errors.ts';
import type { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import { answered } from '../../volume/support/request.ts';
import { Wrong, wrongUnless } from '../failure.ts';
import type { FailoverParts, Until } from './failover.ts';
import type { Move, Moves as Plan } from './history.ts';
import { LineBook } from './line-book.ts';
import { LineHost } from './line-host.ts';
import { Lines } from './lines.ts';
import { VOLUME, type MirrorNode } from './mirror-node.ts';
import type { Node } from './node.ts';
import { PRIMARY_VOLUME, mirrorsOf, type PrimaryNode } from './primary-node.ts';
import { readOf } from './requests.ts';
import { Site, contentOf } from './site.ts';

/** Virtual milliseconds between two tries of an operator. */
const ASK_MS = 2000;
/** Virtual milliseconds of load behind a move. */
const LOAD_MS = 60;

interface Side {
  readonly site: Site;
  readonly node: Node;
  /** What its host knows; null: its line was given up. */
  book: LineBook | null;
}

export class Moves {
  private readonly parts: Omit<FailoverParts, 'plan'>;
  private readonly plan: Plan;
  private readonly oldNode: PrimaryNode;
  private readonly newNode: MirrorNode;
  private readonly sides: readonly [Side, Side];
  private readonly host: LineHost;
  private until: Until = () => Promise.resolve();
  private nextWrite = 0;
  /** Hosts write. */
  private busy = false;
  /** Two lines may be there. */
  private parted = false;
  /** Took the writes when the move began. */
  private giver: Side | null = null;

  constructor(
    plan: Plan,
    parts: Omit<FailoverParts, 'plan'>,
    nodes: { oldNode: PrimaryNode; newNode: MirrorNode },
  ) {
    this.plan = plan;
    this.parts = parts;
    this.oldNode = nodes.oldNode;
    this.newNode = nodes.newNode;
    const sideOf = (node: Node, volume: string): Side => ({
      site: new Site(node, volume, parts.staging),
      node,
      book: null,
    });
    this.sides = [sideOf(this.oldNode, PRIMARY_VOLUME), sideOf(this.newNode, VOLUME)];
    this.host = new LineHost(parts.dice, parts.operations);
    this.host.onGeneration = (): void => this.part();
  }

  /** `begun`: from now on nodes are started by `reopen`. */
  async play(until: Until, begun: () => void): Promise<void> {
    this.until = until;
    const { device } = this.oldNode;
    if (device === null) return;
    await this.flush(device);
    const { secondary } = this.newNode;
    // What a disk answered to a sync that was on its way may be told now.
    if (secondary === null || (device.volume.failed && this.oldNode.troubled)) return;
    begun();
    const [old, next] = this.sides;
    await old.site.adopt(this.oldNode.begun!, device);
    this.oldNode.handOver();
    await next.site.adopt(this.newNode.begun!, secondary);
    this.newNode.handOver();
    const { generation } = device.volume.metadata.state;
    const book = LineBook.of(contentOf(device), generation);
    for (const side of this.sides) side.book = book;
    for (const move of this.plan.moves) await this.move(move);
  }

  /** False: it starts as it always did. */
  async reopen(node: Node): Promise<boolean> {
    const side = this.sides.find((each) => each.node === node);
    if (side === undefined) return false;
    const parts = node.open();
    if (node.noticeEnd()) return true;
    const { knowsBoot, knowsExtents, grain } = node.surroundings.traits;
    const told = knowsBoot && knowsExtents && grain === 1;
    if (node.lastEnding === 'cut' || !told) side.book?.lostPower();
    await side.site.adopt(parts, null);
    return true;
  }

  // ---- a move

  private async move(move: Move): Promise<void> {
    const { lines, world } = this.parts;
    const from = this.sides.find(({ site }) => site.primary !== null);
    wrongUnless(from !== undefined, 'nobody takes writes');
    const to = this.sides.find((side) => side !== from)!;
    from.node.note(`- ${JSON.stringify(move)}`);
    this.busy = true;
    await this.load();
    this.giver = from;
    this.parted = move.what === 'split';
    for (const end of move.ends) [from, to][end.node]!.node.disk?.endAfter(end.how, end.calls);
    this.fill(move, [from, to]);
    for (const refused of move.refused) [from, to][refused.node]!.node.refuse(refused);
    const over = this.ask(move, from, to);
    if (move.line === 'cut') for (const { node } of this.sides) lines.cut(node.name, false);
    else if (move.line === 'silent') for (const { node } of this.sides) lines.isolate(node.name);
    const since = world.time;
    await this.until(
      'the end of a move',
      () => {
        this.write();
        for (const { node } of this.sides) if (node.pagesMax < Infinity) this.parts.start(node);
        return over() || world.time - since > move.withinMs + ASK_MS;
      },
      () => '',
    );
    this.makeRight();
    this.busy = true;
    await this.load();
    await this.settle(move);
  }

  /** `pair`: who gives the writes and who takes them. */
  private fill(move: Move, pair: readonly [Side, Side]): void {
    for (const { node: index, pages, stays } of move.full) {
      const { node } = pair[index];
      const { platter } = node;
      platter.pagesMax = platter.pagesUsed() + pages;
      if (stays) node.pagesMax = platter.pagesMax;
    }
  }

  private makeRight(): void {
    for (const { node } of this.sides) {
      node.disk?.faults.splice(0);
      this.parts.lines.heal(node.name);
      node.pagesMax = Infinity;
      node.platter.pagesMax = Infinity;
      if (node.disk !== null) node.disk.platter.pagesMax = Infinity;
    }
  }

  /** Hosts write for a while. */
  private async load(): Promise<void> {
    const { world } = this.parts;
    const end = world.time + LOAD_MS;
    await this.until(
      'a load',
      () => {
        this.write();
        return world.time >= end;
      },
      () => '',
    );
  }

  /** From now on each of the two has writes that the other does not have. What is not answered yet belongs to the line it was asked of. */
  private part(): void {
    const [one, other] = this.sides;
    if (!this.parted || one.book !== other.book) return;
    const to = one === this.giver ? other : one;
    to.book = to.book?.fork() ?? null;
  }

  /** A handover is under way. */
  private goesOn({ handover }: ReplicatedVolume): boolean {
    return (handover as unknown as { asking: number | null }).asking !== null;
  }

  private quiet({ site }: Side): boolean {
    this.host.forget(this.sides.map((side) => side.site));
    return this.host.waiting(site) === 0;
  }

  /** Whether the command is over, or was never heard of. */
  private ask(move: Move, from: Side, to: Side): () => boolean {
    const at = move.at === 'primary' ? from : to;
    const { failover, volumeName } = at.site;
    const { process } = at.node;
    if (failover === null) return () => true;
    const back = Lines.uri(from.node.name, from.site.volumeName);
    const order = { to: at === from ? to.node.name : null, back, withinMs: move.withinMs };
    const state = { over: false };
    const what = `${move.what} at ${at.node.name}`;
    this.parts.operations.operate<unknown>(at.node, what, failover[move.what](volumeName, order), {
      done: () => {
        at.node.note(`${what}: done`);
        state.over = true;
      },
      refused: (thrown) => {
        if (!(thrown instanceof BlockferryError)) throw thrown;
        at.node.note(`${what}: ${thrown.line}`);
        state.over = true;
      },
    });
    return () => state.over || process?.over === true;
  }

  /** To whatever takes writes, or seems to. */
  private write(): void {
    const { world, dice } = this.parts;
    this.host.forget(this.sides.map(({ site }) => site));
    if (!this.busy || world.time < this.nextWrite) return;
    this.nextWrite = world.time + dice.below(12);
    if (this.sides.every(({ site }) => site.primary !== null)) this.part();
    for (const { site, book } of this.sides) if (book !== null) this.host.ask(site, book);
  }

  // ---- until all is in step

  private async settle(move: Move): Promise<void> {
    const { world, operations } = this.parts;
    const loser = this.sides[move.loser];
    let asked = -Infinity;
    this.busy = false;
    await this.until(
      'the way back after a move',
      () => {
        this.host.forget(this.sides.map(({ site }) => site));
        if (world.time - asked > ASK_MS) {
          asked = world.time;
          for (const { node } of this.sides) node.disk?.forgetEnding();
          this.bringBack(loser);
        }
        return (
          operations.count === 0 && this.inStep() && this.sides.every((side) => this.quiet(side))
        );
      },
      () => this.whyNot(),
    );
    const from = this.sides.find(({ site }) => site.primary !== null)!;
    const to = this.sides.find((side) => side !== from)!;
    this.parted = false;
    await this.probe(from);
    await this.flush(from.site.primary!);
    await this.until(
      'the mirror after a move',
      () => this.inStep(),
      () => this.whyNot(),
    );
    const bytes = contentOf(from.site.primary!);
    from.book!.observed(bytes, `after a ${move.what} ${from.node.name}`);
    to.book = from.book;
    const there = await this.read(to.site);
    wrongUnless(bytes.equals(there), `after a ${move.what} ${to.node.name} holds something else`);
  }

  /** What operators do who want one of the two to take writes, and the other to follow. */
  private bringBack(loser: Side): void {
    for (const { node } of this.sides) this.parts.start(node);
    const primaries = this.sides.filter(({ site }) => site.primary !== null);
    const decided = primaries.filter(
      ({ site }) => site.primary!.volume.metadata.state.handover === null,
    );
    if (decided.length === 2) {
      if (!this.parted) throw new Wrong('two nodes take the writes of one line');
      return this.giveUp(loser);
    }
    const [from] = primaries;
    if (from === undefined || primaries.length > 1) return;
    const to = this.sides.find((side) => side !== from)!;
    if (to.site.secondary !== null) this.haveFollow(from, to);
  }

  /** Of two lines one is given up: what its node holds is kept there as a snapshot. */
  private giveUp(loser: Side): void {
    const winner = this.sides.find((side) => side !== loser)!;
    // What one was asked for before they parted, and answers now, is its own.
    this.part();
    loser.book = null;
    if (!this.quiet(loser)) return;
    const { site, node } = loser;
    const back = site.failover!.failback(site.volumeName, winner.node.name, { force: true });
    this.parts.operations.operate(node, `failback of ${node.name}`, back, { refused: () => {} });
  }

  private haveFollow({ site, node }: Side, to: Side): void {
    const primary = site.primary!;
    const uri = Lines.uri(to.node.name, to.site.volumeName);
    const mirror = primary.mirrorStatuses().find((each) => each.uri === uri);
    const { operations } = this.parts;
    const quietly = { refused: () => {} };
    if (mirror === undefined) {
      const adding = primary.addMirror({ uri, mode: 'async', stallPolicy: 'degrade' });
      operations.operate(node, `add ${to.node.name}`, adding, quietly);
    } else if (mirror.state === 'paused' || mirror.state === 'diverged') {
      operations.operate(node, `resume ${to.node.name}`, primary.resumeMirror(uri), quietly);
    }
  }

  private inStep(): boolean {
    const from = this.sides.find(({ site }) => site.primary !== null);
    const to = this.sides.find(({ site }) => site.secondary !== null);
    if (from === undefined || to === undefined) return false;
    const primary: ReplicatedVolume = from.site.primary!;
    const uri = Lines.uri(to.node.name, to.site.volumeName);
    const mirror = mirrorsOf(primary).find((each) => each.uri.text === uri);
    if (mirror?.state !== 'streaming' || primary.fenced !== null) return false;
    // One goes on whose asker is gone.
    if (this.goesOn(primary) || primary.volume.metadata.state.handover !== null) return false;
    const { stagedBytes, blocks } = mirror;
    if (stagedBytes + blocks.dirtyBytes + blocks.suspectBytes > 0) return false;
    return to.site.secondary!.intake.applied?.epoch === primary.position().epoch;
  }

  private whyNot(): string {
    return JSON.stringify([
      this.sides.map(({ site, node }) => [
        node.name,
        site.primary?.mirrorStatuses() ?? site.secondary?.sourceStatus() ?? 'is down',
        site.primary?.fenced ?? null,
        site.device?.volume.metadata.state.source ?? null,
      ]),
      this.parts.operations.names,
    ]);
  }

  /** Whatever was refused while a disk was full: by now there is room. */
  private async probe({ site, node, book }: Side): Promise<void> {
    let status: number | null = null;
    void this.host.probe(site, book!).then((result) => (status = result));
    await this.until(
      'a write after a move',
      () => status !== null,
      () => this.whyNot(),
    );
    wrongUnless(status === 0, `${node.name} answered a write after a move ${String(status)}`);
  }

  /** So that nothing of what is seen can be lost any more. */
  private async flush(device: ReplicatedVolume): Promise<void> {
    const request = readOf({ offset: 0, length: 0 });
    let status: number | null = null;
    void answered(request, (asked) => device.flush(asked)).then((result) => (status = result));
    await this.until(
      'a flush',
      () => status !== null,
      () => '',
    );
    const { failed } = device.volume;
    wrongUnless(status === 0 || failed, `a flush was answered ${String(status)}`);
  }

  private async read(site: Site): Promise<Buffer> {
    const secondary = site.secondary!;
    const request = readOf({ offset: 0, length: secondary.sizeBytes });
    let status: number | null = null;
    void answered(request, (asked) => secondary.read(asked)).then((result) => (status = result));
    await this.until(
      'a read of a mirror',
      () => status !== null,
      () => '',
    );
    wrongUnless(status === 0, `a read of a mirror was answered ${String(status)}`);
    return request.bytes;
  }
}
