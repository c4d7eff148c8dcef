/**
 * The server's end of TLS over a socket that is open already, and who turned out to be the client.
 *
 * Invariants:
 * - `secured` is called at most once, and only for a client that proved what it showed: a certificate that
 *   does not verify ends the connection, although Node alone would let it pass with a note.
 * - A client with a user name that nobody has fails exactly as one with a wrong key does.
 * - Every failure closes the socket, with an error that says in whose words it failed.
 */
import { randomBytes } from 'node:crypto';
import type * as net from 'node:net';
import * as tls from 'node:tls';

import { errorText } from '../errors.ts';
import type { TlsPeer } from '../network.ts';
import type { PskKeys } from './psk-file.ts';
import {
  type SecureOutcome,
  subjectOf,
  tlsError,
  usedKey,
  writeLargeAlone,
} from './secure-parts.ts';
import type { LoadedTlsContext } from './tls.ts';

const RANDOM_KEY_BYTES = 32;

/** Reading and writing begin as on any socket; what is written waits until the handshake is done. */
export function openSecureSocket(
  raw: net.Socket,
  context: LoadedTlsContext,
  outcome: SecureOutcome,
): tls.TLSSocket {
  let pskUser: string | null = null;
  const options: tls.TLSSocketOptions &
    Pick<tls.TlsOptions, 'pskCallback'> & { highWaterMark: number } = {
    isServer: true,
    secureContext: context.secureContext,
    requestCert: context.asksCertificate,
    // As on the socket below: 'drain' tells when nothing is left.
    highWaterMark: 0,
  };
  const { pskKeys } = context;
  if (pskKeys !== null) {
    options.pskCallback = (_socket, user) => {
      pskUser = user;
      return keyOf(pskKeys, user);
    };
  }
  const secure = new tls.TLSSocket(raw, options);
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
  // Node keeps the errors of a server's socket from its 'error' event until a `tls.Server` says otherwise.
  secure.on('_tlsError', fail);
  secure.once('secure', () => {
    const peer = identify(secure, pskUser);
    if (peer instanceof Error) return fail(peer);
    done = true;
    outcome.secured(peer);
  });
  secure.once('end', () => {
    if (!done) fail(new Error('the client left'));
  });
  return secure;
}

/**
 * What resumes a session comes the same way as a user, but is no text: Node does not ask about it, and the
 * handshake goes on without a key.
 */
function keyOf(keys: PskKeys, user: string): Buffer {
  return keys.get(user) ?? randomBytes(RANDOM_KEY_BYTES);
}

function identify(secure: tls.TLSSocket, pskUser: string | null): TlsPeer | Error {
  const certificate = secure.getPeerX509Certificate();
  if (certificate === undefined) {
    // That a key was asked for does not mean that it was used: the suite may not have fitted it.
    if (pskUser === null || !usedKey(secure)) return { kind: 'anonymous', identity: '' };
    return { kind: 'psk', identity: pskUser };
  }
  const fault = verifyError(secure);
  if (fault !== null) return new Error(`certificate of the client: ${errorText(fault)}`);
  // Node has no text for a subject without parts, as certificates have whose names are all alternative ones.
  const subject = certificate.subject as string | undefined;
  return { kind: 'x509', identity: subjectOf(subject ?? '') };
}

/** Node shows this result to `tls.Server` alone; where it cannot be asked, nobody is trusted. */
function verifyError(secure: tls.TLSSocket): unknown {
  const { _handle: handle } = secure as unknown as {
    _handle?: { verifyError?: () => unknown } | null;
  };
  if (typeof handle?.verifyError !== 'function') return new Error('it cannot be verified');
  return handle.verifyError() ?? null;
}
