/**
 * A client that behaves, beside those that do not: it writes and reads its own export all the time. What it
 * reads must be what it wrote, and no answer may be late.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import * as wire from '../../test/wire/encoder.ts';
import { ByteQueue, takeOptionReply, takeSimpleReply } from '../../test/wire/decoder.ts';
import { Dice } from './dice.ts';
import { demand, Fault } from './judge-facts.ts';

const REGION_BYTES = 2 ** 20;
const REQUEST_BYTES_MAX = 16384;
const PAUSE_MS = 5;

export class GoodClient {
  /** Milliseconds of its slowest request. */
  slowestMs = 0;
  requests = 0;
  private readonly path: string;
  private readonly exportName: string;
  private readonly lateMs: number;
  private readonly dice = new Dice(1, 1);
  private readonly known = Buffer.alloc(REGION_BYTES);
  private readonly heard = new ByteQueue();
  private socket: Socket | null = null;
  private wake: (() => void) | null = null;
  private ended: string | null = null;
  private stopped = false;
  /** To be told when it has paused. */
  private paused: (() => void) | null = null;
  private goOn: () => void = () => undefined;
  private running: Promise<void> = Promise.resolve();
  private failure: Error | null = null;

  /** `path` of a unix socket; `lateMs`: longer than this, an answer is too late. */
  constructor(path: string, exportName: string, lateMs: number) {
    this.path = path;
    this.exportName = exportName;
    this.lateMs = lateMs;
  }

  async start(): Promise<void> {
    const socket = connect({ path: this.path });
    this.socket = socket;
    socket.on('data', (bytes: Buffer) => {
      this.heard.append(Buffer.from(bytes));
      this.wake?.();
    });
    socket.on('error', (error) => this.end(error.message));
    socket.on('close', () => this.end('it was closed'));
    await this.until(() => this.heard.length >= 18);
    this.heard.take(18);
    socket.write(Buffer.concat([wire.clientFlags(), wire.go(this.exportName)]));
    for (let acked = false; !acked;) {
      let reply = takeOptionReply(this.heard);
      while (reply === null) {
        const have = this.heard.length;
        await this.until(() => this.heard.length > have);
        reply = takeOptionReply(this.heard);
      }
      demand(reply.type === 1 || reply.type === 3, 'the good client is refused');
      acked = reply.type === 1;
    }
    this.running = this.run();
  }

  /** Throws what went wrong so far. */
  check(): void {
    if (this.failure !== null) throw this.failure;
  }

  /** Stops after the present request; what its region holds then. It is not written before `resume`. */
  async pause(): Promise<Buffer> {
    await Promise.race([
      new Promise<void>((resolve) => {
        this.paused = resolve;
      }),
      this.running,
    ]);
    this.check();
    return this.known;
  }

  resume(): void {
    this.paused = null;
    this.goOn();
  }

  async stop(): Promise<void> {
    this.stopped = true;
    this.goOn();
    await this.running;
    this.socket?.destroy();
    this.check();
  }

  private async run(): Promise<void> {
    try {
      while (!this.stopped) {
        if (this.paused !== null) {
          this.paused();
          await new Promise<void>((resolve) => {
            this.goOn = resolve;
          });
          continue;
        }
        const began = performance.now();
        await this.work();
        this.slowestMs = Math.max(this.slowestMs, performance.now() - began);
        this.requests++;
        await sleep(PAUSE_MS);
      }
    } catch (thrown) {
      this.failure = thrown instanceof Error ? thrown : new Error(String(thrown));
    }
  }

  private async work(): Promise<void> {
    const { dice, known } = this;
    const length = dice.between(1, REQUEST_BYTES_MAX);
    const at = dice.below(REGION_BYTES - length);
    const cookie = dice.u64();
    const writes = dice.chance(50);
    const range = { cookie, offset: BigInt(at) };
    if (writes) dice.bytes(length).copy(known, at);
    const request = writes
      ? wire.request(wire.WRITE, { ...range, payload: known.subarray(at, at + length) })
      : wire.request(wire.READ, { ...range, length: BigInt(length) });
    this.socket?.write(request);
    const bytes = writes ? 16 : 16 + length;
    await this.until(() => this.heard.length >= bytes);
    const reply = takeSimpleReply(this.heard, () => (writes ? 0 : length));
    demand(reply !== null && reply.cookie === cookie, 'the good client hears another answer');
    demand(reply.error === 0, `the good client hears the error ${reply.error}`);
    const same = writes || reply.data.equals(known.subarray(at, at + length));
    demand(same, `the good client reads other bytes than it wrote, at ${at}`);
  }

  private end(why: string): void {
    this.ended ??= why;
    this.wake?.();
  }

  private async until(there: () => boolean): Promise<void> {
    const deadline = performance.now() + this.lateMs;
    while (!there()) {
      if (this.ended !== null)
        throw new Fault(`the good client lost its connection: ${this.ended}`);
      const left = deadline - performance.now();
      if (left <= 0) throw new Fault(`the good client waits for over ${this.lateMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.wake = (): void => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.wake = null;
    }
  }
}
