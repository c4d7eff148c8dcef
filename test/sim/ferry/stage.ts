/** What takes part in a history, and how time passes in it: what the families of its steps work with. */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import type { Checks } from './checks.ts';
import type { History } from './history.ts';
import type { Lines } from './lines.ts';
import type { MirrorNode } from './mirror-node.ts';
import type { Node } from './node.ts';
import type { Operations } from './operations.ts';
import type { Oracle } from './oracle.ts';
import type { PrimaryNode } from './primary-node.ts';
import type { SnapshotBook } from './snapshots.ts';
import type { World } from './world.ts';

export interface Stage {
  readonly history: History;
  readonly world: World;
  readonly lines: Lines;
  readonly oracle: Oracle;
  readonly snapshots: SnapshotBook;
  readonly primary: PrimaryNode;
  readonly mirrors: readonly MirrorNode[];
  readonly nodes: readonly Node[];
  readonly operations: Operations;
  readonly checks: Checks;
  /** Of hosts and operators; others for each step. */
  readonly dice: Dice;
  /** A line of the trace. */
  note(line: string): void;
  /** Lets time pass until `ready`; more than `ms` virtual milliseconds are wrong, and `state` says what is missing. */
  until(what: string, ms: number, ready: () => boolean, state: () => string): Promise<void>;
  /** Somebody starts the node when that long has passed, if it is down then. */
  startIn(node: Node, ms: number): void;
  /** A process was found to be over. */
  ended(node: Node): Promise<void>;
}
