/**
 * Contents kept for comparing: hidden snapshots that a command in the stream asked for, known by the epoch that it ended.
 *
 * Invariants:
 * - A twin holds the content at the end of its epoch: it is taken behind the epoch's writes and before the next one's.
 * - At most INTAKE_TWINS_MAX. They do not outlive the link that asked for them.
 */
import type { BlockDevice } from '../../io/device.ts';
import { errorText } from '../../io/errors.ts';
import { INTAKE_TWINS_MAX } from '../../io/limits.ts';
import type { Volume } from '../../volume/volume.ts';
import type { SnapshotCommand, StreamCommand } from '../link/messages.ts';

const PREFIX = '.twin-';

export class Twins {
  private readonly volume: Volume;
  /** Epoch -> name. */
  private readonly names = new Map<number, string>();

  constructor(volume: Volume) {
    this.volume = volume;
  }

  /** Runs a command of epoch `epoch`: null when it is done, else why it is not. */
  async run(
    command: Exclude<StreamCommand, SnapshotCommand>,
    epoch: number,
  ): Promise<string | null> {
    const name = `${PREFIX}${command.id}`;
    try {
      return await (command.kind === 'freeze' ? this.freeze(name, epoch) : this.thaw(name));
    } catch (thrown) {
      return errorText(thrown);
    }
  }

  /** Null: there is no such twin. */
  device(epoch: number): BlockDevice | null {
    const name = this.names.get(epoch);
    return name === undefined ? null : this.volume.snapshots.device(name);
  }

  /** Nobody will ask about any of them. What a full disk keeps from being deleted goes the next time. */
  async discardAll(): Promise<void> {
    this.names.clear();
    for (const name of this.all()) {
      await this.volume.snapshots.discard(name).catch(() => {});
    }
  }

  private all(): string[] {
    return this.volume.snapshots.hidden.filter((name) => name.startsWith(PREFIX));
  }

  private async freeze(name: string, epoch: number): Promise<string | null> {
    const all = this.all();
    // Taken before a crash, whose journal is replayed: it has the right content, and a second one might not.
    if (!all.includes(name)) {
      if (all.length >= INTAKE_TWINS_MAX) return `${INTAKE_TWINS_MAX} contents are kept already`;
      await this.volume.snapshots.freeze(name, () => {});
    }
    this.names.set(epoch, name);
    return null;
  }

  private async thaw(name: string): Promise<string | null> {
    for (const [epoch, known] of this.names) if (known === name) this.names.delete(epoch);
    if (this.all().includes(name)) await this.volume.snapshots.discard(name);
    return null;
  }
}
