/**
 * An export of an NBD server as an end of a copy.
 *
 * Invariants:
 * - Only what the server calls zero (base:allocation) is a hole; without its word everything is data.
 * - What an answer tells of allocation is kept, bounded, and asked for once.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import { TRANSFER_EXTENTS_MAX, TRANSFER_REPLY_MS_MAX } from '../../io/limits.ts';
import type { Network } from '../../io/network.ts';
import { NbdClient, type RequestCallback } from '../../nbd/client/client.ts';
import { nameOfErrno, NBD_STATE } from '../../nbd/constants.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import type { DataRun, TransferTarget } from './transfer-ends.ts';

export class NbdEnd implements TransferTarget {
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  /** Holes of it are known. */
  readonly knowsHoles: boolean;
  private readonly client: NbdClient;
  /** Runs in order, the first of them at or before the last question. */
  private runs: DataRun[] = [];
  private runsFrom = 0;
  private lost: BlockferryError | null = null;

  private constructor(client: NbdClient) {
    this.client = client;
    this.name = client.uri.text;
    this.sizeBytes = client.info.sizeBytes;
    this.blockBytes = client.info.minimumBlock;
    this.readOnly = client.info.readOnly;
    this.knowsHoles = client.knowsAllocation;
    client.onClosed = (error) => {
      this.lost = error;
    };
  }

  /** @throws BlockferryError TRANSFER_PEER: it cannot be reached, or says no. PROTOCOL */
  static async open(uri: NbdUri, io: { network: Network; clock: Clock }): Promise<NbdEnd> {
    try {
      const options = { ...io, allocation: true, replyMs: TRANSFER_REPLY_MS_MAX };
      return new NbdEnd(await NbdClient.connect(uri, options));
    } catch (error) {
      if (!(error instanceof BlockferryError) || error.code === 'PROTOCOL') throw error;
      throw new BlockferryError('TRANSFER_PEER', error.message, { cause: error });
    }
  }

  async runAt(offset: number): Promise<DataRun> {
    assert(offset < this.sizeBytes, 'the question is about the export');
    if (!this.knowsHoles) return { end: this.sizeBytes, zero: false };
    if (offset < this.runsFrom) this.runs = [];
    this.runsFrom = offset;
    const known = this.runs.findIndex(({ end }) => end > offset);
    this.runs = known < 0 ? await this.askRuns(offset) : this.runs.slice(known);
    const [run] = this.runs;
    assert(run !== undefined && run.end > offset, 'an answer has an extent');
    return run;
  }

  read(buffer: Buffer, start: number, length: number, offset: number): Promise<void> {
    return this.call('reading', offset, (ended) =>
      this.client.read(buffer, start, length, offset, ended),
    );
  }

  write(buffer: Buffer, start: number, length: number, offset: number): Promise<void> {
    return this.call('writing to', offset, (ended) =>
      this.client.write(buffer, start, length, offset, ended),
    );
  }

  zero(offset: number, length: number): Promise<void> {
    return this.call('zeroing', offset, (ended) =>
      this.client.zero(offset, length, { noHole: false }, ended),
    );
  }

  flush(): Promise<void> {
    return this.call('flushing', 0, (ended) => this.client.flush(ended));
  }

  close(): Promise<void> {
    return this.client.close();
  }

  private async askRuns(offset: number): Promise<DataRun[]> {
    const runs: DataRun[] = [];
    let at = offset;
    const report = (length: number, flags: number): void => {
      if (runs.length === TRANSFER_EXTENTS_MAX || at >= this.sizeBytes) return;
      at += length;
      const run = { end: Math.min(at, this.sizeBytes), zero: (flags & NBD_STATE.ZERO) !== 0 };
      if (runs.at(-1)?.zero === run.zero) runs.pop();
      runs.push(run);
    };
    await this.call('asking for the holes of', offset, (ended) =>
      this.client.allocation(offset, this.sizeBytes - offset, report, ended),
    );
    return runs;
  }

  private async call(
    what: string,
    offset: number,
    begin: (ended: RequestCallback) => void,
  ): Promise<void> {
    const errno = await new Promise<number>((resolve) => begin(resolve));
    if (errno === 0) return;
    // Requests are told before the loss is: give it its turn.
    await Promise.resolve();
    if (!this.client.open && this.lost !== null) {
      throw new BlockferryError('TRANSFER_FAILED', this.lost.message, { cause: this.lost });
    }
    const message = `${what} ${this.name} failed at ${offset}: ${nameOfErrno(errno)}`;
    throw new BlockferryError('TRANSFER_FAILED', message);
  }
}
