/**
 * The target `client-process`: a real primary, a host that writes to it, and hostile mirrors. The host must
 * not feel them, the primary must live and stay small, no mirror may be called in step that is not, and
 * once the mirrors behave each of them must get there.
 */
import { join } from 'node:path';
import {
  ControlError,
  type NodeOptions,
  inSync,
  startNode,
  type TestNode,
} from '../../test/support/node.ts';
import { Scope } from '../../test/support/scope.ts';
import { sleep } from '../../test/support/wait.ts';
import { Content } from './content.ts';
import { Dice } from './dice.ts';
import { GoodClient } from './good-client.ts';
import { HostileEndpoint } from './hostile-endpoint.ts';
import { evilPlan, type EvilPlan, mayLie } from './evil-plans.ts';
import { demand } from './judge-facts.ts';
import { residentBytes } from './process-memory.ts';
import type { Failure, Target } from './target.ts';

const VOLUME = 'demo';
const VOLUME_BYTES = 16 * 2 ** 20;
const MIRRORS = 4;
const RESIDENT_BYTES_MAX = 700 * 2 ** 20;
/** The slowest answer to the host. */
const LATE_MS = 5_000;
/** Evils that end only when the primary runs out of patience take 10 s, and the pause before a retry 5 s. */
const STEP_MS_MAX = 90_000;
/** An evil that ends no connection has been done after this long without a new one. */
const REST_MS = 700;
/** Three quarters of MIRROR_RETRY_MS_MIN, less what timers and sockets may be off by. */
const PAUSE_MS_MIN = 60;
/** Evils that are only noticed by their silence: once in a while is enough. */
const SLOW: ReadonlySet<EvilPlan['evil']> = new Set([
  'silence',
  'silence-at-byte',
  'drip',
  'drip-from-byte',
]);

class PrimaryRig {
  readonly node: TestNode;
  readonly host: GoodClient;
  readonly dir: string;
  residentMax = 0;
  private readonly scope: Scope;
  private readonly watch: NodeJS.Timeout;
  private endpoints = 0;

  private constructor(scope: Scope, dir: string, node: TestNode, host: GoodClient) {
    this.scope = scope;
    this.dir = dir;
    this.node = node;
    this.host = host;
    this.watch = setInterval(() => {
      this.residentMax = Math.max(this.residentMax, residentBytes(node.pid));
    }, 200);
    this.watch.unref();
  }

  static async start(): Promise<PrimaryRig> {
    const scope = new Scope();
    try {
      const dir = scope.tempDir('bf-fuzz-');
      const options: NodeOptions = { name: 'primary', dir };
      const node = await startNode(scope, options);
      await node.createVolume(VOLUME, `${VOLUME_BYTES}`);
      const host = new GoodClient(node.nbdSocket, VOLUME, LATE_MS);
      await host.start();
      return new PrimaryRig(scope, dir, node, host);
    } catch (thrown) {
      await scope.close();
      throw thrown;
    }
  }

  nextSocket(): string {
    return join(this.dir, `m${this.endpoints++}`);
  }

  check(): void {
    this.host.check();
    demand(this.node.process.running, `the primary died:\n${this.node.log.slice(-4000)}`);
    const { residentMax } = this;
    demand(residentMax < RESIDENT_BYTES_MAX, `the primary holds ${mib(residentMax)} MiB`);
  }

  /** Stops in good order, also with a mirror that is no help. */
  async close(): Promise<void> {
    clearInterval(this.watch);
    try {
      await this.host.stop();
      this.check();
      await this.node.stop();
    } finally {
      await this.scope.close();
    }
  }

  async abandon(): Promise<void> {
    clearInterval(this.watch);
    await this.host.stop().catch(() => undefined);
    await this.scope.close();
  }
}

const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(0);

/** One mirror of one iteration. */
interface Hostile {
  readonly disk: Content;
  readonly endpoint: HostileEndpoint;
  readonly uri: string;
}

function plansOf(dice: Dice): EvilPlan[] {
  const plans: EvilPlan[] = [];
  while (plans.length < dice.between(1, 3)) {
    const plan = evilPlan(dice, 60);
    // A lie cannot be told from the truth: what it leaves behind is nobody's fault here.
    if (mayLie(plan) || (SLOW.has(plan.evil) && !dice.chance(10))) continue;
    plans.push(plan);
  }
  return plans;
}

function hostileOf(path: string, plans: readonly EvilPlan[], dice: Dice): Hostile {
  const disk = new Content();
  const own = new Dice(dice.u32(), 7);
  const endpoint = new HostileEndpoint(path, disk, VOLUME_BYTES, plans, own);
  return { disk, endpoint, uri: `nbd+unix:///mirror?socket=${path}` };
}

/** Adds a mirror. A server that misbehaves at once is refused; it is asked until it has no evil left. */
async function attach(rig: PrimaryRig, { endpoint, uri }: Hostile): Promise<void> {
  await endpoint.listen();
  for (let added = false; !added;) {
    try {
      await rig.node.addMirror(VOLUME, uri);
      added = true;
    } catch (thrown) {
      demand(thrown instanceof ControlError, String(thrown));
      demand(!endpoint.isHonest, `an honest mirror is refused: ${thrown.message}`);
    }
  }
  endpoint.attached();
}

class ClientProcess implements Target {
  readonly name = 'client-process';
  private rig: PrimaryRig | null = null;
  private summaryText = '';

  async iterate(seed: number, iteration: number): Promise<Failure | null> {
    const dice = new Dice(seed, iteration);
    const plans = Array.from({ length: MIRRORS }, () => plansOf(dice));
    this.rig ??= await PrimaryRig.start();
    const { rig } = this;
    const mirrors: Hostile[] = [];
    try {
      for (const each of plans) {
        const mirror = hostileOf(rig.nextSocket(), each, dice);
        mirrors.push(mirror);
        await attach(rig, mirror);
      }
      await this.endure(rig, mirrors, dice);
      for (const { uri } of mirrors) await rig.node.request('POST', REMOVE, { uri });
      const { host, residentMax } = rig;
      this.summaryText =
        `the host had ${host.requests} answers, the slowest after ${host.slowestMs.toFixed(0)} ms; ` +
        `the primary held ${mib(residentMax)} MiB at most`;
      return null;
    } catch (thrown) {
      this.rig = null;
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      const status = await rig.node.volume(VOLUME).catch(() => null);
      const log = rig.node.log.slice(-3000);
      await rig.abandon();
      const lines = plans.map((each, index) => `  mirror ${index}: ${JSON.stringify(each)}`);
      const details = [...lines, `  status: ${JSON.stringify(status?.mirrors)}`, `  log: ${log}`];
      return { error, details: details.join('\n') };
    } finally {
      for (const { endpoint } of mirrors) await endpoint.close();
    }
  }

  summary(): string {
    return this.summaryText;
  }

  async close(): Promise<void> {
    const { rig } = this;
    this.rig = null;
    if (rig === null) return;
    // The last mirror takes everything and answers nothing: that must not keep the node from stopping.
    const mute: EvilPlan = { evil: 'silence', at: 0 };
    const mirror = hostileOf(rig.nextSocket(), [mute, mute, mute], new Dice(1, 1));
    try {
      await attach(rig, mirror);
      await sleep(500);
      await rig.close();
    } finally {
      await mirror.endpoint.close();
    }
  }

  /** Until every mirror has done its worst, and got over it. */
  private async endure(rig: PrimaryRig, mirrors: readonly Hostile[], dice: Dice): Promise<void> {
    let looks = dice.between(1, 4);
    const deadline = performance.now() + STEP_MS_MAX;
    for (let inStep = false; !inStep;) {
      demand(performance.now() < deadline, 'the mirrors behave, and are not in step');
      rig.check();
      this.judge(mirrors);
      if (looks > 0 && dice.chance(20)) {
        looks--;
        await this.compare(rig, mirrors);
      }
      const states = (await rig.node.volume(VOLUME)).mirrors;
      const done = mirrors.every(
        ({ endpoint }) => endpoint.isHonest || endpoint.restedMs > REST_MS,
      );
      const streaming = states.every(({ state }) => state === 'streaming');
      // One whose evil comes only now is given time to get over it.
      if (done && streaming) inStep = (await this.compare(rig, mirrors)) === mirrors.length;
      await sleep(20);
    }
  }

  private judge(mirrors: readonly Hostile[]): void {
    for (const { endpoint } of mirrors) {
      if (endpoint.failure !== null) throw endpoint.failure;
      const pause = endpoint.shortestPauseMs;
      demand(pause >= PAUSE_MS_MIN, `a mirror is asked again after ${pause.toFixed(0)} ms`);
    }
  }

  /** With the host quiet, who is called in step must hold what the host wrote. How many are. */
  private async compare(rig: PrimaryRig, mirrors: readonly Hostile[]): Promise<number> {
    const bytes = await rig.host.pause();
    try {
      let states = (await rig.node.volume(VOLUME)).mirrors;
      const deadline = performance.now() + 3_000;
      while (performance.now() < deadline && !states.every((each) => inSync(each))) {
        await sleep(50);
        states = (await rig.node.volume(VOLUME)).mirrors;
      }
      let count = 0;
      for (const { uri, disk } of mirrors) {
        const state = states.find((each) => each.uri === uri);
        if (state === undefined || !inSync(state)) continue;
        count++;
        const held = disk.read(0, bytes.length).bytes;
        const at = held.findIndex((byte, index) => byte !== bytes[index]);
        demand(at === -1, `a mirror is called in step, and differs at ${at}`);
        const past = disk.firstNonZero(bytes.length, VOLUME_BYTES - bytes.length);
        demand(past === null, `a mirror is called in step, and has something at ${past}`);
      }
      return count;
    } finally {
      rig.host.resume();
    }
  }
}

const REMOVE = `/v1/volumes/${VOLUME}/mirrors/remove`;

export const clientProcess = (): Promise<Target> => Promise.resolve(new ClientProcess());
