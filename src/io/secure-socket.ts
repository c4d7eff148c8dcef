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

import { errorText } from './errors.ts';
import { TLS_GATHER_BYTES_MAX } from './limits.ts';
import type { TlsPeer } from './network.ts';
import type { PskKeys } from './psk-file.ts';
import type { LoadedTlsContext } from './tls.ts';

const RANDOM_KEY_BYTES = 32;

/** Both are called at most once, and `failed` before the socket closes. */
export interface SecureOutcome {
  secured(peer: TlsPeer): void;
  failed(error: Error): void;
}

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
 * Node gathers what waits to be encrypted by copying it into one buffer. That pays for small pieces; a large
 * one is written alone, so that it is not copied and the client can begin with it while the next is encrypted.
 */
function writeLargeAlone(secure: tls.TLSSocket): void {
  const gather = secure._writev?.bind(secure);
  if (gather === undefined) return;
  secure._writev = (pieces: { chunk: Buffer; encoding: BufferEncoding }[], done) => {
    let next = 0;
    const step = (error?: Error | null): void => {
      const first = pieces[next];
      if (error || first === undefined) return done(error);
      const start = next;
      let bytes = 0;
      do {
        bytes += pieces[next]?.chunk.length ?? 0;
        next += 1;
      } while (bytes + (pieces[next]?.chunk.length ?? Infinity) <= TLS_GATHER_BYTES_MAX);
      if (next - start === 1) secure._write(first.chunk, first.encoding, step);
      else gather(pieces.slice(start, next), step);
    };
    step();
  };
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

/** In TLS 1.3 a pre-shared key looks like a resumed session, and those there are not. */
function usedKey(secure: tls.TLSSocket): boolean {
  return secure.getProtocol() === 'TLSv1.3'
    ? secure.isSessionReused()
    : secure.getCipher().standardName.includes('_PSK_');
}

/** Node shows this result to `tls.Server` alone; where it cannot be asked, nobody is trusted. */
function verifyError(secure: tls.TLSSocket): unknown {
  const { _handle: handle } = secure as unknown as {
    _handle?: { verifyError?: () => unknown } | null;
  };
  if (typeof handle?.verifyError !== 'function') return new Error('it cannot be verified');
  return handle.verifyError() ?? null;
}

/**
 * Node gives one part a line, the most general one first, each escaped as RFC 4514 wants it; parts of equal
 * rank stand on one line, between ' + '. RFC 4514 has the most special one first.
 */
export function subjectOf(lines: string): string {
  return lines
    .split('\n')
    .toReversed()
    .map((line) => line.replaceAll(' + ', '+'))
    .join(',');
}

function tlsError(secured: boolean, cause: unknown): Error {
  const { reason, code, syscall } = cause as {
    reason?: unknown;
    code?: unknown;
    syscall?: unknown;
  };
  // The socket below was cut: no matter of TLS.
  if (secured && syscall !== undefined && cause instanceof Error) return cause;
  const what = secured ? 'TLS failed' : 'TLS handshake failed';
  const why = typeof reason === 'string' ? reason : errorText(cause);
  const error: NodeJS.ErrnoException = new Error(`${what}: ${why}`, { cause });
  if (typeof code === 'string') error.code = code;
  return error;
}
