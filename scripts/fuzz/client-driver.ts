/**
 * Uses an NBD client as the replicator does, and keeps book: every callback comes once, and after success the
 * server's disk holds what was written, or the buffer what the disk held.
 */
import type { NbdClient } from '../../src/nbd/client/client.ts';
import {
  encodeWriteHeader,
  type PreparedBatch,
  WRITE_HEADER_BYTES,
} from '../../src/nbd/client/client-prepared.ts';
import type { Content } from './content.ts';
import type { Dice } from './dice.ts';
import { demand } from './judge-facts.ts';

const SLOT_BYTES = 8192;
const LEGAL_ERRNOS: ReadonlySet<number> = new Set([0, 1, 5, 12, 22, 28, 75, 95, 108]);

export class ClientDriver {
  private readonly client: NbdClient;
  private readonly disk: Content;
  private readonly dice: Dice;
  /** What the server says was done, was done. */
  private readonly honest: boolean;
  private readonly pending = new Set<string>();
  private asked = 0;
  private slot = 0;
  private batches = 0;
  private batchBusy = false;
  private endings = 0;

  constructor(client: NbdClient, disk: Content, dice: Dice, honest: boolean) {
    this.honest = honest;
    this.client = client;
    this.disk = disk;
    this.dice = dice;
    client.onClosed = () => this.endings++;
    // Unwritten places are not all alike.
    for (let at = 0; at < 64; at++) disk.write(at * SLOT_BYTES, Buffer.alloc(64, at + 1));
  }

  /** Nothing that was asked is without an answer. */
  get isIdle(): boolean {
    return this.pending.size === 0;
  }

  /** A few requests, each on a place of its own. */
  work(): void {
    const { client, dice } = this;
    client.cork();
    for (let count = dice.between(1, 8); count > 0 && client.open; count--) {
      dice.weighted([
        [4, () => this.write()],
        [3, () => this.read()],
        [2, () => this.zero()],
        [2, () => client.flush(this.expect('flush', () => true))],
        [2, () => this.batch()],
      ])();
    }
    client.uncork();
  }

  /** At the end. */
  check(mayEnd: boolean): void {
    demand(this.pending.size === 0, `unanswered: ${[...this.pending].join(', ')}`);
    demand(this.endings <= 1, 'the end is told twice');
    demand(mayEnd || this.endings === 0, 'the end is told where there was none');
  }

  private expect(what: string, done: () => boolean): (errno: number) => void {
    const name = `${what} ${this.asked++}`;
    this.pending.add(name);
    return (errno) => {
      demand(this.pending.delete(name), `${name} is answered twice`);
      demand(LEGAL_ERRNOS.has(errno), `${name} is answered with ${errno}`);
      if (errno === 0 && this.honest) demand(done(), `${name} is called done, and is not`);
    };
  }

  /** A place that no other request of this run uses; null when the export is too small. */
  private place(): { readonly offset: number; readonly length: number } | null {
    const { minimumBlock, sizeBytes } = this.client.info;
    const unit = Math.max(minimumBlock, 512);
    if (unit > SLOT_BYTES) return null;
    const offset = this.slot * SLOT_BYTES;
    const length = Math.max(unit, Math.floor(this.dice.between(1, SLOT_BYTES) / unit) * unit);
    if (offset + length > sizeBytes) return null;
    this.slot++;
    return { offset, length };
  }

  private write(): void {
    const place = this.place();
    if (place === null) return;
    const { offset, length } = place;
    const bytes = this.dice.bytes(length);
    const done = this.expect('write', () => this.disk.read(offset, length).bytes.equals(bytes));
    this.client.write(bytes, 0, length, offset, done);
  }

  private read(): void {
    const place = this.place();
    if (place === null) return;
    const { offset, length } = place;
    const buffer = Buffer.alloc(length + 16, 0xee);
    const done = this.expect('read', () => {
      const edges = [...buffer.subarray(0, 8), ...buffer.subarray(8 + length)];
      demand(
        edges.every((byte) => byte === 0xee),
        'a read wrote past its place',
      );
      return this.disk.read(offset, length).bytes.equals(buffer.subarray(8, 8 + length));
    });
    this.client.read(buffer, 8, length, offset, done);
  }

  private zero(): void {
    const place = this.place();
    if (place === null) return;
    const { offset, length } = place;
    const done = this.expect('zero', () => this.disk.firstNonZero(offset, length) === null);
    this.client.zero(offset, length, { noHole: this.dice.chance(50) }, done);
  }

  private batch(): void {
    if (this.batchBusy || this.client.info.readOnly) return;
    const places = Array.from({ length: this.dice.between(1, 6) }, () => this.place());
    const spans = places.filter((place) => place !== null);
    if (spans.length === 0) return;
    const id = this.batches++;
    const chunks: Buffer[] = [];
    const answers = spans.map(({ offset, length }, index) => {
      const chunk = Buffer.alloc(WRITE_HEADER_BYTES + length);
      encodeWriteHeader(chunk, 0, { offset, length, batch: id, index });
      const bytes = this.dice.bytes(length);
      bytes.copy(chunk, WRITE_HEADER_BYTES);
      chunks.push(chunk);
      return { told: false, offset, bytes };
    });
    this.batchBusy = true;
    const batch: PreparedBatch = {
      id,
      count: spans.length,
      replied: (index, errno) => {
        const answer = answers[index];
        demand(answer !== undefined && !answer.told, `index ${index} of a batch is told twice`);
        answer.told = true;
        const { offset, bytes } = answer;
        const same = this.disk.read(offset, bytes.length).bytes.equals(bytes);
        demand(
          errno !== 0 || same || !this.honest,
          'a write of a batch is called done, and is not',
        );
      },
      done: () => {
        demand(
          answers.every(({ told }) => told),
          'a batch is done before its requests',
        );
        this.batchBusy = false;
      },
    };
    this.client.sendPrepared(batch, chunks);
  }
}
