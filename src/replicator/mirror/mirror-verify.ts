/**
 * Compares a mirror on another node with the volume, both frozen at the end of one epoch, while the host and the stream go on.
 *
 * Invariants:
 * - The twins are of one moment: the epoch that the command `freeze` ends is the end of what the local snapshot holds. So
 *   what is found different is different.
 * - Neither twin outlives the comparison; what a loss of the link leaves behind goes with the next one.
 */
import { BlockferryError } from '../../io/errors.ts';
import { RunAborted, RunFailed } from '../runs/delta-run.ts';
import { frozenSource } from '../runs/frozen-source.ts';
import { nameOfErrno } from '../../nbd/constants.ts';
import type { FrameHeader, ReceivedPayload } from '../link/link-types.ts';
import type { ControlMessage } from '../link/messages.ts';
import type { PeerContact, PeerTalk } from '../contact/peer-contact.ts';
import { PeerVerify } from '../runs/peer-verify.ts';
import { randomId } from '../random-id.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';

/** Name of the hidden snapshot that a mirror is compared with. */
export function verifySnapshotName(mirrorId: number): string {
  return `.verify-${mirrorId}`;
}

export class MirrorVerify implements PeerTalk {
  private readonly contact: PeerContact;
  private comparison: PeerVerify | null = null;
  /** The epoch that the mirror is asked to freeze at. */
  private epoch = 0;
  /** What the mirror said to that; it may say so before the local content is frozen durably. */
  private outcome: { readonly error: string | null } | null = null;
  private answered: (() => void) | null = null;

  constructor(contact: PeerContact) {
    this.contact = contact;
  }

  get bytesCompared(): number {
    return this.comparison?.bytesCompared ?? 0;
  }

  /**
   * The blocks that differ. Throws MIRROR_STATE when the mirror leaves the stream, or does not freeze; VOLUME_FAILED or MIRROR_REFUSED
   * when a side cannot be read; and as `freeze`.
   */
  async run(): Promise<BlockSet> {
    const { contact } = this;
    const { volume, queue, surroundings } = contact.host;
    const name = verifySnapshotName(contact.mirrorId);
    if (volume.snapshots.hidden.includes(name)) await volume.snapshots.discard(name);
    const id = randomId(surroundings.random);
    contact.converse(this);
    try {
      // Nobody would tell that it is lost.
      if (!contact.open) throw new RunAborted('the link is gone');
      await volume.snapshots.freeze(name, () => {
        this.epoch = queue.closeWithCommand({ kind: 'freeze', id });
      });
      contact.host.wakeSoon();
      await this.frozenThere();
      return await this.compare(name);
    } catch (thrown) {
      throw this.reasonOf(thrown);
    } finally {
      contact.silence(this);
      // The command went to every mirror that follows.
      if (queue.active) {
        queue.closeWithCommand({ kind: 'thaw', id });
        contact.host.wakeSoon();
      }
      if (volume.snapshots.hidden.includes(name)) await volume.snapshots.discard(name);
    }
  }

  private reasonOf(thrown: unknown): unknown {
    const { peer } = this.contact.link;
    if (thrown instanceof RunAborted) {
      return new BlockferryError('MIRROR_STATE', `${peer} left the stream`);
    }
    if (!(thrown instanceof RunFailed)) return thrown;
    const code = thrown.local ? 'VOLUME_FAILED' : 'MIRROR_REFUSED';
    const message = `comparing with ${peer}: ${thrown.message} (${nameOfErrno(thrown.errno)})`;
    return new BlockferryError(code, message);
  }

  lost(): void {
    this.comparison?.abort();
    this.settle('it left the stream');
  }

  control(message: ControlMessage): void {
    if (message.kind === 'command-done' && message.epoch === this.epoch) {
      this.settle(message.error);
    }
  }

  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    if (this.comparison === null) payload?.release();
    else this.comparison.frame(header, payload);
  }

  drained(): void {
    this.comparison?.drained();
  }

  private settle(error: string | null): void {
    this.outcome ??= { error };
    this.answered?.();
  }

  private async frozenThere(): Promise<void> {
    if (this.outcome === null) {
      await new Promise<void>((resolve) => {
        this.answered = resolve;
      });
    }
    const error = this.outcome?.error ?? null;
    if (error === null) return;
    const message = `${this.contact.link.peer} could not freeze its content: ${error}`;
    throw new BlockferryError('MIRROR_STATE', message);
  }

  private async compare(name: string): Promise<BlockSet> {
    const { link, host, limit } = this.contact;
    const device = host.volume.snapshots.device(name);
    if (device === null) throw new BlockferryError('INTERNAL', 'a frozen content is gone');
    const comparison = new PeerVerify({
      link,
      clock: host.surroundings.clock,
      source: frozenSource(device),
      examiner: host.examiner,
      limiter: limit,
      epoch: this.epoch,
      groups: this.contact.comparesGroups,
    });
    this.comparison = comparison;
    await comparison.run();
    return comparison.differing;
  }
}
