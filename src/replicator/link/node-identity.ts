/** Whether what TLS proved of a client is the name of a node. */
import type { TlsPeer } from '../../io/network.ts';
import { SubjectList } from '../../nbd/server/access.ts';

/**
 * A certificate whose subject has the common name `node`, or the pre-shared key of the user `node`. A client in clear, or one
 * that showed nothing, proves no name. `node` is the valid name of a node.
 */
export function provesNode(client: TlsPeer | null, node: string): boolean {
  if (client === null) return false;
  return SubjectList.parse([`CN=${node}`, `psk:${node}`]).has(client);
}
