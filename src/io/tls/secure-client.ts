/**
 * The client's end of TLS over a socket that is open already.
 *
 * Invariants:
 * - `secured` is called at most once, and only for a server that proved that it is the one that was meant: by a certificate
 *   that verifies and has its name, or by the key that both have.
 * - No session is ever resumed.
 * - Every failure closes the socket, with an error that says in whose words it failed.
 */
import * as net from 'node:net';
import * as tls from 'node:tls';

import type { TlsPeer } from '../network.ts';
import {
  type SecureOutcome,
  subjectOf,
  tlsError,
  usedKey,
  writeLargeAlone,
} from './secure-parts.ts';
import type { LoadedTlsClientTerms } from './tls-client.ts';

/** Reading and writing begin as on any socket; what is written waits until the handshake is done. */
export function openSecureClient(
  raw: net.Socket,
  terms: LoadedTlsClientTerms,
  outcome: SecureOutcome,
): tls.TLSSocket {
  const { serverName, psk, secureContext } = terms;
  const options: tls.ConnectionOptions & { highWaterMark: number } = {
    socket: raw,
    secureContext,
    host: serverName,
    rejectUnauthorized: true,
    // As on the socket below: 'drain' tells when nothing is left.
    highWaterMark: 0,
    // A server that has the key has no certificate to look at.
    checkServerIdentity: (_host, certificate) =>
      usedKey(secure) ? undefined : tls.checkServerIdentity(serverName, certificate),
  };
  // Addresses are not sent: the standard has names alone there.
  if (net.isIP(serverName) === 0) options.servername = serverName;
  if (psk !== null) {
    options.pskCallback = () => ({ psk: psk.psk, identity: psk.identity });
  }
  const secure = tls.connect(options);
  writeLargeAlone(secure);
  let done = false;
  let failed = false;
  const fail = (cause: unknown): void => {
    if (failed) return;
    failed = true;
    const error = tlsError(done, cause);
    outcome.failed(error);
    secure.destroy(error);
  };
  secure.on('error', fail);
  secure.once('secureConnect', () => {
    done = true;
    outcome.secured(identify(secure, terms));
  });
  secure.once('end', () => {
    if (!done) fail(new Error('the server left'));
  });
  return secure;
}

function identify(secure: tls.TLSSocket, { psk }: LoadedTlsClientTerms): TlsPeer {
  if (psk !== null && usedKey(secure)) return { kind: 'psk', identity: psk.identity };
  // Node has no text for a subject without parts.
  const subject = secure.getPeerX509Certificate()?.subject;
  return { kind: 'x509', identity: subjectOf(subject ?? '') };
}
