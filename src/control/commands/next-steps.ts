/** What is left to do, on which node, when the writes of a volume have moved and it has other mirrors. Pure. */
import { parseNbdUri } from '../../nbd/uri/uri.ts';
import type { MirrorRecord } from '../../volume/log/metadata-state.ts';
import type { NextStep } from '../status.ts';

/**
 * `others`: mirrors besides the two that moved the writes; `taker`: the node that has them now. `isTold`: it has those that are nodes, and
 * are not paused, as its mirrors already.
 */
export function stepsBehind(
  volume: string,
  others: Iterable<MirrorRecord>,
  taker: string,
  { isTold }: { isTold: boolean } = { isTold: true },
): NextStep[] {
  const steps: NextStep[] = [];
  for (const { uri, peer, paused } of others) {
    const add = { node: taker, mirror: uri, command: `blockferry mirror add ${volume} ${uri}` };
    if (peer === null) {
      steps.push({ ...add, command: `${add.command} --seeded` });
      continue;
    }
    const { exportName } = parseNbdUri(uri);
    const command = `blockferry volume set ${exportName} --mirror-of ${taker}`;
    steps.push({ node: peer.node, mirror: uri, command });
    if (paused || !isTold) steps.push(add);
  }
  return steps;
}
