/**
 * One process at a time in a directory.
 *
 * Invariants:
 * - A process that dies in any way leaves no lock behind: `flock` ends with it, and the identity in the
 *   lock file (process id and start time, from /proc) no longer names a living process.
 * - Both ways exclude each other too: whoever holds the `flock` also writes its identity, and a living
 *   identity refuses everybody else.
 * - With `flock` the lock file is never removed: a file that was replaced while somebody held the old one
 *   would have two holders. Nor does it give its first block back: on a full disk there would be no room for
 *   the next identity.
 */
import * as fs from 'node:fs';
import { join } from 'node:path';

import { LOCK_ENDING_MS_MAX } from './limits.ts';
import type { Syscalls } from './syscalls.ts';
import { systemError } from './system-error.ts';

const LOCK_FILE = 'lock';
/** Of an identity with the blanks after it: the longest has 7, 20 and 2 characters. */
const LOCK_FILE_BYTES = 64;
const EWOULDBLOCK = 11;
const LOCK_POLL_MS = 10;
/** Tries to make the lock file while others make and remove theirs. */
const ATTEMPTS_MAX = 16;

export interface DirectoryLock {
  release(): void;
}

/** Takes the directory, or returns null when another holder lives. Throws Node's errors. */
export function lockDirectory(
  directory: string,
  lock: NonNullable<Syscalls['lock']> | null,
): DirectoryLock | null {
  const path = join(directory, LOCK_FILE);
  return lock === null ? lockByIdentity(path) : lockByFlock(path, lock);
}

function lockByFlock(path: string, lock: NonNullable<Syscalls['lock']>): DirectoryLock | null {
  const fd = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600);
  let held = false;
  try {
    const status = lockOfLiving(fd, lock);
    if (status === -EWOULDBLOCK) return null;
    if (status < 0) throw systemError(-status, 'flock', path);
    if (lives(readIdentity(fd))) return null;
    overwrite(fd, identityOf(process.pid));
    held = true;
  } finally {
    if (!held) fs.closeSync(fd);
  }
  return {
    release: once(() => {
      try {
        overwrite(fd, '');
      } catch {
        // A disk that copies on write may have no room. Then the identity ends with this process.
      }
      fs.closeSync(fd);
    }),
  };
}

/** Through `flock` alone: the others replace the file. What somebody else left behind the identity goes. */
function overwrite(fd: number, identity: string): void {
  fs.writeSync(fd, `${identity.padEnd(LOCK_FILE_BYTES - 1)}\n`, 0);
  if (fs.fstatSync(fd).size > LOCK_FILE_BYTES) fs.ftruncateSync(fd, LOCK_FILE_BYTES);
}

/**
 * A process that was killed holds its lock until the last of its threads ended, which may be a moment
 * after it is seen to be dead: whoever starts in its place must not be refused for that.
 */
function lockOfLiving(fd: number, lock: NonNullable<Syscalls['lock']>): number {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let waited = 0; ; waited += LOCK_POLL_MS) {
    const status = lock(fd);
    if (status !== -EWOULDBLOCK || waited >= LOCK_ENDING_MS_MAX) return status;
    if (lives(readIdentity(fd))) return status;
    Atomics.wait(pause, 0, 0, LOCK_POLL_MS);
  }
}

/** Without `flock`: a file that only one can create. A dead holder's file is moved away first. */
function lockByIdentity(path: string): DirectoryLock | null {
  const mine = `${path}.${process.pid}`;
  fs.writeFileSync(mine, `${identityOf(process.pid)}\n`, { mode: 0o600 });
  try {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
      if (linked(mine, path)) return { release: once(() => fs.unlinkSync(path)) };
      if (!removedDead(path)) return null;
    }
    return null;
  } finally {
    fs.rmSync(mine, { force: true });
  }
}

/** A link appears whole, with its content, where creating and then writing has a moment between. */
function linked(from: string, to: string): boolean {
  try {
    fs.linkSync(from, to);
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw error;
  }
}

/** False when the holder lives. */
function removedDead(path: string): boolean {
  const aside = `${path}.${process.pid}.dead`;
  try {
    if (lives(fs.readFileSync(path, 'utf8'))) return false;
    fs.renameSync(path, aside);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return true;
    throw error;
  }
  // Another process may have replaced the dead file between the two calls: then give it back.
  const stolen = lives(fs.readFileSync(aside, 'utf8'));
  if (stolen) linked(aside, path);
  fs.rmSync(aside, { force: true });
  return !stolen;
}

function readIdentity(fd: number): string {
  const bytes = Buffer.alloc(LOCK_FILE_BYTES);
  return bytes.toString('utf8', 0, fs.readSync(fd, bytes, 0, bytes.length, 0));
}

/** `PID START`: start is in clock ticks since the machine started, so a reused number is told apart. */
function identityOf(pid: number): string {
  return `${pid} ${startTimeOf(pid) ?? 'unknown'}`;
}

function lives(identity: string): boolean {
  const match = /^((\d+) (?:\d+|unknown)) *\n$/.exec(identity);
  if (match === null) return false;
  const pid = Number(match[2]);
  return exists(pid) && identityOf(pid) === match[1];
}

function exists(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return codeOf(error) === 'EPERM';
  }
}

/**
 * Field 22 of /proc/PID/stat; the second, a name in brackets, may hold anything. Null also for a process
 * that ended and was not yet waited for.
 */
function startTimeOf(pid: number): string | null {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? null : (fields[19] ?? null);
  } catch {
    return null;
  }
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

function once(action: () => void): () => void {
  let pending = true;
  return () => {
    if (!pending) return;
    pending = false;
    action();
  };
}
