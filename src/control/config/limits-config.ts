/** `[limits]` of the file, in the server's units. What is not there has the server's default. */
import { NBD_LIMITS_DEFAULT, type NbdLimits } from '../../nbd/server/server-limits.ts';
import type { LimitValues } from './config-schema.ts';

const SECOND_MS = 1000;
const MIB = 2 ** 20;

const scaled = (value: number | undefined, unit: number, otherwise: number): number =>
  value === undefined ? otherwise : value * unit;

export function resolveLimits(given: LimitValues): NbdLimits {
  const none = NBD_LIMITS_DEFAULT;
  return {
    connections: given.connections ?? none.connections,
    connectionsPerClient: given.connections_per_client ?? none.connectionsPerClient,
    handshakes: given.handshakes ?? none.handshakes,
    handshakeMs: scaled(given.handshake_seconds, SECOND_MS, none.handshakeMs),
    options: given.options ?? none.options,
    inFlightBytes: scaled(given.in_flight_mib, MIB, none.inFlightBytes),
    inFlightBytesTotal: scaled(given.in_flight_total_mib, MIB, none.inFlightBytesTotal),
  };
}
