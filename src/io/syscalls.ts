/**
 * The system calls that Node lacks, through koffi: the one file where a mistake can corrupt memory.
 *
 * Invariants:
 * - A prototype stands here exactly as glibc and musl declare it on 64-bit Linux; nothing is bound elsewhere.
 * - Every call is optional: without koffi, on another system, or when the probe on a real temporary
 *   file does not show what is expected, it is null, and the caller has another way.
 * - An address given to the kernel belongs to an ArrayBuffer that is held while the call runs. Memory
 *   of an ArrayBuffer never moves, but that of a small typed array may, until its `.buffer` was read:
 *   addresses are taken from buffers, by their ArrayBuffer, and never from a typed array.
 * - Results are a count or 0, or a negative Linux errno.
 */
import assert from 'node:assert';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type * as koffiTypes from 'koffi';

import { BLOCK_BYTES, SYSCALLS_IN_FLIGHT_MAX } from './limits.ts';

type Koffi = typeof koffiTypes;
type Foreign = ReturnType<koffiTypes.LibraryHandle['func']>;

/** `fallocate(2)`: frees the range, which then reads as zeroes. The file keeps its length. */
export const PUNCH_HOLE = 0x02 | 0x01;
/** `fallocate(2)`: provisions the range and makes it read as zeroes. The file keeps its length. */
export const ZERO_RANGE = 0x10 | 0x01;
/** `preadv2(2)`: fail with EAGAIN rather than wait for the disk. */
export const RWF_NOWAIT = 0x08;
/** `lseek(2)`: the first data, or the first hole, at or after a position. */
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** `posix_fadvise(2)`: the range will be read soon. */
const FADV_WILLNEED = 3;
const LOCK_EX_NB = 0x02 | 0x04;
const PROBE_BYTE = 0xa5;
const EIO = 5;
const ENXIO = 6;
const EBADF = 9;
const EWOULDBLOCK = 11;
const ENOTSOCK = 88;
const EOPNOTSUPP = 95;

/** `poll(2)`: what is reported unasked, and the end of the peer's data, which must be asked for. */
const POLLERR = 0x08;
const POLLHUP = 0x10;
const POLLNVAL = 0x20;
const POLLRDHUP = 0x2000;
/** No process can have this many. */
const NO_DESCRIPTOR: number = 2 ** 31 - 1;

const AF_UNIX = 1;
const AF_NETLINK = 16;
const NETLINK_GENERIC = 16;
const SOCK_STREAM = 1;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0x80000;
const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;
const MSG_DONTWAIT = 0x40;

const SO_SNDBUF = 7;
const SOL_SOCKET = 1;
const SO_ACCEPTCONN = 30;
/** struct sockaddr_storage. */
const SOCKET_NAME_BYTES_MAX = 128;

/** `ended`: its data ends, some may wait. `dead`: reset, or shut both ways. `unknown`: no open descriptor. */
export type PeerState = 'open' | 'ended' | 'dead' | 'unknown';

/** Talk with drivers of the kernel over generic netlink, without waiting. Results are descriptors, counts, 0, or negative errnos. */
export interface NetlinkCalls {
  open(): number;
  send(fd: number, message: Buffer): number;
  receive(fd: number, into: Buffer): number;
  /** Hear what is said to a group. */
  join(fd: number, group: number): number;
}

export interface Syscalls {
  /** preadv2 of one range. `flags` is 0 or RWF_NOWAIT. May read less. */
  readonly read:
    | ((fd: number, address: number, length: number, position: number, flags: number) => number)
    | null;
  /** pwrite. May write less. */
  readonly write:
    ((fd: number, address: number, length: number, position: number) => number) | null;
  /** fallocate, away from this thread; calls back later, never at once. */
  readonly allocate:
    | ((
        fd: number,
        mode: number,
        position: number,
        length: number,
        callback: (result: number) => void,
      ) => void)
    | null;
  /** copy_file_range from one file to the same place of another, away from this thread; calls back later. May copy less. */
  readonly copyRange:
    | ((
        from: number,
        into: number,
        position: number,
        length: number,
        callback: (result: number) => void,
      ) => void)
    | null;
  /** posix_fadvise with WILLNEED, away from this thread; calls back later, never at once. */
  readonly readAhead:
    | ((fd: number, position: number, length: number, callback: (result: number) => void) => void)
    | null;
  /** lseek with SEEK_DATA or SEEK_HOLE. */
  readonly seek: ((fd: number, position: number, whence: number) => number) | null;
  /** flock, exclusive, without waiting. */
  readonly lock: ((fd: number) => number) | null;
  /** What the system knows of the peer of a connected socket, without waiting and without allocation. */
  readonly peerState: ((fd: number) => PeerState) | null;
  /** getsockopt of SO_ACCEPTCONN: 1 for a socket that listens, 0 for another one. */
  readonly accepts: ((fd: number) => number) | null;
  /** getsockname: the `struct sockaddr` of a socket's own end, or a negative errno. */
  readonly socketName: ((fd: number) => Buffer | number) | null;
  /** setsockopt of SO_SNDBUF, which the system cuts to what it allows. */
  readonly setSendBuffer: ((fd: number, bytes: number) => number) | null;
  readonly netlink: NetlinkCalls | null;
  /** socketpair of unix stream sockets, closed on exec: both descriptors, or a negative errno. */
  readonly socketPair: (() => readonly [number, number] | number) | null;
  /** Where the bytes of a buffer begin, valid as long as the caller holds the buffer and it is not detached. */
  readonly addressOf: (buffer: Buffer) => number;
}

let loaded: Syscalls | null | undefined;

/** The calls that work here, probed on the first call; null where koffi cannot be used at all. */
export function loadSyscalls(): Syscalls | null {
  if (loaded === undefined) loaded = bindAll();
  return loaded;
}

function bindAll(): Syscalls | null {
  // Prototypes below assume that off_t, size_t and pointers have 64 bits.
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) return null;
  let bound: Bound;
  try {
    bound = bind(createRequire(import.meta.url)('koffi') as Koffi);
  } catch {
    // Not installed for this system, or it cannot be loaded: it is optional.
    return null;
  }
  for (const parent of [tmpdir(), '/dev/shm']) {
    const probed = probe(bound, parent);
    if (probed !== null) return probed;
  }
  return null;
}

interface Bound {
  readonly addressOf: Syscalls['addressOf'];
  readonly read: NonNullable<Syscalls['read']>;
  readonly write: NonNullable<Syscalls['write']>;
  readonly allocate: NonNullable<Syscalls['allocate']>;
  readonly allocateNow: (fd: number, mode: number, position: number, length: number) => number;
  /** Null where the C library is older than the call. */
  readonly copyRange: Syscalls['copyRange'];
  readonly copyRangeNow: (from: number, into: number, position: number, length: number) => number;
  readonly readAhead: NonNullable<Syscalls['readAhead']>;
  readonly readAheadNow: (fd: number, position: number, length: number) => number;
  readonly seek: NonNullable<Syscalls['seek']>;
  readonly lock: NonNullable<Syscalls['lock']>;
  readonly peerState: NonNullable<Syscalls['peerState']>;
  readonly accepts: NonNullable<Syscalls['accepts']>;
  readonly socketName: NonNullable<Syscalls['socketName']>;
  readonly setSendBuffer: NonNullable<Syscalls['setSendBuffer']>;
  readonly netlink: NetlinkCalls;
  readonly socketPair: NonNullable<Syscalls['socketPair']>;
}

function bind(koffi: Koffi): Bound {
  // null: this process itself, which holds the C library whatever its name is here.
  const library = koffi.load(null);
  const preadv2 = library.func(
    'int64_t preadv2(int fd, uintptr_t iov, int count, int64_t offset, int flags)',
  );
  const pwrite = library.func(
    'int64_t pwrite(int fd, uintptr_t bytes, size_t length, int64_t offset)',
  );
  const fallocate = library.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
  const fadvise = library.func(
    'int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)',
  );
  const lseek = library.func('int64_t lseek(int fd, int64_t offset, int whence)');
  const flock = library.func('int flock(int fd, int operation)');
  const poll = library.func('int poll(uintptr_t fds, unsigned long count, int timeout)');

  const statusOf = (result: number): number => (result < 0 ? -(koffi.errno() || EIO) : result);
  const addressOf = addressTable(koffi);
  const away = asynchronousCalls();
  return {
    addressOf,
    read: bindRead(preadv2, addressOf, statusOf),
    write: (fd, address, length, position) => statusOf(pwrite(fd, address, length, position)),
    allocate: (fd, mode, position, length, callback) =>
      away((done) => fallocate.async(fd, mode, position, length, done), statusOf, callback),
    readAhead: (fd, position, length, callback) =>
      // This one returns the errno itself.
      away((done) => fadvise.async(fd, position, length, FADV_WILLNEED, done), negative, callback),
    readAheadNow: (fd, position, length) => negative(fadvise(fd, position, length, FADV_WILLNEED)),
    ...bindCopyRange(library, { addressOf, away, statusOf }),
    allocateNow: (fd, mode, position, length) => statusOf(fallocate(fd, mode, position, length)),
    seek: (fd, position, whence) => statusOf(lseek(fd, position, whence)),
    lock: (fd) => statusOf(flock(fd, LOCK_EX_NB)),
    peerState: bindPeerState(poll, addressOf),
    ...bindSocketFacts(library, addressOf, statusOf),
    ...bindKernelTalk(library, addressOf, statusOf),
  };
}

/**
 * Addresses by ArrayBuffer, since asking koffi each time costs more than the rest of the call. The last
 * one is also held: that keeps the memory alive while the kernel works on it.
 */
function addressTable(koffi: Koffi): (buffer: Buffer) => number {
  const bases = new WeakMap<ArrayBufferLike, number>();
  let heldStore: ArrayBufferLike | null = null;
  let heldBase = 0;
  return (buffer) => {
    const store = buffer.buffer;
    if (store !== heldStore) {
      let base = bases.get(store);
      if (base === undefined) {
        base = Number(koffi.address(new Uint8Array(store)));
        assert(Number.isSafeInteger(base), 'an address does not fit a number');
        bases.set(store, base);
      }
      heldStore = store;
      heldBase = base;
    }
    return heldBase + buffer.byteOffset;
  };
}

function bindRead(
  preadv2: Foreign,
  addressOf: Syscalls['addressOf'],
  statusOf: (result: number) => number,
): Bound['read'] {
  // struct iovec { void *iov_base; size_t iov_len; }, filled anew for each call.
  const vector = Buffer.from(new ArrayBuffer(16));
  const words = new Uint32Array(vector.buffer);
  const vectorAddress = addressOf(vector);
  return (fd, address, length, position, flags) => {
    words[0] = address >>> 0;
    words[1] = Math.floor(address / 2 ** 32);
    words[2] = length;
    return statusOf(preadv2(fd, vectorAddress, 1, position, flags));
  };
}

function bindCopyRange(
  library: koffiTypes.LibraryHandle,
  {
    addressOf,
    away,
    statusOf,
  }: {
    addressOf: Syscalls['addressOf'];
    away: Away;
    statusOf: (result: number) => number;
  },
): Pick<Bound, 'copyRange' | 'copyRangeNow'> {
  let copy: Foreign;
  try {
    copy = library.func(
      'int64_t copy_file_range(int from, uintptr_t at, int into, uintptr_t to, size_t length, uint32_t flags)',
    );
  } catch {
    return { copyRange: null, copyRangeNow: () => -EOPNOTSUPP };
  }
  // Two off_t, which the call moves on: a pair for each call on its way, used again afterwards.
  const free: Buffer[] = [];
  const placed = (position: number): Buffer => {
    const offsets = free.pop() ?? Buffer.from(new ArrayBuffer(16));
    offsets.writeBigInt64LE(BigInt(position), 0);
    offsets.writeBigInt64LE(BigInt(position), 8);
    return offsets;
  };
  return {
    copyRangeNow: (from, into, position, length) => {
      const offsets = placed(position);
      const address = addressOf(offsets);
      const result = statusOf(copy(from, address, into, address + 8, length, 0) as number);
      free.push(offsets);
      return result;
    },
    copyRange: (from, into, position, length, callback) => {
      const offsets = placed(position);
      const address = addressOf(offsets);
      away(
        (done) => copy.async(from, address, into, address + 8, length, 0, done),
        statusOf,
        (result) => {
          free.push(offsets);
          callback(result);
        },
      );
    },
  };
}

function bindPeerState(poll: Foreign, addressOf: Syscalls['addressOf']): Bound['peerState'] {
  // struct pollfd { int fd; short events; short revents; }, filled anew for each call. Its address is taken
  // once: the closure holds the memory.
  const entry = Buffer.from(new ArrayBuffer(8));
  const ints = new Int32Array(entry.buffer);
  const shorts = new Int16Array(entry.buffer);
  const address = addressOf(entry);
  return (fd) => {
    ints[0] = fd;
    shorts[2] = POLLRDHUP;
    shorts[3] = 0;
    if ((poll(address, 1, 0) as number) < 0) return 'unknown';
    const seen = shorts[3];
    if (seen === 0) return 'open';
    if ((seen & POLLNVAL) !== 0) return 'unknown';
    return (seen & (POLLERR | POLLHUP)) === 0 ? 'ended' : 'dead';
  };
}

function bindSocketFacts(
  library: koffiTypes.LibraryHandle,
  addressOf: Syscalls['addressOf'],
  statusOf: (result: number) => number,
): Pick<Bound, 'accepts' | 'socketName' | 'setSendBuffer'> {
  const getsockopt = library.func(
    'int getsockopt(int fd, int level, int name, uintptr_t value, uintptr_t length)',
  );
  const setsockopt = library.func(
    'int setsockopt(int fd, int level, int name, uintptr_t value, uint32_t length)',
  );
  const getsockname = library.func('int getsockname(int fd, uintptr_t name, uintptr_t length)');
  const length = Buffer.from(new ArrayBuffer(4));
  const lengthWord = new Uint32Array(length.buffer);
  const lengthAddress = addressOf(length);
  const value = Buffer.from(new ArrayBuffer(SOCKET_NAME_BYTES_MAX));
  const valueWord = new Int32Array(value.buffer);
  const valueAddress = addressOf(value);
  return {
    accepts(fd) {
      lengthWord[0] = 4;
      const status = statusOf(
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, valueAddress, lengthAddress),
      );
      return status < 0 ? status : (valueWord[0] ?? 0);
    },
    setSendBuffer(fd, bytes) {
      valueWord[0] = bytes;
      return statusOf(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, valueAddress, 4));
    },
    socketName(fd) {
      lengthWord[0] = SOCKET_NAME_BYTES_MAX;
      const status = statusOf(getsockname(fd, valueAddress, lengthAddress));
      // The system reports the whole length, also of a name that it had to cut.
      const bytes = Math.min(lengthWord[0] ?? 0, SOCKET_NAME_BYTES_MAX);
      return status < 0 ? status : Buffer.from(value.subarray(0, bytes));
    },
  };
}

function bindKernelTalk(
  library: koffiTypes.LibraryHandle,
  addressOf: Syscalls['addressOf'],
  statusOf: (result: number) => number,
): Pick<Bound, 'netlink' | 'socketPair'> {
  const socket = library.func('int socket(int domain, int type, int protocol)');
  const socketpair = library.func(
    'int socketpair(int domain, int type, int protocol, uintptr_t pair)',
  );
  const send = library.func('int64_t send(int fd, uintptr_t bytes, size_t length, int flags)');
  const recv = library.func('int64_t recv(int fd, uintptr_t bytes, size_t length, int flags)');
  const setsockopt = library.func(
    'int setsockopt(int fd, int level, int name, uintptr_t value, uint32_t length)',
  );
  const words = Buffer.from(new ArrayBuffer(8));
  const view = new Int32Array(words.buffer);
  const wordsAddress = addressOf(words);
  return {
    netlink: {
      open: () => statusOf(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC)),
      send: (fd, message) => statusOf(send(fd, addressOf(message), message.length, MSG_DONTWAIT)),
      receive: (fd, into) => statusOf(recv(fd, addressOf(into), into.length, MSG_DONTWAIT)),
      join(fd, group) {
        view[0] = group;
        return statusOf(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, wordsAddress, 4));
      },
    },
    socketPair() {
      const status = statusOf(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wordsAddress));
      return status < 0 ? status : [view[0] ?? -1, view[1] ?? -1];
    },
  };
}

type Away = (
  call: (done: (error: unknown, result: number) => void) => void,
  statusOf: (result: number) => number,
  callback: (result: number) => void,
) => void;

/** koffi refuses more than 256 asynchronous calls: those past a bound of ours wait their turn. */
function asynchronousCalls(): Away {
  const waiting: (() => void)[] = [];
  let running = 0;
  return (call, statusOf, callback) => {
    const run = (): void => {
      running += 1;
      call((error, result) => {
        // koffi hands over the errno of its thread for as long as this callback runs.
        const status = error === null ? statusOf(result) : -EIO;
        running -= 1;
        waiting.shift()?.();
        callback(status);
      });
    };
    if (running < SYSCALLS_IN_FLIGHT_MAX) run();
    else waiting.push(run);
  };
}

function negative(errno: number): number {
  return errno === 0 ? 0 : -errno;
}

/** Tries each call on a file that holds one block of data; null when no file could be made there. */
function probe(bound: Bound, parent: string): Syscalls | null {
  let directory: string | null = null;
  const descriptors: number[] = [];
  try {
    directory = mkdtempSync(join(parent, 'blockferry-probe-'));
    const path = join(directory, 'probe');
    const first = openSync(path, 'wx+', 0o600);
    descriptors.push(first);
    writeSync(first, Buffer.alloc(BLOCK_BYTES, PROBE_BYTE), 0, BLOCK_BYTES, 0);
    const second = openSync(path, 'r+');
    descriptors.push(second);
    return {
      addressOf: bound.addressOf,
      read: readWorks(bound, first) ? bound.read : null,
      write: writeWorks(bound, first) ? bound.write : null,
      seek: seekWorks(bound, first) ? bound.seek : null,
      lock: lockWorks(bound, first, second) ? bound.lock : null,
      copyRange: copyRangeWorks(bound, first, join(directory, 'copy')) ? bound.copyRange : null,
      readAhead: readAheadWorks(bound, first) ? bound.readAhead : null,
      peerState: peerStateWorks(bound, first) ? bound.peerState : null,
      accepts: bound.accepts(first) === -ENOTSOCK ? bound.accepts : null,
      socketName: bound.socketName(first) === -ENOTSOCK ? bound.socketName : null,
      setSendBuffer: bound.setSendBuffer(first, 1) === -ENOTSOCK ? bound.setSendBuffer : null,
      netlink: bound.netlink.send(first, Buffer.alloc(1)) === -ENOTSOCK ? bound.netlink : null,
      socketPair: socketPairWorks(bound) ? bound.socketPair : null,
      // Last: it may take the data away.
      allocate: allocateWorks(bound, first) ? bound.allocate : null,
    };
  } catch {
    return null;
  } finally {
    for (const descriptor of descriptors) closeSync(descriptor);
    if (directory !== null) rmSync(directory, { recursive: true, force: true });
  }
}

function socketPairWorks({ socketPair, peerState }: Bound): boolean {
  const pair = socketPair();
  if (typeof pair === 'number') return false;
  const open = pair.every((fd) => peerState(fd) === 'open');
  for (const fd of pair) closeSync(fd);
  return open;
}

function readWorks({ read, addressOf }: Bound, fd: number): boolean {
  const bytes = Buffer.alloc(BLOCK_BYTES + 1);
  const count = read(fd, addressOf(bytes) + 1, BLOCK_BYTES, 0, 0);
  const placed = bytes[0] === 0 && bytes[1] === PROBE_BYTE && bytes.at(-1) === PROBE_BYTE;
  const noWait = read(fd, addressOf(bytes), 1, 0, RWF_NOWAIT);
  const noWaitKnown = [1, -EWOULDBLOCK, -EOPNOTSUPP].includes(noWait);
  const refused = read(-1, addressOf(bytes), 1, 0, 0) === -EBADF;
  return count === BLOCK_BYTES && placed && noWaitKnown && refused;
}

function writeWorks({ write, addressOf }: Bound, fd: number): boolean {
  const bytes = Buffer.from([0, 1, 2, 3]);
  const written = write(fd, addressOf(bytes) + 1, 3, 8);
  const back = Buffer.alloc(5);
  readSync(fd, back, 0, 5, 7);
  const placed = back.equals(Buffer.from([PROBE_BYTE, 1, 2, 3, PROBE_BYTE]));
  return written === 3 && placed && write(-1, addressOf(bytes), 1, 0) === -EBADF;
}

function seekWorks({ seek }: Bound, fd: number): boolean {
  const data = seek(fd, 0, SEEK_DATA);
  const hole = seek(fd, 0, SEEK_HOLE);
  return data === 0 && hole === BLOCK_BYTES && seek(fd, BLOCK_BYTES, SEEK_DATA) === -ENXIO;
}

function readAheadWorks({ readAheadNow }: Bound, fd: number): boolean {
  return readAheadNow(fd, 0, BLOCK_BYTES) === 0 && readAheadNow(-1, 0, 1) === -EBADF;
}

/** A file system that cannot is no failure of the call: each file finds out for itself. */
function copyRangeWorks({ copyRangeNow }: Bound, fd: number, path: string): boolean {
  const into = openSync(path, 'wx+', 0o600);
  try {
    const copied = copyRangeNow(fd, into, 1, BLOCK_BYTES - 1);
    if (copied < 0) return copied !== -EBADF;
    const back = Buffer.alloc(BLOCK_BYTES + 1);
    const length = readSync(into, back, 0, back.length, 0);
    const placed = length === BLOCK_BYTES && back[0] === 0 && back[1] === PROBE_BYTE;
    const refused = copyRangeNow(-1, into, 0, 1) === -EBADF;
    return copied === BLOCK_BYTES - 1 && placed && back[length - 1] === PROBE_BYTE && refused;
  } finally {
    closeSync(into);
  }
}

function lockWorks({ lock }: Bound, first: number, second: number): boolean {
  return lock(first) === 0 && lock(second) === -EWOULDBLOCK;
}

/** A file is never at the end of a peer, and what is not open is said to be so. */
function peerStateWorks({ peerState }: Bound, fd: number): boolean {
  return peerState(fd) === 'open' && peerState(NO_DESCRIPTOR) === 'unknown';
}

/** A file system that cannot punch is no failure of the call: each file finds out for itself. */
function allocateWorks({ allocateNow }: Bound, fd: number): boolean {
  const punched = allocateNow(fd, PUNCH_HOLE, 0, BLOCK_BYTES);
  const after = Buffer.alloc(1);
  readSync(fd, after, 0, 1, 0);
  const expected = punched === 0 ? 0 : PROBE_BYTE;
  const known = punched === 0 || punched === -EOPNOTSUPP;
  return known && after[0] === expected && allocateNow(-1, PUNCH_HOLE, 0, 1) === -EBADF;
}
