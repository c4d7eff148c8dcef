/** What the benchmark asks of a server, and what the project aims at. */

/** How a client reaches a server; TLS goes over a unix socket, like most rows. */
export type Transport = 'unix' | 'tcp' | 'tls';

export interface Workload {
  readonly name: string;
  /** Whose rate counts; `both` is the sum. */
  readonly direction: 'read' | 'write' | 'both';
  /** fio's own words. */
  readonly options: readonly string[];
  /** Operations for small requests, bytes for large ones. */
  readonly unit: 'iops' | 'bytes';
  /** Least ratio to the reference contender that the project aims at. */
  readonly target?: number;
  /** Default `unix`. */
  readonly transport?: Transport;
  /** The page cache is emptied of the contender's files before each round. */
  readonly cold?: boolean;
}

type Extra = Partial<Pick<Workload, 'transport' | 'cold'>> & { readonly words?: readonly string[] };

function row(
  name: string,
  rw: string,
  size: string,
  depth: number,
  target: number | undefined,
  { words = [], ...extra }: Extra = {},
): Workload {
  const direction = rw.endsWith('rw') ? 'both' : rw.endsWith('read') ? 'read' : 'write';
  return {
    name,
    direction,
    options: [`rw=${rw}`, `bs=${size}`, `iodepth=${depth}`, ...words],
    unit: size === '4k' ? 'iops' : 'bytes',
    ...(target === undefined ? {} : { target }),
    ...extra,
  };
}

const MIXED = ['rwmixread=70', 'numjobs=4'];

/** Against nbdkit's file plugin and qemu-nbd; the reference is nbdkit. */
export const SERVING: readonly Workload[] = [
  row('4k random read, depth 1', 'randread', '4k', 1, 0.95),
  row('4k random read, depth 32', 'randread', '4k', 32, 1.5),
  row('4k random read, depth 32, TCP', 'randread', '4k', 32, 1.5, { transport: 'tcp' }),
  row('4k random write, depth 1', 'randwrite', '4k', 1, 0.95),
  row('4k random write, depth 32', 'randwrite', '4k', 32, 1.1),
  row('4k random write, depth 32, fsync every 32', 'randwrite', '4k', 32, 1.1, {
    words: ['fsync=32'],
  }),
  row('4 connections, 4k mixed 70/30, depth 16', 'randrw', '4k', 16, 1, { words: MIXED }),
  row('256k read, depth 8', 'read', '256k', 8, 1),
  row('256k write, depth 8', 'write', '256k', 8, 1),
  row('1m read, depth 8', 'read', '1m', 8, 1),
  row('1m write, depth 8', 'write', '1m', 8, 1),
  row('256k read, depth 8, TLS', 'read', '256k', 8, 1, { transport: 'tls' }),
  row('4k random read, depth 32, cold cache', 'randread', '4k', 32, 1, { cold: true }),
];

/** Against qemu-storage-daemon's background mirror, which is the reference. */
export const MIRRORED: readonly Workload[] = [
  row('4k random write, depth 32, mirrored', 'randwrite', '4k', 32, 2.5),
  row('256k write, depth 8, mirrored', 'write', '256k', 8, undefined),
];
