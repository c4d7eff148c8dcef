/**
 * What a mirror keeps by its own policy although its primary deleted it: a snapshot that it had durably while the policy was in
 * force is there until that is lifted.
 */
import { wrongUnless } from '../failure.ts';
import type { MirrorNode } from './mirror-node.ts';

export class KeptSnapshots {
  /** It refused once that its snapshots are deleted: it may have some that its primary has not, and lack others for their names. */
  ever = false;
  /** Recorded, and not lifted since. */
  inForce = false;
  private readonly ids = new Set<string>();

  lift(): void {
    this.inForce = false;
    this.ids.clear();
  }

  /** Looks at what is there. `epochOf`: of which epoch a snapshot is. */
  look(node: MirrorNode, epochOf: (id: string) => number): void {
    if (node.setBack) this.lift();
    if (!this.inForce || node.secondary === null || node.closing) return;
    const { snapshots } = node.secondary.volume;
    const held = node.claimed?.epoch ?? 0;
    for (const { id } of snapshots.list()) if (epochOf(id) <= held) this.ids.add(id);
  }

  /** `found`: what is there after an end of the node. */
  mustBeIn(found: ReadonlySet<string>, where: string): void {
    for (const id of this.ids) {
      wrongUnless(found.has(id), `${where} refuses to delete snapshots, and has ${id} no more`);
    }
  }
}
