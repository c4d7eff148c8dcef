/**
 * A mirror that is within reach, whatever it is: how what it lacks is brought to it, and how it follows afterwards.
 * `plain-contact.ts` is any NBD server, `peer-contact.ts` another blockferry node.
 */
import type { BlockferryError } from '../../io/errors.ts';
import type { Epoch } from '../staging/epoch.ts';

/** What the owner of a delta run is told, and asked. */
export interface RunHooks {
  /** Comparing is over; shipping begins. */
  compared(): void;
  /** Whether the mirror is to follow every write behind the run; if not, it may end with content of one moment. */
  follows(): boolean;
  /** From now on host writes are staged for this mirror instead of marked. */
  beginStaging(): void;
  /** Whether they still are: the policy may have given up staging meanwhile. */
  isStaging(): boolean;
  /** The host dirties blocks as fast as they are sent; or no longer. */
  stuck(stuck: boolean): void;
  /** Pauses: between rounds that make no progress, or (0) for one turn of the loop. */
  pause(ms: number): Promise<void>;
}

/** Brings a mirror what it lacks. */
export interface Transfer {
  /** Payload bytes sent and bytes compared so far. */
  readonly bytesSent: number;
  readonly bytesCompared: number;
  /**
   * Resolves when the mirror lacks nothing but what is staged; `beginStaging` was called then. If it does not follow: when it
   * holds the content of one moment, nothing may be staged.
   * Rejects with RunAborted or RunFailed (delta-run.ts).
   */
  run(): Promise<void>;
  abort(): void;
}

/** Has a mirror follow, epoch by epoch. */
export interface Sender {
  /** Every write of the epochs up to this one was answered by the mirror. */
  readonly held: number;
  /** Every epoch up to this one is durable there. */
  readonly durable: number;
  /** Sends what may be sent now, and sees to it that the rest is sent later. */
  pump(): void;
  /** The host flushed when `epoch` was the last one closed; `awaited`: its answer waits for this mirror. */
  barrier(epoch: number, awaited: boolean): void;
  /** Nothing further is begun. Returns whether something is still on its way. */
  stop(): boolean;
  /** The connection is over: nothing is on its way any more. */
  connectionOver(): void;
}

export interface SenderHooks {
  /** So many bytes of payload were given to the link. */
  onSent(bytes: number): void;
  /** `held` rose to this epoch. */
  onHeld(epoch: Epoch): void;
  /** `durable` rose. */
  onDurable(): void;
  /** The mirror answered with an error of the protocol: an errno. */
  onError(errno: number): void;
  /** Stopped, and what was on its way was answered. */
  onIdle(): void;
}

export interface Contact {
  readonly kind: 'nbd' | 'blockferry';
  /** What it holds is of one moment, also while a delta run is under way. */
  readonly alwaysConsistent: boolean;
  /** The epoch that it held when it was reached; null: none, or it does not know. */
  readonly position: number | null;
  readonly open: boolean;
  /** Called once when it is over for any reason but `close`, when no buffer is in use any more. */
  onClosed: ((error: BlockferryError) => void) | null;
  /** Called once, first: answers when the mirror is known to be ready. Throws BlockferryError. */
  ready(): Promise<void>;
  /** The mirror was idle for a while: has it say something, so that a dead one is noticed. */
  probe(): void;
  transfer(hooks: RunHooks): Transfer;
  /**
   * The mirror has every epoch up to `after`, durably, and the queue every later one. `last`: what comes behind that epoch is
   * not for it; null: it follows. Where epochs are of one moment each, more may arrive.
   */
  sender(after: number, hooks: SenderHooks, last: number | null): Sender;
  /** Lets outstanding requests be answered, within a bound. */
  close(): Promise<void>;
  destroy(): void;
}
