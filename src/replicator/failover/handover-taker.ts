/**
 * Which mirror a volume is given to: the one that the wish names, if it can take over, and what speaks against it. Pure but for what
 * the mirrors tell of themselves.
 */
import { BlockferryError } from '../../io/errors.ts';
import type { Volume } from '../../volume/volume.ts';
import type { HandoverWish } from './handover.ts';
import { hasFeature } from '../link/link-version.ts';
import type { Mirror } from '../mirror/mirror.ts';

/** `to`: its URI, the name of its node, or null for the only one. `wanted`: its own operator asked for it. */
export interface TakerWish extends Omit<HandoverWish, 'mirror'> {
  readonly to: string | null;
  readonly wanted: boolean;
}

/** The mirror, and the name of its node. @throws BlockferryError MIRROR_NOT_FOUND, MIRROR_STATE, HANDOVER_FAILED */
export function chooseTaker(
  volume: Volume,
  all: readonly Mirror[],
  wish: TakerWish,
): { mirror: Mirror; node: string } {
  const { mirrors } = volume.metadata.state;
  const named = all.filter(
    ({ id, uri }) =>
      wish.to === null || uri.text === wish.to || mirrors.get(id)?.peer?.node === wish.to,
  );
  const [mirror, ...others] = named;
  if (mirror === undefined || others.length > 0) {
    const message = `${volume.name} has ${named.length} mirrors of that name; say which one by its URI`;
    throw new BlockferryError('MIRROR_NOT_FOUND', message);
  }
  if (!wish.split) refuseBlocking(volume, all, mirror);
  const node = mirrors.get(mirror.id)?.peer?.node ?? null;
  if (mirror.peer === null || node === null) {
    const message = `the mirror ${mirror.uri.text} is ${mirror.state}: only a blockferry node that follows takes over`;
    throw new BlockferryError('MIRROR_STATE', message);
  }
  if (!hasFeature(mirror.peer.welcome, 'handover')) {
    const message = `node ${node} is of an older version, which cannot be asked to take over`;
    throw new BlockferryError('MIRROR_STATE', message);
  }
  if (!wish.split && all.length > 1 && !hasFeature(mirror.peer.welcome, 'others')) {
    const message = `node ${node} is of an older version, which is not told of other mirrors: remove them first, and add them there`;
    throw new BlockferryError('MIRROR_STATE', message);
  }
  if (!wish.wanted && mirror.peer.refuses.includes('handover')) {
    const message = `node ${node} lets only its own operator decide that (handover is refused); there: blockferry ${wish.split ? 'split' : 'switchover'} ${mirror.uri.exportName}`;
    throw new BlockferryError('HANDOVER_FAILED', message);
  }
  return { mirror, node };
}

/** Behind the move writes would wait for a mirror that follows when its operator says so. */
function refuseBlocking(volume: Volume, all: readonly Mirror[], taker: Mirror): void {
  const waited = all.find(
    (each) => each !== taker && each.mode === 'sync' && each.stallPolicy === 'block',
  );
  if (waited === undefined) return;
  const message = `${volume.name} waits for ${waited.uri.text} with each write (--on-stall block), which does not follow the new primary by itself: remove it first, and add it there`;
  throw new BlockferryError('MIRROR_STATE', message);
}
