/**
 * Who uses the volume in the drill of the failover, with an ext4, a ledger and a database on it: programs of this machine through
 * nbdfuse, or a Linux kernel with its NBD client, which in sync mode goes on at the promoted mirror with all that mounted.
 */
import { join } from 'node:path';
import { MountedExport } from './filesystem.ts';
import type { Round } from './frame.ts';
import { KERNEL_TIMEOUT_S, KernelHost } from './guest.ts';
import { Load } from './load.ts';
import type { DrilledNode } from './node.ts';
import { run } from './process.ts';
import { Recorder } from './recorder.ts';
import type { RequestLogWriter } from './request-log.ts';
import { nbdUri } from './sockets.ts';
import { takeOver } from './takeover.ts';
import { judgeMove } from './targets.ts';

const LINES = 20;

export interface FailoverHost {
  readonly running: boolean;
  /** What the applications were told is durable. */
  readonly ledgerLines: number;
  readonly transactions: number;
  /** The end of what it said. */
  tail(): string;
  /** Its part in the death of the primary, at the same time. */
  atKill(): Promise<void>;
  /** The primary is dead: what has nothing to wait for is taken down. */
  afterKill(): Promise<void>;
}

interface Parts {
  readonly round: Round;
  readonly recorder: Recorder;
  readonly volume: string;
}

export async function startHost(parts: Parts): Promise<FailoverHost> {
  return parts.round.client === 'kernel'
    ? await KernelFailoverHost.start(parts)
    : await MountedHost.start(parts);
}

class MountedHost implements FailoverHost {
  private readonly filesystem: MountedExport;
  private readonly load: Load;

  private constructor(filesystem: MountedExport, load: Load) {
    this.filesystem = filesystem;
    this.load = load;
  }

  static async start({ round, recorder, volume }: Parts): Promise<MountedHost> {
    const { directory, undo, signal } = round;
    const filesystem = new MountedExport(directory);
    undo.add('detach the filesystem', () => filesystem.detach());
    await filesystem.attach(nbdUri(recorder.address, volume), signal);
    const load = new Load(filesystem.mountPoint, directory);
    undo.add('end the load', () => load.stop());
    round.note('ext4 mounted through nbdfuse; fio, sqlite and the ledger write to it');
    return new MountedHost(filesystem, load);
  }

  get running(): boolean {
    return this.load.running;
  }

  get ledgerLines(): number {
    return this.load.ledgerLines;
  }

  get transactions(): number {
    return this.load.database.committed;
  }

  tail(): string {
    return this.load.tail();
  }

  async atKill(): Promise<void> {
    // It hears of it by its connections.
  }

  async afterKill(): Promise<void> {
    await this.load.stop();
    await this.filesystem.detach();
  }
}

export class KernelFailoverHost implements FailoverHost {
  private readonly round: Round;
  private readonly volume: string;
  private readonly host: KernelHost;
  private killedAt = 0;

  private constructor({ round, volume }: Parts, host: KernelHost) {
    this.round = round;
    this.volume = volume;
    this.host = host;
  }

  static async start(parts: Parts): Promise<KernelFailoverHost> {
    const { round, recorder, volume } = parts;
    const doors = [recorder.address.slice('unix:'.length), laterDoor(round)];
    const host = await KernelHost.boot(round, { doors, volume, fio: true });
    round.note(
      'a Linux kernel has the volume as /dev/nbd0; fio, sqlite and the ledger write to it',
    );
    return new KernelFailoverHost(parts, host);
  }

  get running(): boolean {
    return this.host.running;
  }

  get ledgerLines(): number {
    return this.host.ledgerLines;
  }

  get transactions(): number {
    return this.host.transactions;
  }

  tail(): string {
    return this.host.tail();
  }

  /** A host that has its pages may not go on with an asynchronous mirror, which lacks writes that it was answered: it dies too. */
  async atKill(): Promise<void> {
    this.killedAt = Date.now();
    if (this.round.mode === 'async') await this.host.kill();
  }

  async afterKill(): Promise<void> {
    // In sync mode it waits for a server.
  }

  /** Opens the way to the promoted mirror, once the drill has what it wants to see without later writes. */
  async open(log: RequestLogWriter, target: DrilledNode): Promise<number> {
    const listen = `unix:${laterDoor(this.round)}`;
    const recorder = await Recorder.start({ listen, target: target.nbdAddress, log });
    this.round.undo.add('close the other recorder', () => recorder.close());
    return Date.now() - this.killedAt;
  }

  /** It goes on there, and at the end everything that it was ever told of is there. */
  async goOn(node: DrilledNode, recoveryMs: number): Promise<void> {
    const { round, host } = this;
    await host.progress(LINES);
    const stallMs = host.longestWaitMs(this.killedAt);
    round.note(
      `the kernel goes on at ${node.name} with its file system mounted: it waited ${Math.round(stallMs)} ms, ` +
        `of which the drill kept ${node.name} from it until ${recoveryMs} ms after the kill`,
    );
    judgeMove(round, { stallMs, recoveryMs, resendMs: KERNEL_TIMEOUT_S * 1000 });
    await host.finish();
    const image = join(round.directory, 'went-on.raw');
    await run('nbdcopy', [node.uri(this.volume), image]);
    try {
      const { ledgerLines, transactions } = await takeOver(image, round.directory);
      const told = `ledger 1..${ledgerLines} of ${host.ledgerLines} lines, ${transactions} transactions of ${host.transactions}`;
      round.note(`at its end: fsck clean, ${told}`);
      const whole = ledgerLines >= host.ledgerLines && transactions >= host.transactions;
      round.expect(whole, `synced lines or transactions are missing: ${told}`);
    } catch (thrown) {
      round.violate(`the filesystem that went on is not sound: ${String(thrown)}`);
    }
    await run('rm', ['-f', image]);
  }
}

/** Nobody listens there before the mirror is promoted. */
function laterDoor(round: Round): string {
  return join(round.directory, 'later.nbd');
}
