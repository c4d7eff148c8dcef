/** Where the export is that is to be attached: as the command line says, or as the node does. */
import { resolve } from 'node:path';
import type { NodeFacts, SnapshotStatus, VolumeStatus } from '../../control/status.ts';
import { formatAddress } from '../../io/address.ts';
import { BlockferryError } from '../../io/errors.ts';
import { ATTACH_URIS_MAX } from '../../io/limits.ts';
import type { Address } from '../../io/network.ts';
import { parseNbdUri, type NbdUri } from '../../nbd/uri/uri.ts';
import { clientOf, controlAddress, type SharedOptions } from '../context.ts';
import { volumePath, type ControlClient } from '../client.ts';
import { usableAddresses } from '../transfer/transfer-node.ts';

/**
 * The URIs given, or the address of the node that is nearest: a unix socket before TCP.
 * @throws BlockferryError USAGE, URI_INVALID, VOLUME_NOT_FOUND, SNAPSHOT_NOT_FOUND, CONTROL_UNREACHABLE, ATTACH_TLS, ATTACH_SERVER
 */
export async function whereIs(
  exportName: string,
  given: readonly string[],
  shared: SharedOptions,
): Promise<readonly NbdUri[]> {
  if (given.length === 0) return [await askNode(exportName, shared)];
  if (given.length > ATTACH_URIS_MAX) {
    throw new BlockferryError('USAGE', `a device has ${ATTACH_URIS_MAX} --uri at most`);
  }
  return given.map((text) => {
    const uri = parseNbdUri(text);
    if (uri.exportName !== exportName) {
      const named = `${uri.text} names ${JSON.stringify(uri.exportName)}`;
      throw new BlockferryError('USAGE', `${named}, not ${JSON.stringify(exportName)}`);
    }
    if (uri.address.kind === 'unix' && !uri.address.path.startsWith('/')) {
      throw new BlockferryError('USAGE', `${uri.text}: give the absolute path of the socket`);
    }
    return uri;
  });
}

async function askNode(exportName: string, shared: SharedOptions): Promise<NbdUri> {
  const client = clientOf(shared);
  const facts = await client.call<NodeFacts>('GET', '/v1/node');
  const at = exportName.indexOf('@');
  const volumeName = at < 0 ? exportName : exportName.slice(0, at);
  const volume = await client.call<VolumeStatus>('GET', volumePath(volumeName));
  if (at >= 0) await findSnapshot(client, volumeName, exportName.slice(at + 1));
  if (facts.tls === 'required' || volume.access.tls === 'required') {
    const what = `volume ${volumeName} of node ${facts.name} is for clients with TLS`;
    throw new BlockferryError('ATTACH_TLS', what);
  }
  const [address] = usableAddresses(controlAddress(shared), facts.nbd);
  if (address !== undefined) return uriAt(absolute(address), exportName);
  const served = `node ${facts.name} serves NBD only at ${facts.nbd.join(', ')}`;
  throw new BlockferryError('ATTACH_SERVER', `${served}: name an address of it with --uri`);
}

async function findSnapshot(client: ControlClient, volume: string, name: string): Promise<void> {
  const path = `${volumePath(volume)}/snapshots/${encodeURIComponent(name)}`;
  await client.call<SnapshotStatus>('GET', path);
}

/** A node that was given a relative path names it so. The device outlives the directory that this was called in. */
function absolute(address: Address): Address {
  return address.kind === 'unix' ? { ...address, path: resolve(address.path) } : address;
}

function uriAt(address: Address, exportName: string): NbdUri {
  const name = encodeURIComponent(exportName);
  return parseNbdUri(
    address.kind === 'unix'
      ? `nbd+unix:///${name}?socket=${encodeURIComponent(address.path)}`
      : `nbd://${formatAddress(address)}/${name}`,
  );
}
