/**
 * One command at a time for each key, in the order they came.
 *
 * Invariants: a command starts only after every earlier one of its key has settled; a key with nothing
 * under way takes no memory; at CONTROL_COMMANDS_WAITING_MAX the next command is refused.
 */
import { BlockferryError } from '../../io/errors.ts';
import { CONTROL_COMMANDS_WAITING_MAX } from '../../io/limits.ts';

interface Lane {
  waiting: number;
  tail: Promise<unknown>;
}

export class Serial {
  private readonly lanes = new Map<string, Lane>();

  /** Throws BlockferryError BUSY when too many commands wait for `key`. */
  async run<T>(key: string, command: () => Promise<T>): Promise<T> {
    const lane = this.lanes.get(key) ?? { waiting: 0, tail: Promise.resolve() };
    if (lane.waiting >= CONTROL_COMMANDS_WAITING_MAX) {
      throw new BlockferryError('BUSY', `${lane.waiting} commands wait for ${JSON.stringify(key)}`);
    }
    this.lanes.set(key, lane);
    lane.waiting += 1;
    const result = lane.tail.then(command, command);
    lane.tail = result;
    try {
      return await result;
    } finally {
      lane.waiting -= 1;
      if (lane.waiting === 0) this.lanes.delete(key);
    }
  }

  /** Waits until nothing is under way. */
  async idle(): Promise<void> {
    while (this.lanes.size > 0) {
      await Promise.allSettled([...this.lanes.values()].map((lane) => lane.tail));
    }
  }
}
