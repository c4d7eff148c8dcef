/**
 * Reaches a mirror, whatever it is: another blockferry node says so in the handshake, any other NBD server is used as such.
 *
 * Invariants:
 * - A mirror that was another node once is never used as a plain server.
 * - No mirror is told of an epoch that is not reserved.
 * - What the mirror says of itself is held against what this node recorded of it before anything is sent.
 */
import { BlockferryError, type ErrorCode } from '../../io/errors.ts';
import { Status } from '../../io/device.ts';
import type { NbdClient } from '../../nbd/client/client.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import type { EventKind } from '../event-kinds.ts';
import { forkOf } from '../failover/fork.ts';
import { decide, decideRejoin, type Decision } from '../failover/generations.ts';
import type { Contact } from './contact.ts';
import { connectPeer, type ConnectedPeer } from '../link/connect-peer.ts';
import type { Link } from '../link/link-types.ts';
import { LINK_FEATURES, LINK_VERSION } from '../link/link-version.ts';
import type { Hello, LinkPosition, Welcome } from '../link/messages.ts';
import type { MirrorBlocks } from '../mirror/mirror-blocks.ts';
import type { MirrorHost } from '../mirror/mirror-host.ts';
import { unfitAsMirror } from '../mirror/mirror-fitness.ts';
import { PeerContact } from './peer-contact.ts';
import { markSince, type Rejoin } from '../failover/rejoin.ts';
import { PlainContact } from './plain-contact.ts';
import type { SendLimit } from '../pace/send-limit.ts';

/** Both sides went their own way, or never had one: nothing is sent, an operator has to decide. */
export class PartedWays extends BlockferryError {}

export interface MirrorToReach {
  readonly uri: NbdUri;
  readonly host: MirrorHost;
  readonly mirrorId: number;
  readonly blocks: MirrorBlocks;
  readonly limit: SendLimit;
  /** The mirror holds this epoch, durably. */
  readonly arrived: (epoch: number) => void;
  /** A node said something about snapshots. */
  readonly note: (kind: EventKind, message: string) => void;
}

/** @throws BlockferryError as `connectPeer`; MIRROR_*: unfit; PartedWays; METADATA_WRITE_FAILED */
export async function reachMirror(mirror: MirrorToReach): Promise<Contact> {
  const { host, mirrorId, blocks } = mirror;
  const { volume } = host;
  const record = volume.metadata.state.mirrors.get(mirrorId);
  await reserve(host);
  const peerOnly = (record?.peer ?? null) !== null;
  const found = await connect(mirror, { lanes: record?.lanes ?? 1, peerOnly });
  if (found.kind === 'plain') {
    refuseUnfit(mirror, found.client);
    return new PlainContact({ client: found.client, host, blocks, limit: mirror.limit });
  }
  const { link, welcome } = found;
  try {
    refuseIfTaken(mirror, welcome);
    const { full, rejoin } = marksFor(mirror, welcome);
    // Behind what the histories mean: a mirror that was promoted by its operator did not take over either.
    await host.handover?.notTaken(mirrorId);
    await recordPeer(mirror, welcome);
    const { arrived, note } = mirror;
    return new PeerContact({
      link,
      welcome,
      host,
      blocks,
      mirrorId,
      full,
      rejoin,
      limit: mirror.limit,
      arrived,
      note,
    });
  } catch (thrown) {
    giveUp(link, thrown);
    throw thrown;
  }
}

/**
 * Reaches a mirror that is to be added, and lets go of it again: what could not become a mirror is refused. Returns the name of
 * the node that it is; null: it is any NBD server. Throws as `reachMirror`.
 */
export async function probeMirror(
  mirror: Pick<MirrorToReach, 'uri' | 'host'>,
  sizeBytes: number,
): Promise<string | null> {
  await reserve(mirror.host);
  const found = await connect(mirror, { lanes: 1, peerOnly: false });
  if (found.kind === 'plain') {
    refuseUnfit(mirror, found.client, sizeBytes);
    await found.client.close();
    return null;
  }
  try {
    if (found.welcome.rejoin === undefined) judge(mirror.host, found.welcome, null);
    return found.welcome.node;
  } finally {
    found.link.destroy(new BlockferryError('MIRROR_UNREACHABLE', 'the mirror was only looked at'));
  }
}

async function reserve({ reserve: reserved, queue, volume }: MirrorHost): Promise<void> {
  if (await reserved.upTo(queue.openNumber)) return;
  const message = `the log of ${volume.name} cannot be written`;
  throw new BlockferryError('METADATA_WRITE_FAILED', message);
}

function connect(
  { host, uri }: Pick<MirrorToReach, 'uri' | 'host'>,
  { lanes, peerOnly }: { lanes: number; peerOnly: boolean },
): Promise<ConnectedPeer> {
  const { volume, queue, node, surroundings } = host;
  const { network, clock, tls, compressor } = surroundings;
  const hello: Hello = {
    version: LINK_VERSION,
    node,
    volume: uri.exportName,
    volumeId: volume.id,
    sizeBytes: volume.sizeBytes,
    generations: volume.metadata.state.generations,
    epoch: queue.openNumber - 1,
    lane: null,
    lanes,
    features: LINK_FEATURES,
  };
  return connectPeer(uri, hello, { network, clock, tls: tls?.(), compressor, peerOnly });
}

function refuseUnfit(
  { uri, host }: Pick<MirrorToReach, 'uri' | 'host'>,
  client: NbdClient,
  sizeBytes: number = host.volume.sizeBytes,
): void {
  const fault = unfitAsMirror(uri, client.info, sizeBytes);
  if (fault === null) return;
  client.destroy();
  throw fault;
}

/** What the two histories and positions mean. Throws PartedWays. */
function judge(
  { volume, queue }: MirrorHost,
  { generations, position, run }: Welcome,
  acknowledged: LinkPosition | null,
): Decision {
  const { state } = volume.metadata;
  const decision = decide(
    {
      generations: state.generations,
      position: { generation: state.generation, epoch: queue.openNumber - 1 },
      reservedEpoch: state.reservedEpoch,
      acknowledged,
    },
    { generations, position, run },
  );
  const code = PARTED[decision.kind];
  if (code !== undefined && 'reason' in decision) throw new PartedWays(code, decision.reason);
  return decision;
}

const PARTED: { readonly [Kind in Decision['kind']]?: ErrorCode } = {
  diverged: 'MIRROR_DIVERGED',
  stale: 'MIRROR_NEWER',
  unrelated: 'MIRROR_UNRELATED',
};

/** A mirror that was asked to take over did, or another node is in its place. Throws HANDOVER_IN_DOUBT. */
function refuseIfTaken({ host, mirrorId }: MirrorToReach, welcome: Welcome): void {
  if (host.handover?.learned(welcome.generations) === true) {
    throw new BlockferryError('HANDOVER_IN_DOUBT', `${welcome.node} has taken over`);
  }
  const { handover, mirrors } = host.volume.metadata.state;
  const asked = mirrors.get(mirrorId)?.peer?.node;
  if (handover?.mirror !== mirrorId || asked === undefined || asked === welcome.node) return;
  const message = `${asked} was asked to take over, and ${welcome.node} is in its place, which does not know whether it did`;
  throw new BlockferryError('HANDOVER_IN_DOUBT', message);
}

/** Marks what the two histories and positions say beyond what is marked. Throws PartedWays. */
function marksFor(
  { host, blocks }: MirrorToReach,
  welcome: Welcome,
): { readonly full: boolean; readonly rejoin: Rejoin | null } {
  const { volume } = host;
  const fork = forkOf(volume);
  if (welcome.rejoin !== undefined) return rejoinBy(host, blocks, welcome, welcome.rejoin);
  const decision = judge(host, welcome, blocks.acknowledged);
  const { position, run } = welcome;
  // It holds the very content that this node had when it was promoted.
  const isAtFork = fork !== null && position?.epoch === fork.position.epoch && run === null;
  const known = decision.kind === 'stream' || decision.kind === 'compare';
  if (known && isAtFork && blocks.acknowledged === null) {
    if (markSince(volume, blocks, fork.snapshot)) {
      return { full: false, rejoin: { since: fork.snapshot, tells: false } };
    }
  }
  // What is found equal is let go of because it holds this: if it is set back before the run is over, that must be known.
  if (decision.kind === 'delta' && position !== null) blocks.acknowledge(position);
  return { ...markBy(decision, blocks), rejoin: null };
}

function rejoinBy(
  { volume, queue }: MirrorHost,
  blocks: MirrorBlocks,
  { generations }: Welcome,
  rejoin: LinkPosition,
): { readonly full: boolean; readonly rejoin: Rejoin } {
  const { state } = volume.metadata;
  const fork = forkOf(volume);
  const decision = decideRejoin(
    {
      generations: state.generations,
      position: { generation: state.generation, epoch: queue.openNumber - 1 },
      reservedEpoch: state.reservedEpoch,
      acknowledged: blocks.acknowledged,
      forkedAt: fork?.position ?? null,
    },
    { generations, rejoin },
  );
  if (decision.kind === 'rejoin') {
    const since = blocks.acknowledged === null ? (fork?.snapshot ?? null) : null;
    return { full: false, rejoin: { since, tells: true } };
  }
  blocks.suspect.addAll();
  blocks.dirty.clear();
  return { full: false, rejoin: { since: null, tells: true } };
}

/** Marks what the decision says beyond what is marked. */
function markBy(decision: Decision, blocks: MirrorBlocks): { full: boolean } {
  // A seeded mirror has content that nobody recorded: it is compared as it is, all of it again when it was not finished.
  const seeded = blocks.acknowledged === null && blocks.dirty.count < blocks.dirty.blockCount;
  if (decision.kind === 'compare' || (decision.kind === 'full' && seeded)) blocks.suspect.addAll();
  if (decision.kind !== 'full' || seeded) return { full: false };
  blocks.suspect.clear();
  blocks.dirty.addAll();
  return { full: true };
}

/** From now on it is this node or none. */
async function recordPeer({ host, mirrorId }: MirrorToReach, welcome: Welcome): Promise<void> {
  const { metadata, name } = host.volume;
  const record = metadata.state.mirrors.get(mirrorId);
  if (record === undefined || record.peer?.node === welcome.node) return;
  metadata.append({ kind: 'mirror-peer', mirror: mirrorId, node: welcome.node, volumeId: null });
  const status = await new Promise<number>((resolve) => metadata.commit(resolve));
  if (status === Status.OK) return;
  const message = `the metadata of ${name} cannot be written (errno ${status})`;
  throw new BlockferryError('METADATA_WRITE_FAILED', message);
}

function giveUp(link: Link, thrown: unknown): void {
  const why = thrown instanceof BlockferryError ? thrown : null;
  link.destroy(why ?? new BlockferryError('INTERNAL', 'the mirror could not be taken'));
}
