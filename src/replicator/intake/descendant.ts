/**
 * A volume that was a mirror once, and was promoted: its old primary comes back, and hears who has gone on.
 *
 * Invariants:
 * - Only who shows a generation that this volume has, by its random id, hears anything.
 * - Nothing is taken over such a link: it is closed as soon as it stands.
 */
import type { Volume } from '../../volume/volume.ts';
import type { Handover } from '../failover/handover.ts';
import type { Link } from '../link/link-types.ts';
import type { Hello } from '../link/messages.ts';
import { endHistoryLink, historyWelcome, isOfDescent } from './history-welcome.ts';
import type { Verdict } from './admission.ts';

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
    if (!isOfDescent(this.volume, hello.generations)) {
      return { kind: 'stranger', reason: 'it is no secondary, and of another descent' };
    }
    // The mirror that takes over may be faster than its answer.
    if (this.handover.learned(hello.generations)) {
      return { kind: 'refused', text: 'it is about to become the mirror; try again' };
    }
    return { kind: 'welcome', welcome: historyWelcome(this.volume, this.node) };
  }

  unexpected(): void {}

  attach(link: Link): void {
    endHistoryLink(link, `${this.volume.name} is no mirror any more`);
  }
}
