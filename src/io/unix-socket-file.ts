/**
 * The file of a unix socket: who stands in its place before, and who may connect to it after.
 *
 * Invariants:
 * - A file is removed only when it is a socket on which nobody listens.
 * - While rights are being set, nobody can connect who cannot afterwards: the socket is bound for its owner
 *   alone, which only root and this process' own user get past.
 */
import assert from 'node:assert';
import * as fs from 'node:fs';
import * as net from 'node:net';
import { dirname } from 'node:path';

import { UNIX_PROBE_MS_MAX } from './limits.ts';
import type { SocketRights } from './network.ts';
import { systemError } from './system-error.ts';

const ENOENT = 2;
const EACCES = 13;
/** Of a socket file, before the mask of the process takes some away. */
const ALL_RIGHTS = 0o777;
const OWNER_ALONE = 0o077;

/** `free`: the path can be bound. A missing directory or a forbidden one is an `error`. */
export type SocketPath =
  | { readonly kind: 'free' | 'in-use' | 'no-socket' }
  | { readonly kind: 'error'; readonly error: NodeJS.ErrnoException };

/** A socket file outlives a killed process. Whoever answers on it is alive; a refusal means it is stale. */
export async function clearSocketPath(path: string): Promise<SocketPath> {
  const found = fs.lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) {
    // Asked here, since the socket itself reports a missing directory as "permission denied".
    if (fs.existsSync(dirname(path))) return { kind: 'free' };
    return { kind: 'error', error: systemError(ENOENT, 'bind', path) };
  }
  if (!found.isSocket()) return { kind: 'no-socket' };
  const answer = await probe(path);
  if (answer === 'EACCES') return { kind: 'error', error: systemError(EACCES, 'connect', path) };
  if (answer === 'ECONNREFUSED') fs.rmSync(path, { force: true });
  return { kind: answer === 'ECONNREFUSED' || answer === 'ENOENT' ? 'free' : 'in-use' };
}

/** The code of the error that connecting meets; '' when somebody answers, or takes too long to. */
function probe(path: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = net.connect({ path });
    const settle = (code: string): void => {
      clearTimeout(deadline);
      socket.destroy();
      resolve(code);
    };
    const deadline = setTimeout(() => settle(''), UNIX_PROBE_MS_MAX);
    socket.on('error', (error: NodeJS.ErrnoException) => settle(error.code ?? ''));
    socket.once('connect', () => settle(''));
  });
}

/**
 * Runs `bind`, which binds `path` and begins to listen before it returns, and gives the file its rights.
 *
 * A client may connect from the moment of `listen(2)`, before the rights of the file can be changed. So
 * it is born with the mask of the process at "owner alone", and opened up afterwards. The mask holds for all
 * threads, for some microseconds: a file that a thread of the pool makes just then is closed to others too,
 * which harms nobody, as no mask would let in somebody whom the usual one keeps out.
 * @throws the system's error when the rights cannot be given; the socket then listens, for its owner alone
 */
export function bindWithRights(path: string, rights: SocketRights, bind: () => boolean): void {
  const usual = process.umask(OWNER_ALONE);
  let bound: boolean;
  try {
    // The usual mask may be stricter still.
    process.umask(usual | OWNER_ALONE);
    bound = bind();
  } finally {
    process.umask(usual);
  }
  if (!bound) return;
  const { mode = ALL_RIGHTS & ~usual, uid, gid } = rights;
  assert(mode === (mode & ALL_RIGHTS), 'a mode has permission bits alone');
  // The owner first: the new one must not be shut out by the old one's mode, nor the other way round.
  if (uid !== undefined || gid !== undefined)
    fs.lchownSync(path, uid ?? UNCHANGED, gid ?? UNCHANGED);
  fs.chmodSync(path, mode);
}

/** For chown(2), an id that stays as it is. */
const UNCHANGED = 2 ** 32 - 1;
