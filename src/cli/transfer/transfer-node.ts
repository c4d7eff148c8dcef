/**
 * The node at the other end of an import or export: its volumes by the control API, their content as an NBD
 * client of the node.
 *
 * Invariant: an address that names the node's own machine (loopback, unix socket) is used only when the control
 * address does so too: elsewhere it would lead to another machine.
 */
import type { NodeFacts, SnapshotStatus, VolumeStatus } from '../../control/status.ts';
import type { TransferSource } from '../../control/transfer/transfer-ends.ts';
import { NbdEnd } from '../../control/transfer/transfer-nbd.ts';
import { formatAddress, isLoopback, parseAddress } from '../../io/address.ts';
import { systemClock } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import type { Address } from '../../io/network.ts';
import { nodeNetwork } from '../../io/node-network.ts';
import { parseNbdUri, type NbdUri } from '../../nbd/uri/uri.ts';
import { volumePath, type ControlClient } from '../client.ts';

const WILDCARDS: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };

export class TransferNode {
  readonly facts: NodeFacts;
  private readonly client: ControlClient;
  private readonly addresses: readonly Address[];

  private constructor(client: ControlClient, facts: NodeFacts, addresses: readonly Address[]) {
    this.client = client;
    this.facts = facts;
    this.addresses = addresses;
  }

  /** `nbd`: use this address of the node and no other. */
  static async at(
    client: ControlClient,
    control: Address,
    nbd: string | undefined,
  ): Promise<TransferNode> {
    const facts = await client.call<NodeFacts>('GET', '/v1/node');
    const addresses = nbd === undefined ? usableAddresses(control, facts.nbd) : [parseAddress(nbd)];
    return new TransferNode(client, facts, addresses);
  }

  /** Null when there is none of that name. */
  async find(name: string): Promise<VolumeStatus | null> {
    try {
      return await this.client.call<VolumeStatus>('GET', volumePath(name));
    } catch (error) {
      if (error instanceof BlockferryError && error.code === 'VOLUME_NOT_FOUND') return null;
      throw error;
    }
  }

  /** @throws BlockferryError SNAPSHOT_NOT_FOUND, SNAPSHOT_NAME_INVALID */
  snapshot(volume: string, name: string): Promise<SnapshotStatus> {
    const path = `${volumePath(volume)}/snapshots/${encodeURIComponent(name)}`;
    return this.client.call('GET', path);
  }

  create(name: string, sizeBytes: number): Promise<VolumeStatus> {
    return this.client.call('POST', '/v1/volumes', { name, size: String(sizeBytes) });
  }

  async remove(name: string): Promise<void> {
    await this.client.call('DELETE', volumePath(name));
  }

  /** @throws BlockferryError TRANSFER_PEER unless clients without TLS may use the volume, or one to be made */
  refuseTls(volume: VolumeStatus | null): void {
    const { tls, what } =
      volume === null
        ? { tls: this.facts.tls, what: `node ${this.facts.name}` }
        : { tls: volume.access.tls, what: `volume ${volume.name}` };
    if (tls !== 'required') return;
    throw new BlockferryError(
      'TRANSFER_PEER',
      `${what} is for clients with TLS, and import and export do not speak TLS yet`,
    );
  }

  /** Whether the URI is the export of that name on this node. */
  isExport({ address, exportName }: NbdUri, name: string): boolean {
    const own = this.addresses.map(formatAddress);
    return exportName === name && own.includes(formatAddress(address));
  }

  /**
   * Opens `VOLUME` or `VOLUME@SNAPSHOT` as an NBD client.
   * @throws BlockferryError TRANSFER_PEER
   */
  async open(exportName: string): Promise<{ end: NbdEnd; uri: NbdUri }> {
    let failure: unknown = null;
    for (const address of this.addresses) {
      try {
        const uri = uriOf(address, exportName);
        return { end: await NbdEnd.open(uri, { network: nodeNetwork, clock: systemClock }), uri };
      } catch (error) {
        if (!(error instanceof BlockferryError)) throw error;
        failure ??= error;
      }
    }
    if (failure !== null) throw failure;
    throw new BlockferryError(
      'TRANSFER_PEER',
      `node ${this.facts.name} serves NBD only at addresses of its own machine ` +
        `(${this.facts.nbd.join(', ')}); name one that leads there with --nbd`,
    );
  }

  /** What stands behind an address may be another node: its volume would have another size. */
  checkSize(expected: { name: string; size_bytes: number }, end: TransferSource): void {
    if (expected.size_bytes === end.sizeBytes) return;
    const sizes = `${end.sizeBytes} bytes, while ${expected.name} has ${expected.size_bytes}`;
    throw new BlockferryError('TRANSFER_PEER', `${end.name} has ${sizes}: is it another node?`);
  }
}

/** Those that lead to the node from here, unix sockets first. */
export function usableAddresses(control: Address, nbd: readonly string[]): Address[] {
  const sameMachine = control.kind === 'unix' || isLoopback(control);
  const usable = nbd.flatMap((text): Address[] => {
    const address = parseAddress(text);
    if (address.kind === 'unix') return sameMachine ? [address] : [];
    const here = WILDCARDS[address.host];
    if (here === undefined) return sameMachine || !isLoopback(address) ? [address] : [];
    return [{ ...address, host: control.kind === 'tcp' ? control.host : here }];
  });
  return usable.toSorted((a, b) => Number(a.kind === 'tcp') - Number(b.kind === 'tcp'));
}

function uriOf(address: Address, exportName: string): NbdUri {
  const name = encodeURIComponent(exportName);
  if (address.kind === 'unix') {
    return parseNbdUri(`nbd+unix:///${name}?socket=${encodeURIComponent(address.path)}`);
  }
  return parseNbdUri(`nbd://${formatAddress(address)}/${name}`);
}
