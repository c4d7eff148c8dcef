/** Puts the control API on its address. */
import type { FastifyInstance } from 'fastify';
import { formatAddress } from '../io/address.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import type { Address, Network } from '../io/network.ts';

/**
 * Listens; returns the address with the port that the system chose.
 * @throws BlockferryError ADDRESS_IN_USE or ADDRESS_UNAVAILABLE
 */
export async function listenForControl(
  app: FastifyInstance,
  options: { network: Network; address: Address },
): Promise<Address> {
  // Taken for a moment in the way of every other listener: it knows a stale socket from a live one, and
  // says what is wrong in the catalogue's words. HTTP needs a server of its own.
  const taken = await options.network.listen(options.address, (connection) => connection.destroy());
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
