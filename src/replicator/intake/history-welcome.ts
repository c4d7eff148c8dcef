/**
 * What a volume answers to a node that would send to it and that knows less than it of who goes on: its history, and nothing else. That
 * node hears it before it takes another write (I7).
 *
 * Invariant: nothing is taken over such a link; it is closed as soon as it stands.
 */
import type { Volume } from '../../volume/volume.ts';
import type { Link } from '../link/link-types.ts';
import { LINK_VERSION, type Generation, type Welcome } from '../link/messages.ts';

const NO_TOKEN = '0'.repeat(32);

/** `node`: the name of this node. */
export function historyWelcome({ metadata, sizeBytes }: Volume, node: string): Welcome {
  const { generations } = metadata.state;
  return {
    version: LINK_VERSION,
    node,
    token: NO_TOKEN,
    lanes: 1,
    sizeBytes,
    generations,
    position: null,
    run: null,
  };
}

/** Whether who shows the history `told` is of this descent: the ids of generations are random. */
export function isOfDescent({ metadata }: Volume, told: readonly Generation[]): boolean {
  const known = new Set(told.map(({ id }) => id));
  return metadata.state.generations.some(({ id }) => known.has(id));
}

/** What was said in the welcome must arrive. */
export function endHistoryLink(link: Link, why: string): void {
  link.start(new Discarded());
  link.end(why);
}

/** Of a link that nobody wants. */
export class Discarded {
  frame(_header: unknown, payload: { release(): void } | null): void {
    payload?.release();
  }
  control(): void {}
  heartbeat(): void {}
  drained(): void {}
  closed(): void {}
}
