/** Plays the script of a client through a real socket, with a judge listening. */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import * as wire from '../../test/wire/encoder.ts';
import { Dice } from './dice.ts';
import { demand, Fault } from './judge-facts.ts';
import type { Judge } from './judge.ts';
import { type ClientScript, piecesOf, type Step } from './steps.ts';

export type Where = { readonly path: string } | { readonly host: string; readonly port: number };

/** How long an answer, or the end of a connection, may take on a busy machine. */
const ANSWER_MS_MAX = 20_000;
const STALL_MS_MAX = 300;
const FILL_BYTES_MAX = 2 ** 20;
const PROBE_COOKIE = 0x70726f62655f5f5fn;

export class SocketClient {
  private readonly where: Where;
  private readonly judge: Judge;
  private readonly dice: Dice;
  private readonly script: ClientScript;
  private readonly socket: Socket;
  private secure: TLSSocket | null = null;
  private over = false;
  private sending = true;
  private failure: Error | null = null;
  /** Called at anything that may end a wait. */
  private wake: (() => void) | null = null;

  constructor(where: Where, judge: Judge, script: ClientScript) {
    this.where = where;
    this.judge = judge;
    this.script = script;
    this.dice = new Dice(script.seed, 0);
    this.socket = connect({ ...where, noDelay: true, allowHalfOpen: false });
    this.listen(this.socket);
    this.socket.on('close', () => this.closed());
  }

  /** Throws a Fault when the server does wrong. */
  async run(): Promise<void> {
    try {
      await this.awaitThat('the greeting', () => this.judge.phase !== 'greeting');
      for (const step of this.script.steps) {
        if (this.over) break;
        await this.play(step);
      }
      await this.finish();
    } finally {
      this.socket.destroy();
    }
    if (this.failure !== null) throw this.failure;
  }

  private listen(stream: Socket | TLSSocket): void {
    stream.on('data', (bytes: Buffer) => this.guard(() => this.judge.heard(Buffer.from(bytes))));
    // A reset is an end like any other; what it means is the judge's affair.
    stream.on('error', () => this.closed());
  }

  private closed(): void {
    if (this.over) return;
    this.over = true;
    this.guard(() => this.judge.closed());
  }

  private guard(act: () => void): void {
    try {
      act();
    } catch (thrown) {
      this.failure ??= thrown instanceof Error ? thrown : new Error(String(thrown));
      this.socket.destroy();
      this.over = true;
    }
    this.wake?.();
  }

  private async play(step: Step): Promise<void> {
    const { judge, socket } = this;
    switch (step.do) {
      case 'send':
        return await this.send(step.bytes);
      case 'settle':
        return await this.settle();
      case 'stall':
        socket.pause();
        await sleep(Math.min(step.ms, STALL_MS_MAX));
        if (step.ms <= STALL_MS_MAX) socket.resume();
        return undefined;
      case 'wait':
        await sleep(Math.min(step.ms, STALL_MS_MAX));
        return undefined;
      case 'half-close':
        this.sending = false;
        judge.left();
        (this.secure ?? socket).end();
        return undefined;
      case 'reset':
        judge.left();
        // Unix sockets know no reset; closing with answers unread comes close.
        if ('path' in this.where || this.secure !== null) socket.destroy();
        else socket.resetAndDestroy();
        this.over = true;
        this.guard(() => judge.closed());
        return undefined;
      case 'tls':
        return await this.startTls();
    }
  }

  private async send(bytes: Buffer): Promise<void> {
    if (!this.sending || this.over) return;
    this.guard(() => this.judge.sent(bytes));
    const { pieces } = this.script;
    const stream = this.secure ?? this.socket;
    for (const piece of piecesOf(bytes, pieces, (end) => this.dice.below(end))) {
      if (this.over) return;
      stream.write(piece);
      // A turn of the loop between two pieces makes segments of them, more or less.
      if (pieces !== 'whole') await new Promise((resolve) => setImmediate(resolve));
    }
  }

  private async settle(): Promise<void> {
    const { judge, socket } = this;
    socket.resume();
    await this.awaitThat('the answers', () => judge.over === '' && judge.unanswered === null);
    if (this.over) return;
    if (judge.over === '') judge.quiet();
  }

  /** Until `there`, or the end of the connection; that, if the server has to end it. */
  private async awaitThat(what: string, there: () => boolean): Promise<void> {
    const { judge } = this;
    const deadline = performance.now() + ANSWER_MS_MAX;
    while (!this.over && !there()) {
      const left = deadline - performance.now();
      if (left <= 0) {
        const text = judge.unanswered ?? (judge.over || what);
        throw new Fault(`within ${ANSWER_MS_MAX} ms nothing came of: ${text}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, 1000));
        this.wake = (): void => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.wake = null;
    }
    if (this.failure !== null) throw this.failure;
  }

  private async startTls(): Promise<void> {
    const { judge, socket } = this;
    await this.awaitThat(
      'the answer to STARTTLS',
      () => judge.phase !== 'options' || judge.unanswered === null,
    );
    if (judge.phase !== 'tls' || this.over || !this.sending) return;
    socket.removeAllListeners('data');
    const secure = connectTls({ socket, rejectUnauthorized: false });
    this.secure = secure;
    let done = false;
    secure.once('secureConnect', () => {
      done = true;
      this.guard(() => judge.secured());
    });
    this.listen(secure);
    await this.awaitThat('the handshake of TLS', () => done);
  }

  /** In step to the end, or ended: whichever it is, it must become clear. */
  private async finish(): Promise<void> {
    const { judge, socket } = this;
    socket.resume();
    if (this.sending) await this.inStep();
    judge.left();
    (this.secure ?? socket).end();
    if (this.over) return;
    await this.awaitThat('the end of the connection', () => false);
  }

  private async inStep(): Promise<void> {
    const { judge } = this;
    if (judge.phase === 'tls') return;
    await this.settle();
    while (judge.missing > 0 && judge.missing <= FILL_BYTES_MAX && !this.over) {
      await this.send(Buffer.alloc(judge.missing));
      await this.settle();
    }
    if (judge.missing > 0 || this.over || judge.over !== '') return;
    await this.probe();
  }

  private async probe(): Promise<void> {
    const { judge } = this;
    if (judge.session === null) await this.send(wire.option(0x7fff));
    else {
      const make = judge.session.form === 'extended' ? wire.extendedRequest : wire.request;
      await this.send(make(wire.FLUSH, { cookie: PROBE_COOKIE }));
      await this.send(make(wire.READ, { cookie: PROBE_COOKIE + 1n, length: 1n }));
    }
    await this.settle();
    demand(
      this.over || judge.over !== '' || judge.unanswered === null,
      'does not answer the probe',
    );
  }
}
