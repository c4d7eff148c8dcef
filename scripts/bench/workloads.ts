/** What the benchmark asks of a server, and what the project aims at. */

export interface Workload {
  readonly name: string;
  readonly direction: 'read' | 'write';
  /** fio's own words. */
  readonly options: readonly string[];
  /** Operations for small requests, bytes for large ones. */
  readonly unit: 'iops' | 'bytes';
  /** Least ratio to the reference contender that the project aims at. */
  readonly target?: number;
  /** The page cache is emptied of the contender's files before each round. */
  readonly cold?: boolean;
  /** Not part of a quick run. */
  readonly long?: boolean;
}

const small = (rw: string, depth: number): string[] => [`rw=${rw}`, 'bs=4k', `iodepth=${depth}`];
const large = (rw: string, depth: number): string[] => [`rw=${rw}`, 'bs=256k', `iodepth=${depth}`];

/** Against nbdkit's file plugin and qemu-nbd; the reference is nbdkit. */
export const SERVING: readonly Workload[] = [
  {
    name: '4k random read, depth 1',
    direction: 'read',
    unit: 'iops',
    options: small('randread', 1),
  },
  {
    name: '4k random read, depth 32',
    direction: 'read',
    unit: 'iops',
    options: small('randread', 32),
    target: 1.2,
  },
  {
    name: '4k random write, depth 1',
    direction: 'write',
    unit: 'iops',
    options: small('randwrite', 1),
  },
  {
    name: '4k random write, depth 32',
    direction: 'write',
    unit: 'iops',
    options: small('randwrite', 32),
    target: 0.8,
  },
  {
    name: '4k random write, depth 32, flush every 32',
    direction: 'write',
    unit: 'iops',
    options: [...small('randwrite', 32), 'fsync=32'],
  },
  { name: '256k read, depth 8', direction: 'read', unit: 'bytes', options: large('read', 8) },
  { name: '256k write, depth 8', direction: 'write', unit: 'bytes', options: large('write', 8) },
  {
    name: '4k random read, depth 32, cold cache',
    direction: 'read',
    unit: 'iops',
    options: small('randread', 32),
    cold: true,
    long: true,
  },
];

/** Against qemu-storage-daemon's background mirror, which is the reference. */
export const MIRRORED: readonly Workload[] = [
  {
    name: '4k random write, depth 32, mirrored',
    direction: 'write',
    unit: 'iops',
    options: small('randwrite', 32),
    target: 2.5,
  },
  {
    name: '256k write, depth 8, mirrored',
    direction: 'write',
    unit: 'bytes',
    options: large('write', 8),
  },
];
