/**
 * The target `server-process`: a real node with real volumes, hostile clients through unix sockets, TCP and
 * TLS, several at a time, each on a volume of its own, and a client that behaves beside them.
 */
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import * as wire from '../../test/wire/encoder.ts';
import { makeCertificates } from '../../test/support/certificates.ts';
import { startNode, type TestNode } from '../../test/support/node.ts';
import { Scope } from '../../test/support/scope.ts';
import { waitUntil } from '../../test/support/wait.ts';
import { Content } from './content.ts';
import { Dice } from './dice.ts';
import { clientScript } from './generate.ts';
import { GoodClient } from './good-client.ts';
import { demand, type JudgedExport, type ServerFacts } from './judge-facts.ts';
import { Judge } from './judge.ts';
import { residentBytes } from './process-memory.ts';
import { RECORDINGS } from './recordings.ts';
import { SocketClient, type Where } from './socket-client.ts';
import { type ClientScript, scriptText } from './steps.ts';
import type { Failure, Target } from './target.ts';

/** Volumes of the hostile clients; the last is read-only. */
const LANES = ['disk0', 'vol-1', 'lun.2'];
const READ_ONLY = 'lun.2';
/** Past 4 GiB, where 32 bits end. */
const LANE_SIZE = '5G';
const LANE_BYTES = 5 * 2 ** 30;
const GOOD = 'good-volume';
const GOOD_BYTES = 4 * 2 ** 20;
/** With what the configuration below allows in flight; what is over it is a leak. */
const RESIDENT_BYTES_MAX = 600 * 2 ** 20;
/** The slowest answer to the client that behaves. */
const LATE_MS = 5_000;
const LEAVE_MS_MAX = 30_000;
/** Connections that stay in the handshake, for the server to be rid of. */
const LOITERERS_MAX = 64;

const configuration = (directory: string): string => `
[tls]
mode = "allowed"
certificate = "${join(directory, 'server-cert.pem')}"
key = "${join(directory, 'server-key.pem')}"
[limits]
in_flight_mib = 16
in_flight_total_mib = 64
[export."${READ_ONLY}"]
read_only = true
`;

class ServerRig {
  readonly node: TestNode;
  readonly good: GoodClient;
  readonly facts: ServerFacts;
  readonly where: readonly Where[];
  residentMax = 0;
  private readonly scope: Scope;
  private readonly contents = new Map<string, Content>();
  private readonly watch: NodeJS.Timeout;
  private loiterers = 0;

  private constructor(scope: Scope, node: TestNode, good: GoodClient, where: readonly Where[]) {
    this.scope = scope;
    this.node = node;
    this.good = good;
    this.where = where;
    this.facts = {
      exports: [...LANES.map((name) => laneExport(name, LANE_BYTES)), laneExport(GOOD, GOOD_BYTES)],
      defaultName: null,
      tls: 'allowed',
      listing: true,
      // A node takes links for its secondaries alone, and here it has none.
      privately: true,
      optionsMax: 64,
    };
    this.watch = setInterval(() => {
      this.residentMax = Math.max(this.residentMax, residentBytes(node.pid));
    }, 200);
    this.watch.unref();
  }

  static async start(): Promise<ServerRig> {
    const scope = new Scope();
    try {
      const dir = scope.tempDir('bf-fuzz-');
      const certificates = makeCertificates(join(dir, 'tls'));
      const config = join(dir, 'node.toml');
      writeFileSync(config, configuration(certificates.directory));
      const node = await startNode(scope, {
        name: 'fuzzed',
        dir,
        nbd: ['127.0.0.1:0'],
        flags: ['--config', config],
      });
      for (const name of LANES) await node.createVolume(name, LANE_SIZE);
      await node.createVolume(GOOD, '4M');
      const { nbd } = await node.request<{ nbd: readonly string[] }>('GET', '/v1/node');
      const port = Number(nbd.find((each) => each.startsWith('127.0.0.1:'))?.split(':')[1]);
      const good = new GoodClient(node.nbdSocket, GOOD, LATE_MS);
      await good.start();
      return new ServerRig(scope, node, good, [
        { path: node.nbdSocket },
        { host: '127.0.0.1', port },
      ]);
    } catch (thrown) {
      await scope.close();
      throw thrown;
    }
  }

  judge(): Judge {
    const contentOf = (name: string): Content => {
      const content = this.contents.get(name) ?? new Content();
      // What the good client does is not known here.
      content.shared = name === GOOD;
      this.contents.set(name, content);
      return content;
    };
    return new Judge({ facts: this.facts, contentOf, stopping: () => false, readsInOrder: false });
  }

  /** Says something, or nothing, and waits to be thrown out. */
  loiter(dice: Dice): void {
    if (this.loiterers >= LOITERERS_MAX) return;
    this.loiterers++;
    const socket = connect(dice.pick(this.where));
    socket.on('error', () => undefined);
    socket.on('close', () => this.loiterers--);
    socket.unref();
    socket.write(dice.bytes(dice.below(4)));
    this.scope.defer('destroy a loiterer', () => void socket.destroy());
  }

  check(): void {
    this.good.check();
    demand(this.node.process.running, `the server died:\n${this.node.log.slice(-4000)}`);
    const { residentMax } = this;
    demand(residentMax < RESIDENT_BYTES_MAX, `the server holds ${mib(residentMax)} MiB`);
  }

  /** Until nobody uses the hostile clients' volumes: what is on its way has landed. */
  async everybodyLeft(): Promise<void> {
    await waitUntil(
      'the clients of the volumes to be gone',
      async () => {
        const { volumes } = await this.node.status();
        const busy = volumes.filter(({ name, connections }) => name !== GOOD && connections > 0);
        const failed = volumes.filter(({ failure }) => failure !== null);
        demand(failed.length === 0, `a volume failed: ${JSON.stringify(failed)}`);
        return busy.length === 0;
      },
      { timeoutMs: LEAVE_MS_MAX, everyMs: 5 },
    );
  }

  /** Makes all of a volume zero, and known. */
  async clean(name: string): Promise<void> {
    if (name === READ_ONLY) return;
    const zeroes = { cookie: 1n, length: BigInt(LANE_BYTES) };
    const bytes = [
      wire.clientFlags(),
      wire.extendedHeaders(),
      wire.go(name),
      wire.extendedRequest(wire.WRITE_ZEROES, zeroes),
      wire.extendedRequest(wire.DISC),
    ];
    this.contents.delete(name);
    const steps = [{ do: 'send', bytes: Buffer.concat(bytes), note: 'zeroes' }] as const;
    const where = { path: this.node.nbdSocket };
    await new SocketClient(where, this.judge(), { steps, pieces: 'whole', seed: 0 }).run();
    await this.everybodyLeft();
  }

  /** Ends it in good order; throws when that fails. */
  async close(): Promise<void> {
    clearInterval(this.watch);
    try {
      await this.good.stop();
      await this.everybodyLeft();
      this.check();
      await this.node.stop();
    } finally {
      await this.scope.close();
    }
  }

  async abandon(): Promise<void> {
    clearInterval(this.watch);
    await this.good.stop().catch(() => undefined);
    await this.scope.close();
  }
}

const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(0);

const laneExport = (name: string, size: number): JudgedExport => ({
  name,
  size,
  readOnly: name === READ_ONLY,
  description: '',
  contexts: ['base:allocation'],
  badRanges: [],
  tlsOnly: false,
});

class ServerProcess implements Target {
  readonly name = 'server-process';
  private rig: ServerRig | null = null;
  private summaryText = '';

  async iterate(seed: number, iteration: number): Promise<Failure | null> {
    const dice = new Dice(seed, iteration);
    const scripts = LANES.map((name) => this.script(dice, name));
    let culprit = -1;
    this.rig ??= await ServerRig.start();
    const { rig } = this;
    try {
      if (dice.chance(10)) rig.loiter(dice);
      const clients = scripts.map((script) => {
        return { where: dice.pick(rig.where), script, judge: rig.judge() };
      });
      const ends = await Promise.allSettled(
        clients.map(({ where, script, judge }) => new SocketClient(where, judge, script).run()),
      );
      rig.check();
      for (const [lane, end] of ends.entries()) {
        if (end.status === 'fulfilled') continue;
        culprit = lane;
        throw end.reason;
      }
      await rig.everybodyLeft();
      for (const [lane, { judge }] of clients.entries()) {
        if (judge.isLost) await rig.clean(LANES[lane] ?? '');
      }
      this.note(rig);
      return null;
    } catch (thrown) {
      this.rig = null;
      const log = rig.node.log.slice(-2000);
      await rig.abandon();
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      const text = scripts.flatMap((script, lane) =>
        culprit === -1 || culprit === lane ? [`  ${LANES[lane]}\n${scriptText(script)}`] : [],
      );
      return { error, details: `${text.join('\n')}\n  log: ${log}` };
    }
  }

  summary(): string {
    return this.summaryText;
  }

  async close(): Promise<void> {
    const { rig } = this;
    this.rig = null;
    await rig?.close();
  }

  private note({ good, residentMax }: ServerRig): void {
    this.summaryText =
      `the good client had ${good.requests} answers, the slowest after ` +
      `${good.slowestMs.toFixed(0)} ms; the server held ${mib(residentMax)} MiB at most`;
  }

  private script(dice: Dice, name: string): ClientScript {
    const renamed = RECORDINGS.map((bytes) =>
      Buffer.from(bytes.toString('latin1').replaceAll('disk0', name), 'latin1'),
    );
    const requests = { size: LANE_BYTES, large: dice.chance(5) };
    return clientScript(dice, {
      names: [name],
      name,
      requests,
      recordings: renamed,
      tls: dice.chance(25),
    });
  }
}

export const serverProcess = (): Promise<Target> => Promise.resolve(new ServerProcess());
