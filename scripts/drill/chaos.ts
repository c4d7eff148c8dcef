/**
 * Random disasters, one after another, on one pair of nodes. Between two of them the pair must come in step by itself, or by the
 * commands that an operator would give after a promotion; then both copies are equal and hold all that was answered.
 *
 * Either node may be the primary: a promotion swaps the roles, and the old primary becomes the mirror of the new one.
 */
import { join } from 'node:path';
import { fill } from './block-load.ts';
import type { Drill, Round } from './frame.ts';
import { type DrilledNode, expectEqualExports, settled } from './node.ts';
import { pause, until } from './process.ts';
import type { FaultProxy } from './proxy.ts';
import { nbdUri } from './sockets.ts';
import { AREA, MIB, SIZE, Stage, VOLUME } from './stage.ts';
import { SmallDisk } from './steps.ts';
import type { Writer } from './writer.ts';

const DISK_BYTES = 768 * MIB;
/** A switchover is done or given up within it. */
const MOVE_SECONDS = '5';
/** From the start of its command, at most, until a node is killed. */
const MOVE_MS_MAX = 1000;
const HELD_MS = 40;
const HELD_MS_MAX = 3000;
const LEFT_BYTES = 8 * MIB;
const SETTLE_MS_MAX = 90_000;
const PROMOTE_MS_MAX = 30_000;
/** Beyond what the disasters take, before the whole is given up. */
const SPARE_MS = 240_000;
const LOADED = { from: 33 * MIB, to: 40 * MIB };

interface Side {
  readonly node: DrilledNode;
  readonly disk: SmallDisk;
  /** The way to this side. */
  readonly way: FaultProxy;
}

type Disaster = (chaos: Chaos, writer: Writer) => Promise<void>;

class Chaos {
  readonly round: Round;
  readonly stage: Stage;
  primary: Side;
  mirror: Side;
  readonly held = new Map<string, number>();
  /** The present disaster may cost answered writes: an asynchronous mirror was promoted. */
  lossAllowed = false;
  /** Where the promoted copy goes on; null: where the last writer ended. */
  private nextRound: number | null = null;

  constructor(stage: Stage, primary: Side, mirror: Side) {
    this.round = stage.round;
    this.stage = stage;
    this.primary = primary;
    this.mirror = mirror;
  }

  /** One disaster under load, and what must be true after it. */
  async once(): Promise<void> {
    const { round, stage } = this;
    const names = Object.keys(DISASTERS);
    const name = names[round.random.below(names.length)] ?? 'cut';
    this.held.set(name, (this.held.get(name) ?? 0) + 1);
    round.note(`${this.held.get(name)}. ${name}; ${this.primary.node.name} is the primary`);
    const writer = stage.write(this.primary.node, this.nextRound ?? undefined);
    this.nextRound = null;
    await writer.progress(30, round.signal);
    if (round.random.below(2) === 0) await fill(this.primary.node.uri(VOLUME), LOADED);
    await DISASTERS[name]?.(this, writer);
    await this.heal();
    await writer.stop();
    await this.settle();
    await this.judge(writer);
  }

  async pause(): Promise<void> {
    await this.round.pauseBetween(50, 1500);
  }

  /** Whatever was broken is mended, but nothing is commanded. */
  private async heal(): Promise<void> {
    for (const { node, disk, way } of [this.primary, this.mirror]) {
      way.restore();
      way.throttle(null);
      way.delay(0);
      disk.clear();
      node.thaw();
      if (!node.running) await node.start(this.round.signal);
    }
  }

  async settle(): Promise<void> {
    await this.stage.waitMirror('both to be in step', settled, SETTLE_MS_MAX, this.primary.node);
  }

  /** Promotes the mirror, whatever became of the primary, and makes that its mirror. */
  async swap(writer: Writer): Promise<void> {
    const { round, stage } = this;
    const [old, young] = [this.primary, this.mirror];
    const wait = { what: 'the promotion', timeoutMs: PROMOTE_MS_MAX, signal: round.signal };
    await until(wait, async () => {
      const { code, stderr } = await young.node.attempt(['promote', VOLUME]);
      if (code === 0) return true;
      throw new Error(stderr);
    });
    const shown = await stage.state(young.node.uri(VOLUME));
    const { writes } = writer.lost(shown, Date.now());
    this.nextRound = Math.floor(Math.max(0, shown) / AREA.blocks) + 1;
    round.note(`${young.node.name} promoted; it lacks ${writes} of the answered writes`);
    round.atLeast('lostWrites', writes);
    if (round.mode === 'sync') round.expect(writes === 0, `sync mode, ${writes} writes are lost`);
    await this.heal();
    await writer.stop();
    const known = {
      what: 'the old primary to know',
      timeoutMs: PROMOTE_MS_MAX,
      signal: round.signal,
    };
    await until(known, async () => (await old.node.volume(VOLUME)).fenced);
    await old.node.command('failback', VOLUME, young.node.name);
    const uri = nbdUri(old.way.address, VOLUME);
    await young.node.command('mirror', 'add', VOLUME, uri, '--seeded', '--mode', round.mode);
    this.primary = young;
    this.mirror = old;
  }

  /** Orders the planned move; not every move comes about when nodes are killed meanwhile. */
  async orderMove(): Promise<void> {
    const { primary, mirror, round } = this;
    const commanded = round.random.below(2) === 0 ? primary.node : mirror.node;
    const back = nbdUri(primary.way.address, VOLUME);
    const words = ['switchover', VOLUME, '--back', back, '--timeout', MOVE_SECONDS];
    const { code, stdout, stderr } = await commanded.attempt(words);
    round.note(code === 0 ? 'switchover: done' : `switchover: ${stderr}${stdout}`.trim());
  }

  /** The writer waits for longer than it does mostly, as in a move, and then some. A moment later when it does not. */
  async untilHeld(writer: Writer): Promise<void> {
    const deadline = performance.now() + HELD_MS_MAX;
    let { answerCount } = writer;
    for (let since = performance.now(); performance.now() < Math.min(since + HELD_MS, deadline);) {
      await pause(2, this.round.signal);
      if (writer.answerCount === answerCount) continue;
      answerCount = writer.answerCount;
      since = performance.now();
    }
    await this.round.pauseBetween(0, HELD_MS);
  }

  /** Which node takes writes turns out without a command, and the other one is its mirror. */
  async settleMove(writer: Writer): Promise<void> {
    await this.heal();
    const wait = { what: 'one node to take writes', timeoutMs: SETTLE_MS_MAX };
    const taking = await until({ ...wait, signal: this.round.signal }, async () => {
      const sides = [this.primary, this.mirror];
      const seen = await Promise.all(sides.map(({ node }) => node.volume(VOLUME)));
      const free = sides.filter((_, at) => seen[at]?.source === null && seen[at].fenced === null);
      return free.length === 1 && seen.some(({ source }) => source !== null) ? free[0] : null;
    });
    if (taking !== this.mirror) return;
    await writer.ended();
    this.mirror = this.primary;
    this.primary = taking;
    const { mode } = await taking.node.mirror(VOLUME);
    this.round.expect(mode === this.round.mode, `after the move the mirror is ${mode}`);
    this.round.note(`${taking.node.name} is the primary now`);
  }

  /** Both copies are equal and one state, and what the primary answered before is there, unless it was given up by a promotion. */
  private async judge(writer: Writer): Promise<void> {
    const { round, stage, primary, mirror } = this;
    const uris = [primary.node.uri(VOLUME), mirror.node.uri(VOLUME)] as const;
    await expectEqualExports(uris).catch((thrown: unknown) => {
      round.violate(`the copies differ: ${String(thrown)}`);
    });
    const shown = await stage.state(uris[0]);
    if (this.lossAllowed) this.lossAllowed = false;
    else round.expect(shown >= writer.writes, `${shown} of ${writer.writes} answered writes`);
    await this.dropDiverged();
  }

  /** What a failback keeps takes space: an operator who has seen it deletes it. */
  private async dropDiverged(): Promise<void> {
    const { node } = this.mirror;
    const listed = await this.primary.node.attempt(['snapshot', 'list', VOLUME, '--json']);
    for (const [, name = ''] of listed.stdout.matchAll(/"(diverged-[^"]+)"/g)) {
      await this.primary.node.attempt(['snapshot', 'delete', `${VOLUME}@${name}`]);
      this.round.note(
        `${name} of ${this.primary.node.name} is given up (${node.name} never had it)`,
      );
    }
  }
}

const DISASTERS: Record<string, Disaster> = {
  async cut(chaos) {
    chaos.mirror.way.cut();
    await chaos.pause();
  },
  async silence(chaos, writer) {
    chaos.mirror.way.halfOpen();
    await chaos.pause();
    if (chaos.round.mode === 'async') await writer.progress(10, chaos.round.signal);
  },
  async 'one way'(chaos) {
    chaos.mirror.way.deafen(chaos.round.random.below(2) === 0 ? 'to-target' : 'to-client');
    await chaos.pause();
  },
  async slow(chaos) {
    chaos.mirror.way.throttle(2 * MIB);
    chaos.mirror.way.delay(chaos.round.random.below(50));
    await chaos.pause();
  },
  async 'kill the mirror'(chaos) {
    await chaos.mirror.node.kill();
    await chaos.pause();
  },
  async 'kill the primary'(chaos, writer) {
    await chaos.primary.node.kill();
    await writer.ended();
    await chaos.pause();
  },
  async 'kill both'(chaos, writer) {
    await Promise.all([chaos.primary.node.kill(), chaos.mirror.node.kill()]);
    await writer.ended();
  },
  async 'stop the mirror'(chaos) {
    await chaos.mirror.node.stop();
    await chaos.pause();
  },
  async 'freeze the mirror'(chaos) {
    chaos.mirror.node.freeze();
    await chaos.pause();
    chaos.mirror.node.thaw();
  },
  async 'freeze the primary'(chaos) {
    chaos.primary.node.freeze();
    await chaos.pause();
    chaos.primary.node.thaw();
  },
  async 'pause and resume'(chaos) {
    await chaos.primary.node.command('mirror', 'pause', VOLUME);
    await chaos.pause();
    await chaos.primary.node.command('mirror', 'resume', VOLUME);
  },
  async 'fill the disk of the mirror'(chaos) {
    await chaos.mirror.disk.leave(LEFT_BYTES);
    await fill(chaos.primary.node.uri(VOLUME), { from: 33 * MIB, to: SIZE });
    await chaos.pause();
  },
  async switchover(chaos, writer) {
    await chaos.orderMove();
    await chaos.settleMove(writer);
  },
  async 'kill in a switchover'(chaos, writer) {
    const { random } = chaos.round;
    const victims = [[chaos.primary], [chaos.mirror], [chaos.primary, chaos.mirror]];
    const order = chaos.orderMove();
    await chaos.round.pauseBetween(0, MOVE_MS_MAX);
    if (random.below(3) > 0) await chaos.untilHeld(writer);
    await Promise.all((victims[random.below(3)] ?? []).map(async ({ node }) => await node.kill()));
    await order;
    await chaos.settleMove(writer);
  },
  async 'promote after a kill'(chaos, writer) {
    await chaos.stage.waitMirror(
      'the stream',
      ({ state }) => state === 'streaming',
      SETTLE_MS_MAX,
      chaos.primary.node,
    );
    chaos.lossAllowed = true;
    await chaos.primary.node.kill();
    await writer.ended();
    await chaos.swap(writer);
  },
  async 'promote while cut'(chaos, writer) {
    chaos.lossAllowed = chaos.round.mode === 'async';
    if (chaos.round.mode === 'sync') await writer.stop();
    chaos.mirror.way.cut();
    await chaos.pause();
    await chaos.swap(writer);
  },
};

/** Disasters until the time is over. */
export function chaosDrill(durationMs: number): Drill {
  return {
    name: 'chaos',
    about: 'disasters at random',
    modes: ['async', 'sync'],
    limitMs: durationMs + SPARE_MS,
    async play(round) {
      const alphaDisk = await SmallDisk.mount(round, 'disk-alpha', DISK_BYTES);
      const betaDisk = await SmallDisk.mount(round, 'disk-beta', DISK_BYTES);
      const stage = await Stage.inStep(round, {
        alpha: { dataDirectory: join(alphaDisk.path, 'data') },
        beta: { dataDirectory: join(betaDisk.path, 'data') },
      });
      const alpha = { node: stage.alpha, disk: alphaDisk, way: stage.back };
      const beta = { node: stage.beta, disk: betaDisk, way: stage.link };
      const chaos = new Chaos(stage, alpha, beta);
      const end = performance.now() + durationMs;
      while (performance.now() < end && round.violations.length === 0) await chaos.once();
      for (const [name, times] of chaos.held) round.note(`${String(times).padStart(5)} x ${name}`);
    },
  };
}
