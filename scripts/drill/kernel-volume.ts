/**
 * A second volume of a stage that a Linux kernel uses (guest.ts), mirrored over the same link as the first: what happens to the link
 * happens to both. Its requests are recorded, so it is known what it changed.
 */
import { join } from 'node:path';
import { KernelHost } from './guest.ts';
import { expectEqualExports, settled } from './node.ts';
import { run, until } from './process.ts';
import { Recorder } from './recorder.ts';
import { blocksTouched, bytesWritten, readRequestLog, RequestLogWriter } from './request-log.ts';
import { nbdUri } from './sockets.ts';
import { BLOCK_BYTES, MIB, type Stage } from './stage.ts';
import { takeOver } from './takeover.ts';
import { judgeStall } from './targets.ts';

const NAME = 'kernel';
const SIZE_BYTES = 48 * MIB;
const STREAM_MS_MAX = 60_000;
/** The default of `attach`: longer than a synchronous mirror that stalls is waited for. */
const TIMEOUT_S = 10;

export class KernelVolume {
  readonly host: KernelHost;
  private readonly stage: Stage;
  private readonly log: RequestLogWriter;

  private constructor(stage: Stage, host: KernelHost, log: RequestLogWriter) {
    this.stage = stage;
    this.host = host;
    this.log = log;
  }

  /** Returns when the volume is mirrored, streams, and is under load. */
  static async attach(stage: Stage): Promise<KernelVolume> {
    const { round, alpha, beta, link } = stage;
    const size = String(SIZE_BYTES);
    await alpha.command('volume', 'create', NAME, size);
    await beta.command('volume', 'create', NAME, size, '--mirror-of', alpha.name);
    await alpha.command('mirror', 'add', NAME, nbdUri(link.address, NAME), '--mode', round.mode);
    const log = new RequestLogWriter(recordOf(stage));
    round.undo.add('close the record of the kernel', () => log.close());
    const door = join(round.directory, 'kernel.nbd');
    const listen = `unix:${door}`;
    const recorder = await Recorder.start({ listen, target: alpha.nbdAddress, log });
    round.undo.add('close the recorder of the kernel', () => recorder.close());
    const options = { doors: [door], volume: NAME, fio: false, timeoutSeconds: TIMEOUT_S };
    const host = await KernelHost.boot(round, options);
    const attached = new KernelVolume(stage, host, log);
    await attached.waitStream();
    round.note('a Linux kernel has a volume of its own attached: ext4, a ledger and sqlite on it');
    return attached;
  }

  /** A moment in what it wrote. */
  mark(): number {
    return this.log.lastEvent;
  }

  /** Bytes that delta runs sent to its mirror so far. */
  async deltaBytes(): Promise<number> {
    return (await this.stage.alpha.mirror(NAME)).delta_bytes_sent;
  }

  /** Bytes of the blocks that it changed since, each once. */
  changedSince(mark: number): number {
    this.log.commit();
    return blocksTouched(readRequestLog(recordOf(this.stage)), mark, Infinity).size * BLOCK_BYTES;
  }

  /** Bytes that it wrote since, a block as often as it was written. */
  writtenSince(mark: number): number {
    this.log.commit();
    return bytesWritten(readRequestLog(recordOf(this.stage)), mark);
  }

  async waitStream(): Promise<void> {
    await this.wait('to stream', async () => {
      const { state, staged_bytes: staged } = await this.stage.alpha.mirror(NAME);
      return state === 'streaming' && staged < MIB;
    });
  }

  /** One line takes several requests, and the guest its time: it may wait so much longer than when nothing is wrong. */
  judgeStall(fromMs: number, calmMs: number): void {
    const { round } = this.stage;
    const stallMs = this.host.longestWaitMs(fromMs);
    round.note(
      `the kernel waited ${Math.round(stallMs)} ms at most for a synced line, ${Math.round(calmMs)} ms before`,
    );
    round.atLeast('calmStallMs', calmMs);
    judgeStall(round, stallMs, calmMs);
  }

  private async wait(what: string, probe: () => Promise<boolean>): Promise<void> {
    const { signal } = this.stage.round;
    await until({ what: `the kernel's volume ${what}`, timeoutMs: STREAM_MS_MAX, signal }, probe);
  }

  /** It unmounts, and both copies hold what it was told of. */
  async finish(): Promise<void> {
    const { stage, host } = this;
    const { round, alpha, beta } = stage;
    await host.finish();
    await this.wait('to be in step', async () => {
      const { source } = await beta.volume(NAME);
      const shown = source?.applied_epoch === source?.durable_epoch;
      return shown && settled(await alpha.mirror(NAME));
    });
    const image = join(round.directory, 'kernel.raw');
    await run('nbdcopy', [beta.uri(NAME), image]);
    try {
      const { ledgerLines, transactions } = await takeOver(image, round.directory);
      const told = `${ledgerLines} of ${host.ledgerLines} lines, ${transactions} of ${host.transactions} transactions`;
      round.note(`the kernel's file system on beta: fsck clean, ${told}`);
      const whole = ledgerLines >= host.ledgerLines && transactions >= host.transactions;
      round.expect(whole, `the kernel's volume on beta has ${told}`);
      await expectEqualExports([alpha.uri(NAME), beta.uri(NAME)]);
    } catch (thrown) {
      round.violate(`the kernel's volume: ${String(thrown)}`);
    }
  }
}

function recordOf({ round }: Stage): string {
  return join(round.directory, 'kernel-requests');
}
