/**
 * Numbers of epochs, kept from being used twice: a mirror may hold an epoch that this node forgot in a crash.
 *
 * Invariants:
 * - No mirror is told of an epoch beyond what is reserved durably.
 * - The numbers of a run of the process begin behind all that were reserved before it, or that a snapshot names.
 */
import { Status } from '../../io/device.ts';
import { EPOCHS_RESERVED } from '../../io/limits.ts';
import type { Metadata } from '../../volume/log/metadata.ts';

export class EpochReserve {
  /** The first number of this run. */
  readonly first: number;
  /** Numbers up to this one are reserved durably by this run. */
  private durable: number;
  private asking = false;
  private readonly waiting: (() => void)[] = [];
  private readonly metadata: Metadata;

  constructor(metadata: Metadata) {
    this.metadata = metadata;
    this.durable = metadata.state.reservedEpoch;
    // A snapshot names the epoch that it is the end of, also where no mirror was ever told of one.
    let last = this.durable;
    for (const { mark } of metadata.state.snapshots.values())
      last = Math.max(last, mark?.epoch ?? 0);
    this.first = last + 1;
  }

  /** Whether `epoch` may be used. Asks for more when half of what there is has been used. */
  allows(epoch: number): boolean {
    if (epoch > this.durable - EPOCHS_RESERVED / 2) this.extend(epoch);
    return epoch <= this.durable;
  }

  /** The same, once what it asks for is durable: false when that could not be recorded. */
  async upTo(epoch: number): Promise<boolean> {
    if (!this.allows(epoch)) {
      await new Promise<void>((resolve) => {
        this.waiting.push(resolve);
      });
    }
    return epoch <= this.durable;
  }

  private extend(epoch: number): void {
    if (this.asking) return;
    this.asking = true;
    const { metadata } = this;
    if (metadata.state.reservedEpoch < epoch + EPOCHS_RESERVED / 2) {
      metadata.append({ kind: 'epochs-reserved', epoch: epoch + EPOCHS_RESERVED });
    }
    const reserved = metadata.state.reservedEpoch;
    metadata.commit((status) => {
      this.asking = false;
      if (status === Status.OK) this.durable = Math.max(this.durable, reserved);
      for (const resolve of this.waiting.splice(0)) resolve();
    });
  }
}
