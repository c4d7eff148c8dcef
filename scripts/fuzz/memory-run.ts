/** Plays a case against the server in memory, with a judge at each client and a good client beside them. */
import * as wire from '../../test/wire/encoder.ts';
import type { FakeConnection } from '../../test/nbd/support/fake-world.ts';
import { Content } from './content.ts';
import { Dice } from './dice.ts';
import { demand, Fault } from './judge-facts.ts';
import { Judge } from './judge.ts';
import type { MemoryCase } from './memory-case.ts';
import { FuzzDevice } from './memory-device.ts';
import { MemoryWorld } from './memory-world.ts';
import { type ClientScript, piecesOf, type Step } from './steps.ts';

const GOOD_BYTES = 65536;
/** Bytes sent to end what a client left unfinished, before it is judged. */
const FILL_BYTES_MAX = 2 ** 20;
const PROBE_COOKIE = 0x70726f62655f5f5fn;
/** Longer than any patience of the server. */
const PATIENCE_MS = 60_000;
/** How long the server waits for a handshake. */
const HANDSHAKE_MS = 10_000;

class FuzzClient {
  readonly judge: Judge;
  readonly dice: Dice;
  private readonly world: MemoryWorld;
  private readonly connection: FakeConnection;
  private readonly passTime: (ms: number) => void;
  private closedTold = false;
  private sent = true;

  constructor(
    parts: { world: MemoryWorld; judge: Judge; passTime: (ms: number) => void },
    connection: FakeConnection,
    script: ClientScript,
  ) {
    this.world = parts.world;
    this.judge = parts.judge;
    this.passTime = parts.passTime;
    this.connection = connection;
    this.dice = new Dice(script.seed, 0);
  }

  /** Whoever is in the handshake now may be cut off for it. */
  outOfTime(): void {
    if (this.judge.phase !== 'requests') this.judge.excuse();
  }

  /** Takes what came; tells the judge of the end. */
  hear(): void {
    const bytes = this.connection.take();
    if (bytes.length > 0) this.judge.heard(bytes);
    if (!this.connection.over || this.closedTold) return;
    this.closedTold = true;
    this.judge.closed();
  }

  send(bytes: Buffer, pieces: ClientScript['pieces']): void {
    if (this.connection.over || !this.sent) return;
    this.judge.sent(bytes);
    this.connection.write(...piecesOf(bytes, pieces, (end) => this.dice.below(end)));
  }

  play(step: Step, pieces: ClientScript['pieces']): void {
    const { connection, judge, world, passTime } = this;
    switch (step.do) {
      case 'send':
        this.send(step.bytes, pieces);
        break;
      case 'settle':
        connection.stalled = false;
        world.settle();
        this.hear();
        if (!connection.over) judge.quiet();
        break;
      case 'stall':
        connection.stalled = true;
        break;
      case 'wait':
        passTime(step.ms);
        break;
      case 'half-close':
        this.sent = false;
        connection.endInput();
        judge.left();
        break;
      case 'reset':
        judge.left();
        connection.die(new Error('read ECONNRESET'));
        break;
      case 'tls':
        if (judge.phase !== 'tls' || connection.tls === null || connection.over) break;
        judge.secured();
        connection.tls.secured({ kind: 'anonymous', identity: '' });
        break;
    }
  }

  /** In step to the end, or ended: whichever it is, it must be clear by now. */
  finish(): void {
    const { connection, judge, world } = this;
    connection.stalled = false;
    world.settle();
    this.hear();
    if (connection.over) return;
    if (judge.missing > FILL_BYTES_MAX || !this.sent) return this.leave();
    while (judge.missing > 0 && !connection.over && judge.missing <= FILL_BYTES_MAX) {
      this.send(Buffer.alloc(judge.missing), 'whole');
      world.settle();
      this.hear();
    }
    if (connection.over) return;
    judge.quiet();
    this.probe();
    this.leave();
  }

  leave(): void {
    this.judge.left();
    if (this.dice.chance(50)) this.connection.endInput();
    else this.connection.die(null);
    this.world.settle();
    this.hear();
    if (!this.connection.over) this.passTime(PATIENCE_MS);
    this.world.settle();
    demand(this.connection.over, 'the connection outlives its client');
    this.hear();
  }

  private probe(): void {
    const { judge } = this;
    if (judge.phase === 'options') this.send(wire.option(0x7fff), 'whole');
    else if (judge.session !== null) {
      const make = judge.session.form === 'extended' ? wire.extendedRequest : wire.request;
      const cookie = PROBE_COOKIE;
      this.send(make(wire.FLUSH, { cookie }), 'whole');
      this.send(make(wire.READ, { cookie: cookie + 1n, length: 1n }), 'whole');
    }
    this.world.settle();
    this.hear();
    if (!this.connection.over) judge.quiet();
  }
}

/** Writes and reads while the others do what they do; each must be answered at once and right. */
class GoodClient {
  private readonly world: MemoryWorld;
  private readonly connection: FakeConnection;
  private readonly bytes = Buffer.alloc(GOOD_BYTES);
  private readonly dice: Dice;
  private cookie = 1n;

  constructor(world: MemoryWorld, connection: FakeConnection, dice: Dice) {
    this.world = world;
    this.connection = connection;
    this.dice = dice;
    connection.write(wire.clientFlags());
    if (world.facts.tls === 'required') {
      connection.write(wire.startTls());
      world.settle();
      connection.tls?.secured({ kind: 'anonymous', identity: '' });
    }
    world.settle();
    connection.take();
    connection.write(wire.go('good'));
    world.settle();
    const { length } = connection.take();
    demand(length === 32 + 20, `the good client's GO is answered with ${length} bytes`);
  }

  work(): void {
    const length = this.dice.between(1, 600);
    const at = this.dice.below(GOOD_BYTES - length);
    const range = { cookie: this.cookie++, offset: BigInt(at) };
    const writes = this.dice.chance(50);
    if (writes) {
      const payload = this.dice.bytes(length);
      payload.copy(this.bytes, at);
      this.connection.write(wire.request(wire.WRITE, { ...range, payload }));
    } else this.connection.write(wire.request(wire.READ, { ...range, length: BigInt(length) }));
    this.world.settle();
    const head = Buffer.concat([wire.u32(0x67446698), wire.u32(0), wire.u64(range.cookie)]);
    const data = writes ? Buffer.alloc(0) : this.bytes.subarray(at, at + length);
    const answer = this.connection.take();
    const right = answer.equals(Buffer.concat([head, data]));
    demand(right, `the good client hears ${answer.subarray(0, 64).toString('hex')}`);
  }

  leave(): void {
    this.connection.die(null);
  }
}

function makeWorld(plan: MemoryCase): { world: MemoryWorld; dice: Dice } {
  const dice = new Dice(plan.seed, 1);
  const devices = new Map<string, FuzzDevice>();
  for (const [name, options] of plan.devices) {
    devices.set(name, new FuzzDevice({ ...options, dice: new Dice(plan.seed, devices.size + 2) }));
  }
  const good = { sizeBytes: GOOD_BYTES, readOnly: false, answers: 'now', failing: [] } as const;
  devices.set('good', new FuzzDevice({ ...good, slowZeroes: false, dice: new Dice(plan.seed, 0) }));
  const goodExport = {
    name: 'good',
    size: GOOD_BYTES,
    readOnly: true,
    description: 'for the fuzzer',
    contexts: ['base:allocation', 'x-test:even'],
    badRanges: [],
    tlsOnly: false,
  };
  // A name in the list that no client of ours opens by plan.
  const facts = {
    ...plan.facts,
    exports: [...plan.facts.exports, { ...goodExport, readOnly: false }],
  };
  return { world: new MemoryWorld(facts, devices, plan.limits), dice };
}

/** Throws a Fault, or whatever the server threw. */
export async function runMemoryCase(plan: MemoryCase): Promise<void> {
  const { world, dice } = makeWorld(plan);
  await world.start();
  let closing: Promise<void> | null = null;
  const stopping = (): boolean => closing !== null;
  const contents = new Map<string, Content>();
  const contentOf = (name: string): Content => {
    const content = contents.get(name) ?? new Content();
    // Two clients at one disk: whose request came first only the server knows.
    content.shared = contents.has(name);
    contents.set(name, content);
    return content;
  };
  const good = new GoodClient(world, world.connect() ?? never(), new Dice(plan.seed, 99));
  const passTime = (ms: number): void => {
    if (ms >= HANDSHAKE_MS) for (const { client } of clients) client.outOfTime();
    world.clock.advance(ms);
  };
  const clients = plan.clients.map((script) => {
    const judge = new Judge({ facts: world.facts, contentOf, stopping, readsInOrder: true });
    const parts = { world, judge, passTime };
    const client = new FuzzClient(parts, world.connect() ?? never(), script);
    return { client, script, next: 0 };
  });
  let played = 0;
  for (;;) {
    const ready = clients.filter(({ script, next }) => next < script.steps.length);
    if (ready.length === 0) break;
    if (played++ === plan.stopAt) closing = world.server.close();
    const chosen = dice.pick(ready);
    const step = chosen.script.steps[chosen.next++];
    if (step !== undefined) chosen.client.play(step, chosen.script.pieces);
    for (let turns = dice.skewed(20); turns > 0; turns--) world.turn();
    for (const { client } of clients) client.hear();
    if (closing === null && dice.chance(30)) good.work();
  }
  if (closing === null) good.work();
  for (const { client } of clients) client.finish();
  if (closing === null) good.work();
  good.leave();
  world.settle();
  if (closing !== null) await stopped(world, closing);
  const left = world.leftovers();
  demand(left === '', `left over at the end: ${left}`);
}

async function stopped(world: MemoryWorld, closing: Promise<void>): Promise<void> {
  const later = Symbol('later');
  for (let tries = 0; tries < 5; tries++) {
    world.clock.advance(PATIENCE_MS);
    world.settle();
    // Promises behind `close` take a few turns to settle.
    for (let turns = 0; turns < 10; turns++) await Promise.resolve();
    if ((await Promise.race([closing, Promise.resolve(later)])) !== later) return;
  }
  throw new Fault('the server does not stop');
}

function never(): never {
  throw new Fault('the server accepts nobody');
}
