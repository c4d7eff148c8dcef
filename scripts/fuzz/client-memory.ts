/**
 * The target `client-memory`: our NBD client in this process, on a network in memory, with a hostile server
 * behind it. Whatever that says or does not say: each request is answered once, success means that it was
 * done, the end is told once, and nothing is left behind.
 */
import type { Network } from '../../src/io/network.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { parseNbdUri } from '../../src/nbd/uri/uri.ts';
import { FakeConnection } from '../../test/nbd/support/fake-world.ts';
import { ClientDriver } from './client-driver.ts';
import { Content } from './content.ts';
import { Dice } from './dice.ts';
import { evilPlan, type EvilPlan, mayLie } from './evil-plans.ts';
import { HostileMirror } from './hostile-mirror.ts';
import type { Stage } from './hostile-voice.ts';
import { demand } from './judge-facts.ts';
import { ManualClock } from './memory-world.ts';
import { piecesOf, type ClientScript } from './steps.ts';
import type { Failure, Target } from './target.ts';

const DISK_BYTES = 2 ** 24;
const CODES: ReadonlySet<string> = new Set(['MIRROR_UNREACHABLE', 'MIRROR_REFUSED', 'PROTOCOL']);
/** Longer than any patience of the client. */
const LONG_MS = 120_000;
const TICK_MS = 5;
const TICKS_MAX = 4_000;
const STEPS_PER_TICK = 50;
/** Larger pieces stay whole: there would be no end of them. */
const CUT_BYTES_MAX = 2048;
const IDLE_TICKS = 10;
const IDLE_MS = 200;

const refuse = (): Promise<never> => Promise.reject(new Error('a client does not listen'));

class ClientRun {
  private readonly clock = new ManualClock();
  private readonly connection = new FakeConnection();
  private readonly dice: Dice;
  private readonly honest: boolean;
  private readonly disk = new Content();
  private readonly mirror: HostileMirror;
  private readonly pieces: ClientScript['pieces'];
  private idleTicks = 0;

  constructor(dice: Dice, plan: EvilPlan) {
    this.dice = dice;
    this.honest = !mayLie(plan);
    this.pieces = dice.pick(['whole', 'random', 'bytes']);
    const { connection, clock } = this;
    const stage: Stage = {
      send: (bytes) => {
        const pieces = bytes.length > CUT_BYTES_MAX ? 'whole' : this.pieces;
        connection.write(...piecesOf(bytes, pieces, (end) => dice.below(end)));
      },
      close: () => connection.endInput(),
      reset: () => connection.die(new Error('read ECONNRESET')),
      after: (ms, act) => void clock.after(ms, () => connection.over || act()),
    };
    this.mirror = new HostileMirror(this.disk, DISK_BYTES, plan, dice, stage);
  }

  async run(): Promise<void> {
    const client = await this.open();
    if (client !== null) {
      const driver = new ClientDriver(client, this.disk, this.dice, this.honest);
      for (let rounds = this.dice.between(1, 6); rounds > 0; rounds--) {
        if (client.open) driver.work();
        await this.turns(this.dice.below(8));
      }
      await this.turns(2);
      // A plain end, or a polite one, or none: the server's silence has to end it.
      const closing = this.dice.pick(['destroy', 'close', 'none'] as const);
      if (closing === 'close') await this.close(client);
      if (closing === 'destroy') client.destroy();
      await this.untilOver(() => driver.isIdle);
      if (closing === 'none') await this.close(client);
      await this.untilOver(() => this.connection.over);
      driver.check(closing === 'destroy' || this.mirror.fired);
    }
    await this.untilOver(() => this.connection.over);
    demand(this.connection.over, 'the connection outlives its client');
    const own = this.clock.timers.length;
    this.clock.advance(LONG_MS);
    demand(this.clock.timers.length === 0, `${own} timers are left`);
  }

  private async close(client: NbdClient): Promise<void> {
    let closed = false;
    void client.close().finally(() => {
      closed = true;
    });
    await this.untilOver(() => closed);
  }

  private async open(): Promise<NbdClient | null> {
    const { connection, clock } = this;
    const network: Network = {
      connect: () => Promise.resolve(connection),
      listen: refuse,
      adopt: refuse,
    };
    const uri = parseNbdUri('nbd://127.0.0.1/mirror');
    const opening = NbdClient.connect(uri, { network, clock });
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    void opening.then(settle, settle);
    await Promise.resolve();
    this.mirror.opened();
    await this.untilOver(() => settled);
    const [result] = await Promise.allSettled([opening]);
    if (result.status === 'fulfilled') return result.value;
    const failure: unknown = result.reason;
    demand(failure instanceof BlockferryError, `connect throws ${String(failure)}`);
    demand(CODES.has(failure.code), `connect throws the code ${failure.code}`);
    return null;
  }

  /** Lets things happen, and time pass: fast where nothing happens. */
  private async turns(count: number): Promise<void> {
    for (let turn = 0; turn < count; turn++) {
      const soon = this.clock.runSoon();
      let steps = 0;
      while (steps < STEPS_PER_TICK && this.connection.step()) steps++;
      const busy = steps > 0 || soon;
      const bytes = this.connection.take();
      if (bytes.length > 0) this.mirror.received(bytes);
      this.idleTicks = busy || bytes.length > 0 ? 0 : this.idleTicks + 1;
      this.clock.advance(this.idleTicks > IDLE_TICKS ? IDLE_MS : TICK_MS);
      for (let ticks = 0; ticks < 4; ticks++) await Promise.resolve();
    }
  }

  private async untilOver(over: () => boolean): Promise<void> {
    for (let ticks = 0; ticks < TICKS_MAX && !over(); ticks++) {
      await this.turns(1);
    }
    demand(over(), 'the client waits for ever');
  }
}

async function iterate(seed: number, iteration: number): Promise<Failure | null> {
  const dice = new Dice(seed, iteration);
  const plan = dice.chance(5) ? ({ evil: 'none', at: 0 } as const) : evilPlan(dice, 40);
  try {
    await new ClientRun(dice, plan).run();
    return null;
  } catch (thrown) {
    const error = thrown instanceof Error ? thrown : new Error(String(thrown));
    return { error, details: `  ${JSON.stringify(plan)}` };
  }
}

export const clientMemory = (): Promise<Target> =>
  Promise.resolve({
    name: 'client-memory',
    iterate,
    summary: () => 'each request followed to its answer',
    close: () => Promise.resolve(),
  });
