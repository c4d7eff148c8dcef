/** Whether a mirror's URI leads back to the node that is to have the mirror. */
import { networkInterfaces } from 'node:os';
import { resolve } from 'node:path';
import { isLoopback } from '../../io/address.ts';
import type { Address } from '../../io/network.ts';

const EVERY_HOST: ReadonlySet<string> = new Set(['0.0.0.0', '::']);

/**
 * Judges by address, as far as that goes: names of this host in DNS, and proxies, are not seen through.
 */
export function leadsTo(target: Address, listening: readonly Address[]): boolean {
  return listening.some((own) => {
    if (own.kind === 'unix')
      return target.kind === 'unix' && resolve(target.path) === resolve(own.path);
    if (target.kind === 'unix' || target.port !== own.port) return false;
    if (target.host === own.host) return true;
    if (EVERY_HOST.has(own.host)) return isLoopback(target) || isOfThisHost(target.host);
    return (
      isLoopback(own) && (namesLocalhost(target) || (namesLocalhost(own) && isLoopback(target)))
    );
  });
}

/** `localhost` may be any loopback address; 127.0.0.1 and 127.0.0.2 are two. */
function namesLocalhost(address: Address & { kind: 'tcp' }): boolean {
  return /^localhost\.?$/i.test(address.host);
}

function isOfThisHost(host: string): boolean {
  return Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address }) => address === host),
  );
}
