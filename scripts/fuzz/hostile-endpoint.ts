/** A hostile mirror on a unix socket: one evil for each connection in turn, and then none any more. */
import { createServer, type Server, type Socket } from 'node:net';
import type { Content } from './content.ts';
import type { Dice } from './dice.ts';
import type { EvilPlan } from './evil-plans.ts';
import { HostileMirror } from './hostile-mirror.ts';

const HONEST: EvilPlan = { evil: 'none', at: 0 };

export class HostileEndpoint {
  readonly path: string;
  /** When each connection came, and when it ended (0 while it lives), in milliseconds. */
  readonly visits: { readonly came: number; left: number }[] = [];
  /** What the client did that no client may. */
  failure: Error | null = null;
  private firstOfMirror = Infinity;
  private readonly disk: Content;
  private readonly size: number;
  private readonly plans: readonly EvilPlan[];
  private readonly dice: Dice;
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  private readonly timers = new Set<NodeJS.Timeout>();

  constructor(path: string, disk: Content, size: number, plans: readonly EvilPlan[], dice: Dice) {
    this.path = path;
    this.disk = disk;
    this.size = size;
    this.plans = plans;
    this.dice = dice;
    this.server = createServer({ allowHalfOpen: true }, (socket) => this.accept(socket));
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(this.path, resolve);
    });
  }

  /** Its evils are over: what connects now is served. */
  get isHonest(): boolean {
    return this.visits.length > this.plans.length;
  }

  /** Milliseconds since the last connection came. */
  get restedMs(): number {
    const last = this.visits.at(-1);
    return last === undefined ? 0 : performance.now() - last.came;
  }

  async close(): Promise<void> {
    for (const timer of this.timers) clearTimeout(timer);
    for (const socket of this.sockets) socket.destroy();
    await new Promise<void>((resolve) => this.server.close(() => resolve()));
  }

  /** From now on it is a mirror; visits before were those of an operator who tried to add it. */
  attached(): void {
    this.firstOfMirror = this.visits.length;
  }

  /** The shortest pause between the end of a connection and the next, in milliseconds. */
  get shortestPauseMs(): number {
    let shortest = Infinity;
    const { visits, firstOfMirror } = this;
    for (let index = firstOfMirror + 1; index < visits.length; index++) {
      const [before, after] = [visits[index - 1], visits[index]];
      if (before === undefined || after === undefined || before.left === 0) continue;
      shortest = Math.min(shortest, after.came - before.left);
    }
    return shortest;
  }

  private accept(socket: Socket): void {
    const plan = this.plans[this.visits.length] ?? HONEST;
    const visit = { came: performance.now(), left: 0 };
    this.visits.push(visit);
    this.sockets.add(socket);
    const leave = (): void => {
      if (visit.left === 0) visit.left = performance.now();
    };
    const mirror = new HostileMirror(this.disk, this.size, plan, this.dice, {
      send: (bytes) => void (socket.destroyed || socket.write(bytes)),
      close: () => {
        leave();
        socket.end();
      },
      reset: () => {
        leave();
        socket.destroy();
      },
      after: (ms, act) => this.later(ms, () => socket.destroyed || act()),
    });
    socket.on('data', (bytes: Buffer) => this.guard(() => mirror.received(bytes)));
    socket.on('end', () => socket.end());
    socket.on('error', () => undefined);
    socket.on('close', () => {
      leave();
      this.sockets.delete(socket);
    });
    this.guard(() => mirror.opened());
  }

  private later(ms: number, act: () => void): void {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      this.guard(act);
    }, ms);
    this.timers.add(timer);
  }

  private guard(act: () => void): void {
    try {
      act();
    } catch (thrown) {
      this.failure ??= thrown instanceof Error ? thrown : new Error(String(thrown));
    }
  }
}
