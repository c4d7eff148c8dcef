/** What one server allows its clients. Each has a named default; an operator may set them. */
import {
  NBD_CONNECTIONS_MAX,
  NBD_CONNECTIONS_PER_CLIENT_MAX,
  NBD_HANDSHAKES_MAX,
  NBD_HANDSHAKE_MS_MAX,
  NBD_IN_FLIGHT_BYTES_MAX,
  NBD_IN_FLIGHT_BYTES_TOTAL_MAX,
  NBD_OPTIONS_MAX,
} from '../../io/limits.ts';

export interface NbdLimits {
  /** Connections of the server, those in the handshake included. One more is closed at accept. */
  readonly connections: number;
  /** Connections from one IP address; clients of unix sockets are not counted. One more is closed at accept. */
  readonly connectionsPerClient: number;
  /** Connections in the handshake. One more ends the oldest of them. */
  readonly handshakes: number;
  /** Milliseconds from accept to transmission. */
  readonly handshakeMs: number;
  /** Options in one handshake. */
  readonly options: number;
  /** Payload bytes held for unanswered requests of one connection. At the limit it is not read. */
  readonly inFlightBytes: number;
  /** The same for all connections together: at the limit only a connection that holds none goes on. */
  readonly inFlightBytesTotal: number;
}

export const NBD_LIMITS_DEFAULT: NbdLimits = Object.freeze({
  connections: NBD_CONNECTIONS_MAX,
  connectionsPerClient: NBD_CONNECTIONS_PER_CLIENT_MAX,
  handshakes: NBD_HANDSHAKES_MAX,
  handshakeMs: NBD_HANDSHAKE_MS_MAX,
  options: NBD_OPTIONS_MAX,
  inFlightBytes: NBD_IN_FLIGHT_BYTES_MAX,
  inFlightBytesTotal: NBD_IN_FLIGHT_BYTES_TOTAL_MAX,
});
