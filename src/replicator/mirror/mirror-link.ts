/**
 * The contact with one mirror: made, probed, and made again when it is lost.
 *
 * Invariants:
 * - At most one contact at a time; `onDown` follows every `onUp`, and no `onUp` comes after `stop`.
 * - The pause between attempts doubles up to a bound and is reset only by `settled`: a mirror that
 *   accepts connections and then fails every write is not hammered.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../../io/clock.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import { MIRROR_PROBE_MS } from '../../io/limits.ts';
import type { Network, TlsClientContext } from '../../io/network.ts';
import type { Random } from '../../io/random.ts';
import type { Compressor } from '../../workers/compressor.ts';
import type { Contact } from '../contact/contact.ts';
import { retryDelayMs } from '../policy/policy.ts';

export interface LinkSurroundings {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  /** Compresses what links carry; absent: nobody does. */
  readonly compressor?: Compressor | null;
  /** What nbds:// is secured with where the URI does not say; asked for each attempt. Absent: nothing of our own. */
  readonly tls?: () => TlsClientContext | undefined;
}

export class MirrorLink {
  contact: Contact | null = null;
  private running = false;
  private connecting = false;
  /** Counts starts and stops: an attempt that began under an older count is of no use. */
  private era = 0;
  private attempt = 0;
  /** Why this side gave the connection up. */
  private fault: BlockferryError | null = null;
  private retryTimer: Timer | null = null;
  private probeTimer: Timer | null = null;
  private readonly surroundings: LinkSurroundings;
  private readonly connect: () => Promise<Contact>;
  private readonly onUp: (contact: Contact) => void;
  private readonly onDown: (error: BlockferryError) => void;

  constructor(options: {
    surroundings: LinkSurroundings;
    /** Connects once, and checks that the mirror is fit. Throws BlockferryError. */
    connect: () => Promise<Contact>;
    /** The mirror is there and ready. */
    onUp: (contact: Contact) => void;
    /** The connection ended, or an attempt failed; another attempt follows by itself. */
    onDown: (error: BlockferryError) => void;
  }) {
    this.surroundings = options.surroundings;
    this.connect = options.connect;
    this.onUp = options.onUp;
    this.onDown = options.onDown;
  }

  start(): void {
    assert(!this.running, 'started once');
    this.running = true;
    this.era += 1;
    this.attempt = 0;
    this.fault = null;
    this.connectNow();
  }

  /** The mirror is in stream: the next loss begins with a short pause again. */
  settled(): void {
    this.attempt = 0;
  }

  /**
   * Gives up the present connection for a fault of the mirror, and tries again after a pause. `onDown`
   * comes a little later, when nothing of it is in use any more.
   */
  fail(error: BlockferryError): void {
    // A connection that is over already has its own reason, which `onClosed` is about to tell.
    if (this.contact === null || !this.contact.open) return;
    this.fault ??= error;
    this.contact.destroy();
  }

  /** Ends for good: outstanding requests are answered first, within a bound. */
  async stop(): Promise<void> {
    this.running = false;
    this.era += 1;
    this.retryTimer?.cancel();
    this.probeTimer?.cancel();
    const { contact } = this;
    this.contact = null;
    if (contact === null) return;
    contact.onClosed = null;
    await contact.close();
  }

  private connectNow(): void {
    if (!this.running || this.connecting) return;
    this.connecting = true;
    const { era } = this;
    this.connect().then(
      (contact) => this.connected(contact, era),
      (thrown: unknown) => {
        this.connecting = false;
        if (era === this.era) this.down(asBlockferryError(thrown));
        else this.connectNow();
      },
    );
  }

  private connected(contact: Contact, era: number): void {
    this.connecting = false;
    if (era !== this.era) {
      contact.destroy();
      this.connectNow();
      return;
    }
    contact.onClosed = (error) => this.down(this.fault ?? error);
    this.contact = contact;
    void this.readied(contact);
  }

  private async readied(contact: Contact): Promise<void> {
    try {
      await contact.ready();
    } catch (thrown) {
      if (this.contact === contact) this.fail(asBlockferryError(thrown));
      return;
    }
    if (this.contact !== contact || !contact.open) return;
    this.probeLater();
    this.onUp(contact);
  }

  private down(error: BlockferryError): void {
    this.contact = null;
    this.fault = null;
    this.probeTimer?.cancel();
    const delayMs = retryDelayMs(this.attempt, this.surroundings.random.fraction());
    this.attempt += 1;
    this.retryTimer?.cancel();
    this.retryTimer = this.surroundings.clock.after(delayMs, () => this.connectNow());
    this.onDown(error);
  }

  /** An idle mirror is asked now and then, so that a dead one is noticed in bounded time. */
  private probeLater(): void {
    this.probeTimer?.cancel();
    this.probeTimer = this.surroundings.clock.after(MIRROR_PROBE_MS, () => {
      const { contact } = this;
      if (contact === null) return;
      contact.probe();
      this.probeLater();
    });
  }
}

function asBlockferryError(thrown: unknown): BlockferryError {
  if (thrown instanceof BlockferryError) return thrown;
  return new BlockferryError('MIRROR_UNREACHABLE', errorText(thrown), { cause: thrown });
}
