/**
 * A mirror that is another blockferry node: delta runs arrive there as a whole, epochs in a pipeline.
 *
 * Invariants:
 * - One delta run at a time, or the stream: what arrives belongs to the one that is there, and ends the link when it belongs
 *   to none.
 * - `onClosed` comes once, when the link needs no buffer any more.
 */
import { BlockferryError } from '../../io/errors.ts';
import type { EventKind } from '../event-kinds.ts';
import type { Contact, RunHooks, Sender, SenderHooks, Transfer } from './contact.ts';
import { FrameKind } from '../link/link-types.ts';
import type { FrameHeader, Link, LinkHandler, ReceivedPayload } from '../link/link-types.ts';
import { hasFeature } from '../link/link-version.ts';
import type { ControlMessage, Welcome } from '../link/messages.ts';
import { MIRROR_REPLY_MS_MAX } from '../../io/limits.ts';
import { dropForks } from '../failover/fork.ts';
import type { MirrorBlocks } from '../mirror/mirror-blocks.ts';
import type { MirrorHost } from '../mirror/mirror-host.ts';
import { PeerSender } from './peer-sender.ts';
import { PeerTransfer } from './peer-transfer.ts';
import { markSince, ToldBlocks, type MayDiffer, type Rejoin } from '../failover/rejoin.ts';
import type { SendLimit } from '../pace/send-limit.ts';

/** Whoever waits for answers of the mirror to what it sent. */
export interface PeerTalk {
  control(message: ControlMessage): void;
  frame(header: FrameHeader, payload: ReceivedPayload | null): void;
  /** The link takes more. */
  drained(): void;
  /** No answers come any more. */
  lost(): void;
}

export interface PeerContactOptions {
  readonly link: Link;
  readonly welcome: Welcome;
  readonly host: MirrorHost;
  readonly blocks: MirrorBlocks;
  readonly mirrorId: number;
  /** What the mirror holds is of no use: everything is sent. */
  readonly full: boolean;
  /** Null: it took no writes of its own. */
  readonly rejoin: Rejoin | null;
  readonly limit: SendLimit;
  /** The mirror holds this epoch, durably. */
  readonly arrived: (epoch: number) => void;
  /** Something about its snapshots. */
  readonly note: (kind: EventKind, message: string) => void;
}

export class PeerContact implements Contact, LinkHandler {
  readonly kind = 'blockferry';
  readonly alwaysConsistent = true;
  readonly link: Link;
  readonly welcome: Welcome;
  readonly host: MirrorHost;
  readonly blocks: MirrorBlocks;
  readonly mirrorId: number;
  /** Until the first run of the link is committed: later ones bring what changed, also those that follow a stream. */
  full: boolean;
  readonly rejoin: Rejoin | null;
  readonly limit: SendLimit;
  readonly arrived: (epoch: number) => void;
  readonly note: (kind: EventKind, message: string) => void;
  /** What the mirror does not let this node do, as far as it told. */
  refuses: readonly string[] = [];
  private talk: PeerTalk | null = null;
  /** Somebody asked who does not wait any more. */
  private answersLate = false;
  private peerSender: PeerSender | null = null;
  private runs = 0;
  private over: BlockferryError | null = null;
  private listener: ((error: BlockferryError) => void) | null = null;
  private wasTold = false;
  /** What the mirror changed, while it tells; null: nothing is to be told. */
  private told: ToldBlocks | null;
  private whole: { resolve: () => void; reject: (error: BlockferryError) => void } | null = null;
  private ended: (() => void) | null = null;

  constructor(options: PeerContactOptions) {
    this.link = options.link;
    this.welcome = options.welcome;
    this.host = options.host;
    this.blocks = options.blocks;
    this.mirrorId = options.mirrorId;
    this.full = options.full;
    this.rejoin = options.rejoin;
    this.told =
      options.rejoin?.tells === true ? new ToldBlocks(this.blocks.dirty.blockCount) : null;
    this.limit = options.limit;
    this.arrived = options.arrived;
    this.note = options.note;
    this.link.start(this);
  }

  get takesSnapshots(): boolean {
    return hasFeature(this.welcome, 'snapshots');
  }

  get comparesGroups(): boolean {
    return hasFeature(this.welcome, 'groups');
  }

  get position(): number | null {
    return this.welcome.position?.epoch ?? null;
  }

  get open(): boolean {
    return this.link.open;
  }

  get onClosed(): ((error: BlockferryError) => void) | null {
    return this.listener;
  }

  set onClosed(listener: ((error: BlockferryError) => void) | null) {
    this.listener = listener;
    if (this.over !== null) this.host.surroundings.clock.soon(() => this.tell());
  }

  /** The mirror answered the handshake, and nothing of an older link is left on its way there. */
  async ready(): Promise<void> {
    if (this.told === null) return;
    const timer = this.host.surroundings.clock.after(MIRROR_REPLY_MS_MAX, () => this.destroy());
    try {
      await new Promise<void>((resolve, reject) => {
        this.whole = { resolve, reject };
        if (this.over !== null) reject(this.over);
      });
    } finally {
      this.whole = null;
      timer.cancel();
    }
  }

  /** All at once: until the mirror told everything, the marks say more than they have to. */
  private takeTold(told: ToldBlocks, message: MayDiffer): void {
    try {
      if (!told.take(message)) return;
    } catch (thrown) {
      if (!(thrown instanceof BlockferryError)) throw thrown;
      return this.link.destroy(thrown);
    }
    const { blocks, host, rejoin } = this;
    const { since = null } = rejoin ?? {};
    if (since !== null && !markSince(host.volume, blocks, since)) blocks.suspect.addAll();
    const here = blocks.dirtyBytes + blocks.suspectBytes;
    told.addTo(blocks);
    this.told = null;
    const both = blocks.dirtyBytes + blocks.suspectBytes;
    const changed = `${here} bytes were changed here since they parted, ${both} on both sides together`;
    this.note('mirror-rejoins', changed);
    this.whole?.resolve();
  }

  /** Heartbeats do that. */
  probe(): void {}

  transfer(hooks: RunHooks): Transfer {
    return new PeerTransfer(this, hooks);
  }

  /** Answers are `talk`'s from now on; who had them before is told that they are lost. */
  converse(talk: PeerTalk): void {
    this.talk?.lost();
    this.talk = talk;
  }

  /** `talk` waits for nothing any more; what is still answered to it is dropped. */
  silence(talk: PeerTalk): void {
    if (this.talk !== talk) return;
    this.talk = null;
    this.answersLate = true;
  }

  /** The number that the frames of the next run carry. */
  nextRun(): number {
    this.runs += 1;
    return this.runs;
  }

  /**
   * The mirror holds a whole state of this volume. The fork keeps what was overwritten since the promotion, and has done its
   * duty: it is not kept for an old primary that may never come back, of which everything is compared then.
   */
  async rejoined(): Promise<void> {
    // What a full disk keeps from being deleted goes with the next one.
    await dropForks(this.host.volume).catch(() => {});
  }

  sender(after: number, hooks: SenderHooks): Sender {
    const { link, host, limit } = this;
    const { generation } = host.volume.metadata.state;
    link.sendControl({ kind: 'stream-begin', generation, after });
    const { takesSnapshots: snapshots } = this;
    const awaits = hasFeature(this.welcome, 'awaits');
    const sender = new PeerSender({ host, link, after, limit, snapshots, awaits, ...hooks });
    this.peerSender = sender;
    return sender;
  }

  async close(): Promise<void> {
    if (this.over !== null) return;
    const closed = new Promise<void>((resolve) => {
      this.ended = resolve;
    });
    this.link.end('the primary ends the link');
    await closed;
  }

  destroy(): void {
    this.link.destroy(new BlockferryError('MIRROR_UNREACHABLE', `${this.link.peer} was given up`));
  }

  // --- LinkHandler ---

  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    if (header.kind === FrameKind.ACK) {
      payload?.release();
      if (this.peerSender === null) return this.unexpected('an acknowledgement');
      return this.peerSender.ack(header);
    }
    if (header.kind !== FrameKind.DIFFERS || this.talk === null) {
      payload?.release();
      if (header.kind === FrameKind.DIFFERS && this.answersLate) return undefined;
      return this.unexpected(`a frame of kind ${header.kind}`);
    }
    this.talk.frame(header, payload);
  }

  control(message: ControlMessage): void {
    if (message.kind === 'may-differ' && this.told !== null) {
      return this.takeTold(this.told, message);
    }
    if (message.kind === 'policy') {
      this.refuses = message.refuses;
      return undefined;
    }
    if (isAboutHandover(message)) {
      this.host.handover?.heard(this.mirrorId, message);
      return undefined;
    }
    if (message.kind === 'failed') {
      const text = `${this.link.peer} cannot go on: ${message.message} (${message.code})`;
      return this.link.destroy(new BlockferryError('MIRROR_REFUSED', text));
    }
    if (message.kind === 'command-done') this.answered(message.epoch, message.error);
    // A command that went to all mirrors is waited for by one at most.
    if (message.kind === 'command-done' && this.talk === null) return;
    // Whoever asked gave up meanwhile.
    if (message.kind === 'snapshots-held' && this.talk === null) return;
    if (this.talk === null) return this.unexpected(`the message ${message.kind}`);
    this.talk.control(message);
  }

  heartbeat(header: FrameHeader): void {
    this.peerSender?.ack(header);
  }

  drained(): void {
    this.peerSender?.pump();
    this.talk?.drained();
  }

  closed(error: BlockferryError): void {
    this.over = error;
    this.whole?.reject(error);
    this.talk?.lost();
    this.ended?.();
    this.tell();
  }

  /** What it does not do about a snapshot is told; others wait for what else there is. */
  private answered(epoch: number, error: string | null): void {
    const command = this.peerSender?.answered(epoch) ?? null;
    if (command === null || error === null) return;
    const { name: volume } = this.host.volume;
    const what =
      command.kind === 'snapshot-create'
        ? `${volume}@${command.name} is not there`
        : `the snapshot ${command.id} of ${volume} is still there`;
    this.note('mirror-snapshot-refused', `${what}: ${error}`);
  }

  private unexpected(what: string): void {
    const message = `${this.link.peer} sent ${what} that nobody asked for`;
    this.link.destroy(new BlockferryError('LINK_PROTOCOL', message));
  }

  private tell(): void {
    if (this.listener === null || this.over === null || this.wasTold) return;
    this.wasTold = true;
    this.listener(this.over);
  }
}

function isAboutHandover({ kind }: ControlMessage): boolean {
  return kind === 'handover-wanted' || kind === 'handed-over' || kind === 'handover-refused';
}
