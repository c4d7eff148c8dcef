/** What both ends of TLS over a socket need: how it is written, how it fails, and what it says of the other end. */
import type * as tls from 'node:tls';

import { errorText } from '../errors.ts';
import { TLS_GATHER_BYTES_MAX } from '../limits.ts';
import type { TlsPeer } from '../network.ts';

/** Both are called at most once, and `failed` before the socket closes. */
export interface SecureOutcome {
  secured(peer: TlsPeer): void;
  failed(error: Error): void;
}

/**
 * Node gathers what waits to be encrypted by copying it into one buffer. That pays for small pieces; a large
 * one is written alone, so that it is not copied and the other side can begin with it while the next is encrypted.
 */
export function writeLargeAlone(secure: tls.TLSSocket): void {
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

/** In TLS 1.3 a pre-shared key looks like a resumed session, and those there are not. */
export function usedKey(secure: tls.TLSSocket): boolean {
  return secure.getProtocol() === 'TLSv1.3'
    ? secure.isSessionReused()
    : secure.getCipher().standardName.includes('_PSK_');
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

/** `secured`: the handshake was done when it failed. */
export function tlsError(secured: boolean, cause: unknown): Error {
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
