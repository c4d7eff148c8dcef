/**
 * The connection to one mirror: made, checked, probed, and made again when it is lost.
 *
 * Invariants:
 * - At most one connection at a time; `onDown` follows every `onUp`, and no `onUp` comes after `stop`.
 * - The pause between attempts doubles up to a bound and is reset only by `settled`: a mirror that
 *   accepts connections and then fails every write is not hammered.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../io/clock.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import { MIRROR_CONNECT_MS_MAX, MIRROR_PROBE_MS, MIRROR_REPLY_MS_MAX } from '../io/limits.ts';
import type { Network } from '../io/network.ts';
import type { Random } from '../io/random.ts';
import { NbdClient } from '../nbd/client.ts';
import { nameOfErrno } from '../nbd/constants.ts';
import type { NbdUri } from '../nbd/uri.ts';
import { ENTRY_BYTES_MAX } from './epoch.ts';
import { retryDelayMs } from './policy.ts';

export interface LinkSurroundings {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
}

const BLOCK_SIZE_MAX = 4096;

/** Connects once and checks that the export can be a mirror of `sizeBytes`. Throws BlockferryError. */
export async function connectMirror(
  uri: NbdUri,
  sizeBytes: number,
  { clock, network }: LinkSurroundings,
): Promise<NbdClient> {
  const client = await NbdClient.connect(uri, {
    network,
    clock,
    connectMs: MIRROR_CONNECT_MS_MAX,
    replyMs: MIRROR_REPLY_MS_MAX,
  });
  const fault = unfit(uri, client, sizeBytes);
  if (fault === null) return client;
  client.destroy();
  throw fault;
}

function unfit(uri: NbdUri, client: NbdClient, sizeBytes: number): BlockferryError | null {
  const { info } = client;
  if (info.readOnly) {
    return new BlockferryError('MIRROR_READ_ONLY', `mirror ${uri.text} is read-only`);
  }
  if (info.sizeBytes < sizeBytes) {
    return new BlockferryError(
      'MIRROR_TOO_SMALL',
      `mirror ${uri.text} has ${info.sizeBytes} bytes, the volume has ${sizeBytes}`,
    );
  }
  if (info.minimumBlock > BLOCK_SIZE_MAX || info.maximumPayload < ENTRY_BYTES_MAX) {
    return new BlockferryError(
      'MIRROR_REFUSED',
      `mirror ${uri.text} wants blocks of ${info.minimumBlock} to ${info.maximumPayload} bytes, ` +
        `${BLOCK_SIZE_MAX} to ${ENTRY_BYTES_MAX} are needed`,
    );
  }
  return null;
}

export class MirrorLink {
  client: NbdClient | null = null;
  private running = false;
  private connecting = false;
  /** Counts starts and stops: an attempt that began under an older count is of no use. */
  private era = 0;
  private attempt = 0;
  /** Why this side gave the connection up. */
  private fault: BlockferryError | null = null;
  private retryTimer: Timer | null = null;
  private probeTimer: Timer | null = null;
  private readonly uri: NbdUri;
  private readonly surroundings: LinkSurroundings;
  private readonly sizeBytes: () => number;
  private readonly onUp: (client: NbdClient) => void;
  private readonly onDown: (error: BlockferryError) => void;

  constructor(options: {
    uri: NbdUri;
    surroundings: LinkSurroundings;
    sizeBytes: () => number;
    /** The mirror is there and fit. */
    onUp: (client: NbdClient) => void;
    /** The connection ended, or an attempt failed; another attempt follows by itself. */
    onDown: (error: BlockferryError) => void;
  }) {
    this.uri = options.uri;
    this.surroundings = options.surroundings;
    this.sizeBytes = options.sizeBytes;
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
    if (this.client === null || !this.client.open) return;
    this.fault ??= error;
    this.client.destroy();
  }

  /** Ends for good: outstanding requests are answered first, within a bound. */
  async stop(): Promise<void> {
    this.running = false;
    this.era += 1;
    this.retryTimer?.cancel();
    this.probeTimer?.cancel();
    const { client } = this;
    this.client = null;
    if (client === null) return;
    client.onClosed = null;
    await client.close();
  }

  private connectNow(): void {
    if (!this.running || this.connecting) return;
    this.connecting = true;
    const { era } = this;
    connectMirror(this.uri, this.sizeBytes(), this.surroundings).then(
      (client) => this.connected(client, era),
      (thrown: unknown) => {
        this.connecting = false;
        if (era === this.era) this.down(asBlockferryError(thrown));
        else this.connectNow();
      },
    );
  }

  private connected(client: NbdClient, era: number): void {
    this.connecting = false;
    if (era !== this.era) {
      client.destroy();
      this.connectNow();
      return;
    }
    // A connection that was lost may have left writes in the mirror's receive buffer. This flush, and
    // the pause before the attempt, give the mirror time to deal with them before new ones come.
    client.onClosed = (error) => this.down(this.fault ?? error);
    this.client = client;
    client.flush((errno) => {
      if (this.client !== client || !client.open) return;
      if (errno !== 0) {
        const message = `mirror ${this.uri.text} failed a flush (${nameOfErrno(errno)})`;
        this.fail(new BlockferryError('MIRROR_REFUSED', message));
        return;
      }
      this.probeLater();
      this.onUp(client);
    });
  }

  private down(error: BlockferryError): void {
    this.client = null;
    this.fault = null;
    this.probeTimer?.cancel();
    const delayMs = retryDelayMs(this.attempt, this.surroundings.random.fraction());
    this.attempt += 1;
    this.retryTimer?.cancel();
    this.retryTimer = this.surroundings.clock.after(delayMs, () => this.connectNow());
    this.onDown(error);
  }

  /** An idle link is asked for a flush now and then, so that a dead mirror is noticed in bounded time. */
  private probeLater(): void {
    this.probeTimer?.cancel();
    this.probeTimer = this.surroundings.clock.after(MIRROR_PROBE_MS, () => {
      const { client } = this;
      if (client === null) return;
      if (client.inFlight === 0) client.flush(() => {});
      this.probeLater();
    });
  }
}

function asBlockferryError(thrown: unknown): BlockferryError {
  if (thrown instanceof BlockferryError) return thrown;
  return new BlockferryError('MIRROR_UNREACHABLE', errorText(thrown), { cause: thrown });
}
