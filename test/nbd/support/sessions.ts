/**
 * Transmissions without a handshake: whatever a client and a server may have agreed on, at once. Clock and
 * network are those of the fake world; nothing happens but in `settle`.
 */
import type { ReplyForm, SelectedContext } from '../../../src/nbd/handshake/negotiated.ts';
import { NBD_LIMITS_DEFAULT, type NbdLimits } from '../../../src/nbd/server/server-limits.ts';
import { ServerShared } from '../../../src/nbd/server/server-shared.ts';
import { Transmission } from '../../../src/nbd/transmission/transmission.ts';
import { FakeClock, FakeConnection } from './fake-world.ts';
import { MemoryDevice } from './memory-device.ts';
import { type Answer, answersOf, bytesRead } from './replies.ts';
import { ALL_FLAGS, CMD, extendedRequest, request, type RequestFields } from './wire.ts';

export interface Agreement {
  readonly form: ReplyForm;
  /** ALL_FLAGS unless given. */
  readonly flags?: number;
  readonly contexts?: readonly SelectedContext[];
}

export type AnyRequestFields = Omit<RequestFields, 'length'> & {
  readonly length?: number | bigint;
};

/** One client in transmission. */
export class Session {
  readonly connection = new FakeConnection();
  readonly form: ReplyForm;
  /** Why the server ended it. */
  reason = '';
  fault = false;
  gone = false;
  private readonly sessions: Sessions;
  private readonly transmission: Transmission;

  constructor(sessions: Sessions, agreement: Agreement) {
    this.sessions = sessions;
    this.form = agreement.form;
    const { connection } = this;
    this.transmission = new Transmission({
      connection,
      negotiated: {
        exportName: 'disk',
        device: sessions.device,
        flags: agreement.flags ?? ALL_FLAGS,
        form: agreement.form,
        contexts: agreement.contexts ?? [],
      },
      shared: sessions.shared,
      finished: (reason, fault) => {
        this.reason = reason;
        this.fault = fault;
        connection.end();
      },
      gone: () => (this.gone = true),
    });
    connection.start({
      received: (buffer, length) => this.transmission.received(buffer, 0, length),
      drained: () => {},
      ended: () => this.transmission.ended(),
      closed: () => this.transmission.closed(),
    });
  }

  stop(): void {
    this.transmission.stop();
  }

  /** The bytes of a request in the form of this client. */
  request(command: number, fields: AnyRequestFields = {}): Buffer {
    if (this.form !== 'extended') return request(command, fields as RequestFields);
    const { length } = fields;
    const payload = fields.payload ?? (command === CMD.write ? Buffer.alloc(0) : undefined);
    const rest = payload === undefined ? fields : { ...fields, payload };
    return extendedRequest(command, length === undefined ? rest : { ...rest, length });
  }

  /** Sends a request, and a FLUSH behind it to show that both are in step; answers what came for the first. */
  ask(command: number, fields: AnyRequestFields = {}): Answer {
    const { length = 0 } = fields;
    this.connection.write(
      this.request(command, { cookie: 1, ...fields }),
      this.request(CMD.flush, { cookie: 2 }),
    );
    const readBytes = (cookie: bigint): number =>
      command === CMD.read && cookie === 1n ? Number(length) : 0;
    const answers = this.take(readBytes);
    const [first, second] = answers;
    if (first?.cookie !== 1n || second?.cookie !== 2n || answers.length !== 2) {
      throw new Error(`out of step: ${answers.map(({ cookie }) => cookie).join(' ')}`);
    }
    if (second.error !== 0 || !first.done) throw new Error('no whole answer, or FLUSH failed');
    return first;
  }

  /** The bytes of a READ. */
  read(offset: number, length: number, flags = 0): Buffer {
    return bytesRead(this.ask(CMD.read, { offset, length, flags }), offset, length);
  }

  /** Settles; all that came since the last call, which must be whole. */
  take(readBytes: (cookie: bigint) => number = () => 0): Answer[] {
    this.sessions.settle();
    const { answers, rest } = answersOf(this.connection.take(), this.form, readBytes);
    if (rest.length > 0) throw new Error(`${rest.length} bytes of a cut reply`);
    return answers;
  }
}

export class Sessions {
  readonly clock = new FakeClock();
  readonly device: MemoryDevice;
  readonly shared: ServerShared;
  readonly all: Session[] = [];

  constructor(sizeBytes: number, limits: Partial<NbdLimits> = {}) {
    this.device = new MemoryDevice(sizeBytes);
    this.shared = new ServerShared(this.clock, { ...NBD_LIMITS_DEFAULT, ...limits });
  }

  open(agreement: Agreement): Session {
    const session = new Session(this, agreement);
    this.all.push(session);
    return session;
  }

  /** With `base:allocation` as context 1, and the device's others from 2 on. */
  openWithContexts(form: ReplyForm, flags = ALL_FLAGS): Session {
    const contexts = this.device.contexts().map((context, index) => ({ id: index + 1, context }));
    return this.open({ form, flags, contexts });
  }

  /** Runs until nothing happens any more. */
  settle(): void {
    for (let turns = 0; turns < 1_000_000; turns++) {
      let busy = this.clock.runSoon();
      for (const { connection } of this.all) busy = connection.step() || busy;
      if (!busy) return;
    }
    throw new Error('never settles');
  }

  /** Memory and requests that are out of their pools; both 0 when all clients are gone. */
  get lent(): { readonly bytes: number; readonly requests: number } {
    return { bytes: this.shared.buffers.lentBytes, requests: this.shared.requests.lent };
  }
}
