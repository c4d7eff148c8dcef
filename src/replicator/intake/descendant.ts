/**
 * A volume that was a mirror once, and was promoted: its old primary comes back, and hears who has gone on.
 *
 * Invariants:
 * - Only who shows a generation that this volume has, by its random id, hears anything.
 * - Nothing is taken over such a link: it is closed as soon as it stands.
 */
import type { Volume } from '../../volume/volume.ts';
import type { Handover } from '../handover.ts';
import type { Link } from '../link/link-types.ts';
import { LINK_VERSION } from '../link/messages.ts';
import type { Hello } from '../link/messages.ts';
import { Discarded, type Verdict } from './secondary.ts';

const NO_TOKEN = '0'.repeat(32);

export class Descendant {
  private readonly volume: Volume;
  private readonly node: string;
  private readonly handover: Handover;

  /** `node`: the name of this node. */
  constructor(volume: Volume, node: string, handover: Handover) {
    this.handover = handover;
    this.volume = volume;
    this.node = node;
  }

  judge(hello: Hello): Verdict {
    const { generations } = this.volume.metadata.state;
    const known = new Set(hello.generations.map(({ id }) => id));
    if (!generations.some(({ id }) => known.has(id))) {
      return { kind: 'stranger', reason: 'it is no secondary, and of another descent' };
    }
    // The mirror that takes over may be faster than its answer.
    if (this.handover.learned(hello.generations)) {
      return { kind: 'refused', text: 'it is about to become the mirror; try again' };
    }
    return {
      kind: 'welcome',
      welcome: {
        version: LINK_VERSION,
        node: this.node,
        token: NO_TOKEN,
        lanes: 1,
        sizeBytes: this.volume.sizeBytes,
        generations,
        position: null,
        run: null,
      },
    };
  }

  unexpected(): void {}

  attach(link: Link): void {
    link.start(new Discarded());
    // What was said in the welcome must arrive.
    link.end(`${this.volume.name} is no mirror any more`);
  }
}
