/**
 * What was sent of a stream and is not known to be durable: what the far end holds in memory, at most.
 *
 * Invariants:
 * - At most LINK_UNACKED_BYTES_MAX bytes and LINK_UNACKED_EPOCHS_MAX epochs, the one being sent included.
 * - An epoch that is alone always fits: the sender never waits for an answer that cannot come.
 */
import assert from 'node:assert';
import {
  EPOCH_BYTES_MAX,
  LINK_UNACKED_BYTES_MAX,
  LINK_UNACKED_EPOCHS_MAX,
  NBD_PAYLOAD_BYTES_MAX,
} from '../../io/limits.ts';

assert(2 * EPOCH_BYTES_MAX <= LINK_UNACKED_BYTES_MAX, 'an epoch fits, its headers too');
assert(2 * NBD_PAYLOAD_BYTES_MAX <= LINK_UNACKED_BYTES_MAX, 'one large write fits');

export class SendWindow {
  /** Payload bytes of frames sent, and of those whose epochs are durable, since the stream began. */
  private sent = 0;
  private durable = 0;
  private durableEpoch: number;
  /** Of each epoch that was sent whole and is not durable: `sent` at its end. */
  private readonly ends = new Float64Array(LINK_UNACKED_EPOCHS_MAX);

  /** `after`: the far end has everything up to this epoch. */
  constructor(after: number) {
    this.durableEpoch = after;
  }

  /** Bytes sent in epochs that are not durable. */
  get unacked(): number {
    return this.sent - this.durable;
  }

  /** Bytes that may be sent now. */
  get room(): number {
    return LINK_UNACKED_BYTES_MAX - this.unacked;
  }

  /** Whether a frame of this epoch may be sent. */
  admits(epoch: number): boolean {
    return epoch - this.durableEpoch <= LINK_UNACKED_EPOCHS_MAX;
  }

  took(bytes: number): void {
    this.sent += bytes;
  }

  /** Every frame of the epoch was sent. */
  closed(epoch: number): void {
    assert(this.admits(epoch) && epoch > this.durableEpoch, 'epochs are sent within the window');
    this.ends[epoch % LINK_UNACKED_EPOCHS_MAX] = this.sent;
  }

  /** Every epoch up to this one, which was sent whole, is durable. */
  acknowledged(epoch: number): void {
    assert(epoch >= this.durableEpoch, 'what is durable stays so');
    if (epoch === this.durableEpoch) return;
    this.durableEpoch = epoch;
    const end = this.ends[epoch % LINK_UNACKED_EPOCHS_MAX];
    assert(end !== undefined);
    this.durable = end;
  }
}
