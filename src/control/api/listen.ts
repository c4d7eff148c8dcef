/** Puts the control API, and what a node shows over HTTP, on their addresses. */
import type { FastifyInstance } from 'fastify';
import { formatAddress, isLoopback } from '../../io/address.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import { inheritedSocket } from '../../io/inherited-socket.ts';
import type { Address, Network } from '../../io/network.ts';
import type { Activation } from '../config/activation.ts';

/** What the control API depends on of the configuration. */
interface ControlConfig {
  readonly control: Address;
  readonly insecure: boolean;
}

/**
 * Listens; returns the address with the port that the system chose. An inherited socket takes the place of the
 * configured address.
 * @throws BlockferryError ADDRESS_IN_USE, ADDRESS_UNAVAILABLE, SOCKET_INVALID or INSECURE_ADDRESS
 */
export async function listenForControl(
  app: FastifyInstance,
  options: { network: Network; config: ControlConfig; inherited: Activation },
): Promise<Address> {
  const { config, inherited } = options;
  if (inherited.control !== null) return adoptForControl(app, inherited.control, config);
  return await listenForHttp(app, options.network, config.control);
}

/**
 * Listens; returns the address with the port that the system chose.
 * @throws BlockferryError ADDRESS_IN_USE or ADDRESS_UNAVAILABLE
 */
export async function listenForHttp(
  app: FastifyInstance,
  network: Network,
  wanted: Address,
): Promise<Address> {
  // Taken for a moment in the way of every other listener: it knows a stale socket from a live one, and
  // says what is wrong in the catalogue's words. HTTP needs a server of its own.
  const taken = await network.listen(wanted, (connection) => connection.destroy());
  await taken.close();
  const { address } = taken;
  try {
    await app.listen(
      address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port },
    );
  } catch (error) {
    const message = `cannot listen on ${formatAddress(address)}: ${errorText(error)}`;
    throw new BlockferryError('ADDRESS_UNAVAILABLE', message, { cause: error });
  }
  return address;
}

async function adoptForControl(
  app: FastifyInstance,
  descriptor: number,
  { insecure }: ControlConfig,
): Promise<Address> {
  const { path } = inheritedSocket(descriptor);
  await app.ready();
  await new Promise<void>((resolve, reject) => {
    app.server.once('error', reject);
    app.server.listen({ fd: descriptor }, resolve);
  });
  const bound = app.server.address();
  const address: Address =
    bound !== null && typeof bound === 'object'
      ? { kind: 'tcp', host: bound.address, port: bound.port }
      : { kind: 'unix', path: path ?? `descriptor ${descriptor}` };
  if (insecure || isLoopback(address)) return address;
  throw new BlockferryError(
    'INSECURE_ADDRESS',
    `the inherited control address ${formatAddress(address)} is reachable from other machines`,
  );
}
