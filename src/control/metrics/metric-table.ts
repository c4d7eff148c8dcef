/**
 * What `/metrics` tells, one entry a metric (docs/operating/metrics.md). Pure: the status goes in, samples come out.
 *
 * Invariants:
 * - A name, once told, keeps its meaning, unit and labels. Seconds and bytes; totals count since the node started.
 * - What is not known has no sample: a gap in a graph, never a zero.
 * - A state is one sample for each state that there is: 1 for the one that it is in, else 0.
 */
import { MIRROR_STATES, SOURCE_STATES, type MirrorStatus } from '../../replicator/status.ts';
import { VOLUME_ROLES, type NodeFacts, type NodeStatus, type VolumeStatus } from '../status.ts';

/** What the metrics are made of. */
export interface Measured {
  readonly facts: NodeFacts;
  readonly status: NodeStatus;
  /** Events since the node started, by kind. */
  readonly events: ReadonlyMap<string, number>;
}

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  /** Null: not known. */
  readonly value: number | null;
}

export interface Metric {
  readonly name: string;
  readonly type: 'gauge' | 'counter';
  readonly help: string;
  readonly labels: readonly string[];
  readonly samples: (measured: Measured) => Sample[];
}

type Values<T> = (one: T) => number | null | readonly [Readonly<Record<string, string>>, number][];

/** Of the node. */
const OF_NODE: readonly Metric[] = [
  {
    name: 'blockferry_build_info',
    type: 'gauge',
    help: 'Version and name of the node; always 1',
    labels: ['node', 'version'],
    samples: ({ facts }) => [{ labels: { node: facts.name, version: facts.version }, value: 1 }],
  },
  ofNode('blockferry_connections', 'NBD connections now', ({ facts }) => facts.clients.connections),
  ofNode(
    'blockferry_handshakes',
    'Of these, not yet at an export',
    ({ facts }) => facts.clients.handshakes,
  ),
  ofNode(
    'blockferry_connections_accepted_total',
    'NBD connections that were accepted',
    ({ facts }) => facts.clients.accepted,
  ),
  ofNode(
    'blockferry_connections_refused_total',
    'NBD connections closed at accept, by a limit',
    ({ facts }) => facts.clients.refused,
  ),
  ofNode(
    'blockferry_handshakes_failed_total',
    'Handshakes that the node ended: malformed, too slow, TLS failed',
    ({ facts }) => facts.clients.failed,
  ),
  ofNode(
    'blockferry_exports_denied_total',
    'Times that an export was refused by its rules',
    ({ facts }) => facts.clients.denied,
  ),
  ofNode(
    'blockferry_disk_free_bytes',
    'Free on the file system of the data directory',
    ({ status }) => status.space.free_bytes,
  ),
  ofNode(
    'blockferry_disk_total_bytes',
    'Size of the file system of the data directory',
    ({ status }) => status.space.total_bytes,
  ),
  ofNode(
    'blockferry_damaged_volumes',
    'Volume directories that could not be opened',
    ({ status }) => status.damaged.length,
  ),
  {
    name: 'blockferry_events_total',
    type: 'counter',
    help: 'Events by kind, see docs/reference/events.md',
    labels: ['kind'],
    samples: ({ events }) => [...events].map(([kind, value]) => ({ labels: { kind }, value })),
  },
];

const OF_VOLUME: readonly Metric[] = [
  ofVolume('blockferry_volume_size_bytes', 'Size of the volume', (volume) => volume.size_bytes),
  ofVolume(
    'blockferry_volume_allocated_bytes',
    'What the volume takes on the disk, with its snapshots',
    (volume) => volume.allocated_bytes,
  ),
  ofVolume('blockferry_volume_role', 'Role of the volume', 'role', ({ role }) =>
    oneOf('role', VOLUME_ROLES, role),
  ),
  ofVolume('blockferry_volume_failed', 'The volume refuses writes', ({ failure }) =>
    failure === null ? 0 : 1,
  ),
  ofVolume('blockferry_volume_fenced', 'Writes wait: a mirror was promoted', ({ fenced }) =>
    fenced === null ? 0 : 1,
  ),
  ofVolume(
    'blockferry_volume_connections',
    'NBD connections that use the volume now',
    (volume) => volume.connections,
  ),
  ofVolume('blockferry_volume_snapshots', 'Snapshots of the volume', (volume) => volume.snapshots),
  ofVolume(
    'blockferry_volume_generation',
    'Era of writing that the volume is in',
    (volume) => volume.generation,
  ),
  ofVolume(
    'blockferry_volume_epoch',
    'Last epoch of the volume; its rate is that of epochs',
    (volume) => volume.position.epoch,
  ),
  ofVolume(
    'blockferry_volume_requests_total',
    'Reads and writes, answered at once or by way of the thread pool',
    ['operation', 'way'],
    ({ io }) => [
      [{ operation: 'read', way: 'at_once' }, io.reads_at_once],
      [{ operation: 'read', way: 'pool' }, io.reads_on_pool],
      [{ operation: 'write', way: 'at_once' }, io.writes_at_once],
      [{ operation: 'write', way: 'pool' }, io.writes_on_pool],
    ],
  ),
  ofVolume(
    'blockferry_volume_pool_depth',
    'Reads and writes that the thread pool works on, or has queued',
    ({ io }) => io.pool_depth,
  ),
  ofVolume(
    'blockferry_volume_slow_write_periods_total',
    'Times that writes became so slow that they went to the pool for a while',
    ({ io }) => io.slow_write_periods,
  ),
  ofVolume(
    'blockferry_volume_syncs_total',
    'Syncs of the data file for FLUSH and FUA',
    ({ io }) => io.syncs,
  ),
];

const OF_MIRROR: readonly Metric[] = [
  ofMirror('blockferry_mirror_state', 'State of the mirror', 'state', ({ state }) =>
    oneOf('state', MIRROR_STATES, state),
  ),
  ofMirror(
    'blockferry_mirror_consistent',
    'The mirror holds a state that the volume really had',
    ({ consistent }) => (consistent ? 1 : 0),
  ),
  ofMirror(
    'blockferry_mirror_lag_seconds',
    "How old the mirror's content is",
    (mirror) => mirror.lag_seconds,
  ),
  ofMirror(
    'blockferry_mirror_host_delay_seconds',
    'How long a write of the host is held back because the mirror lags',
    (mirror) => mirror.host_delay_ms / 1000,
  ),
  ofMirror(
    'blockferry_mirror_eta_seconds',
    'Time until it has caught up; absent while unknown',
    (mirror) => mirror.eta_seconds,
  ),
  ofMirror(
    'blockferry_mirror_epoch',
    'Last epoch that is durable there',
    ({ position }) => position?.epoch ?? null,
  ),
  ofMirror(
    'blockferry_mirror_staged_bytes',
    'Written here and not yet safe there',
    (mirror) => mirror.staged_bytes,
  ),
  ofMirror(
    'blockferry_mirror_dirty_bytes',
    'Marked for the next delta run',
    (mirror) => mirror.dirty_bytes,
  ),
  ofMirror(
    'blockferry_mirror_suspect_bytes',
    'Still to be compared',
    (mirror) => mirror.suspect_bytes,
  ),
  ofMirror(
    'blockferry_mirror_sent_bytes_total',
    'Payload sent to the mirror',
    (mirror) => mirror.bytes_sent,
  ),
  ofMirror(
    'blockferry_mirror_delta_sent_bytes_total',
    'Of these, in delta runs',
    (mirror) => mirror.delta_bytes_sent,
  ),
  ofMirror(
    'blockferry_mirror_compared_bytes_total',
    'Compared with the mirror',
    (mirror) => mirror.bytes_compared,
  ),
  ofMirror(
    'blockferry_mirror_compression_active',
    'Payloads to the mirror are compressed now',
    ({ compression }) => (compression.active ? 1 : 0),
  ),
  ofMirror(
    'blockferry_mirror_compressed_in_bytes_total',
    'Payload that was sent compressed, before compression',
    ({ compression }) => compression.bytes_in,
  ),
  ofMirror(
    'blockferry_mirror_compressed_out_bytes_total',
    'The same, as it was sent',
    ({ compression }) => compression.bytes_out,
  ),
];

const OF_SOURCE: readonly Metric[] = [
  ofSource('blockferry_source_state', 'What a secondary does', 'state', (source) =>
    oneOf('state', SOURCE_STATES, source.state),
  ),
  ofSource(
    'blockferry_source_lag_seconds',
    'How old the content of a secondary is',
    (source) => source.lag_seconds,
  ),
  ofSource(
    'blockferry_source_consistent_timestamp_seconds',
    "The primary's time of what a secondary holds, in seconds since 1970",
    ({ consistent_at: at }) => (at === null ? null : Date.parse(at) / 1000),
  ),
  ofSource(
    'blockferry_source_received_epoch',
    'Last epoch that arrived whole',
    (source) => source.received_epoch,
  ),
  ofSource(
    'blockferry_source_durable_epoch',
    'Last epoch that is in the journal',
    (source) => source.durable_epoch,
  ),
  ofSource(
    'blockferry_source_applied_epoch',
    'Last epoch that can be read',
    (source) => source.applied_epoch,
  ),
  ofSource(
    'blockferry_source_received_bytes_total',
    'Payload received from the primary',
    (source) => source.bytes_received,
  ),
  ofSource(
    'blockferry_source_journal_bytes',
    'In the intake journal',
    (source) => source.journal_bytes,
  ),
];

export const METRICS: readonly Metric[] = [...OF_NODE, ...OF_VOLUME, ...OF_MIRROR, ...OF_SOURCE];

function typeOf(name: string): Metric['type'] {
  return name.endsWith('_total') ? 'counter' : 'gauge';
}

function ofNode(name: string, help: string, value: (measured: Measured) => number | null): Metric {
  const samples = (measured: Measured): Sample[] => [{ labels: {}, value: value(measured) }];
  return { name, type: typeOf(name), help, labels: [], samples };
}

type Source = NonNullable<VolumeStatus['source']>;
type Arguments<T> =
  | readonly [name: string, help: string, values: Values<T>]
  | readonly [name: string, help: string, labels: string | readonly string[], values: Values<T>];

function ofVolume(...told: Arguments<VolumeStatus>): Metric {
  return each(told, ['volume'], ({ status }) =>
    status.volumes.map((volume) => [{ volume: volume.name }, volume]),
  );
}

function ofMirror(...told: Arguments<MirrorStatus>): Metric {
  return each(told, ['volume', 'mirror'], ({ status }) =>
    status.volumes.flatMap(({ name: volume, mirrors }) =>
      mirrors.map((mirror) => [{ volume, mirror: mirror.uri }, mirror] as const),
    ),
  );
}

function ofSource(...told: Arguments<Source>): Metric {
  return each(told, ['volume', 'node'], ({ status }) =>
    status.volumes.flatMap(({ name: volume, source }) =>
      source === null ? [] : [[{ volume, node: source.node }, source] as const],
    ),
  );
}

type Labelled<T> = readonly [Readonly<Record<string, string>>, T];

/** A metric with samples of each thing that there is of a kind. */
function each<T>(
  told: Arguments<T>,
  own: readonly string[],
  all: (measured: Measured) => readonly Labelled<T>[],
): Metric {
  const [name, help] = told;
  const [more, values] = told.length === 3 ? [[], told[2]] : [told[2], told[3]];
  const labels = [...own, ...(typeof more === 'string' ? [more] : more)];
  const samples = (measured: Measured): Sample[] =>
    all(measured).flatMap(([ofThing, thing]) => {
      const value = values(thing);
      if (value === null || typeof value === 'number') return [{ labels: ofThing, value }];
      return value.map(([further, number]) => ({
        labels: { ...ofThing, ...further },
        value: number,
      }));
    });
  return { name, type: typeOf(name), help, labels, samples };
}

function oneOf(
  label: string,
  all: readonly string[],
  is: string,
): [Readonly<Record<string, string>>, number][] {
  return all.map((one) => [{ [label]: one }, one === is ? 1 : 0]);
}
