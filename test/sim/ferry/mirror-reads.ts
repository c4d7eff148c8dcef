/** Reads all of a mirror through its export, while the world goes on: what was read is one whole state of the primary. */
import type { SecondaryVolume } from '../../../src/replicator/intake/secondary.ts';
import { answered } from '../../volume/support/request.ts';
import { wrongUnless } from '../failure.ts';
import type { Shown } from './checks.ts';
import type { MirrorNode } from './mirror-node.ts';
import { BLOCK } from './oracle.ts';
import { readOf } from './requests.ts';
import type { Stage } from './stage.ts';

const ESHUTDOWN = 108;

export function readMirror(stage: Stage, node: MirrorNode): void {
  const { secondary, closing } = node;
  if (secondary === null || closing) return;
  const request = readOf({ offset: 0, length: stage.oracle.blockCount * BLOCK });
  const first = shownBy(secondary);
  stage.operations.operate(
    node,
    `a read of ${node.name}`,
    answered(request, (asked) => secondary.read(asked)),
    {
      done: (status) => {
        if (status !== 0) {
          const excused = node.troubled || node.closing || status === ESHUTDOWN;
          wrongUnless(excused, `a read of ${node.name} was answered ${status} for no reason`);
          return;
        }
        stage.checks.mustBeOneOf(node, request.bytes, first, shownBy(secondary));
      },
    },
  );
}

function shownBy(secondary: SecondaryVolume): Shown {
  const { run, position } = secondary.volume.metadata.state;
  const { applied, durable } = secondary.intake;
  const next = (applied?.epoch ?? 0) + 1;
  return {
    position: applied,
    next: next <= (durable?.epoch ?? 0) ? next : null,
    run: run?.epoch ?? position?.epoch ?? null,
  };
}
