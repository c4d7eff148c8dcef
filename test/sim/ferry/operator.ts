/** What the operator of the primary does with its mirrors. */
import { BlockferryError } from '../../../src/io/errors.ts';
import type { MirrorPolicy } from '../../../src/replicator/policy/mirror-policy.ts';
import type { Refusal } from '../../../src/volume/refusals.ts';
import { wrongUnless } from '../failure.ts';
import type { MirrorOptions, Verb } from './history.ts';
import { Lines } from './lines.ts';
import type { MirrorNode } from './mirror-node.ts';
import { refusal } from './operations.ts';
import type { Stage } from './stage.ts';

/** Bytes a second. */
const LIMIT_UNIT = 16 * 1024;

export class Operator {
  private readonly stage: Stage;

  constructor(stage: Stage) {
    this.stage = stage;
  }

  /** Changes the pace of a mirror. */
  setPolicy(mirror: MirrorNode, policy: Partial<MirrorPolicy>): void {
    const { primary, operations } = this.stage;
    const { device, closing } = primary;
    if (device === null || closing) return;
    const set = device.setMirror(Lines.uri(mirror.name), policy);
    const what = `set ${mirror.name}`;
    const scheduled = policy.schedule !== undefined && policy.schedule.kind !== 'stream';
    operations.operate(primary, what, set, {
      refused: (thrown) => {
        // A synchronous mirror follows every write.
        const isSync = thrown instanceof BlockferryError && thrown.code === 'USAGE' && scheduled;
        if (!isSync) refusal(primary, what)(thrown);
      },
    });
  }

  /** Asks for a delta run of a schedule. */
  sync(mirror: MirrorNode): void {
    const { primary, operations } = this.stage;
    const { device, closing } = primary;
    if (device === null || closing) return;
    operations.operate(primary, `sync ${mirror.name}`, device.syncMirror(Lines.uri(mirror.name)));
  }

  /** Of a mirror, or of the node. */
  limit(mirror: MirrorNode | null, bytesPerSecond: number | null): void {
    const { primary, operations } = this.stage;
    const { device, closing } = primary;
    if (mirror === null) primary.nodeLimit = bytesPerSecond;
    else if (device !== null && !closing) {
      const limit = device.limitMirror(Lines.uri(mirror.name), bytesPerSecond);
      operations.operate(primary, `limit ${mirror.name}`, limit);
    }
  }

  /** On the node of the mirror. */
  refuse(mirror: MirrorNode, refuses: readonly Refusal[]): void {
    if (mirror.secondary === null || mirror.closing) return;
    const { snapshots, operations } = this.stage;
    const keeps = refuses.includes('snapshot-delete');
    const kept = snapshots.keptBy(mirror);
    kept.ever ||= keeps;
    if (!keeps) kept.lift();
    const { metadata } = mirror.secondary.volume;
    const before = metadata.state.refuses;
    const { volume } = mirror.secondary;
    const { secondary } = mirror;
    metadata.append({ kind: 'source-policy', refuses });
    operations.operate(mirror, `what ${mirror.name} refuses`, volume.commit(), {
      done: (status) => {
        if (status === 0) {
          kept.inForce = metadata.state.refuses.includes('snapshot-delete');
          secondary.tellPolicy();
          return;
        }
        kept.lift();
        metadata.append({ kind: 'source-policy', refuses: before });
        wrongUnless(mirror.troubled, `what ${mirror.name} refuses was not recorded: ${status}`);
      },
    });
  }

  verb(mirror: MirrorNode, verb: Verb, options: MirrorOptions): void {
    const { device, closing } = this.stage.primary;
    if (device === null || closing) return;
    const uri = Lines.uri(mirror.name);
    const what = `${verb} ${mirror.name}`;
    switch (verb) {
      case 'add':
        return this.stage.operations.operate(
          this.stage.primary,
          what,
          device.addMirror({ uri, ...options }),
        );
      case 'remove':
        return this.stage.operations.operate(this.stage.primary, what, device.removeMirror(uri));
      case 'pause':
        return this.stage.operations.operate(this.stage.primary, what, device.pauseMirror(uri));
      case 'resume':
        return this.stage.operations.operate(this.stage.primary, what, device.resumeMirror(uri));
      case 'resync':
        return this.stage.operations.operate(this.stage.primary, what, device.resyncMirror(uri));
      case 'limit':
      case 'unlimit': {
        const limit = verb === 'limit' ? this.stage.dice.between(1, 64) * LIMIT_UNIT : null;
        return this.stage.operations.operate(
          this.stage.primary,
          what,
          device.limitMirror(uri, limit),
        );
      }
      case 'verify':
      case 'repair': {
        const report = device.verifyMirror(uri, { repair: verb === 'repair' });
        return this.stage.operations.operate(this.stage.primary, what, report, {
          done: ({ bytes_differing, ranges }) => {
            this.stage.note(`${what}: ${bytes_differing} bytes differ`);
            wrongUnless(
              // What the mirror cannot read counts as different.
              bytes_differing === 0 || mirror.setBack || mirror.troubled,
              `${what} says that ${JSON.stringify(ranges)} differ`,
            );
          },
        });
      }
    }
  }
}
