/** Mirrors, and the source of a secondary, as a person reads them. Pure. */
import type {
  MirrorState,
  MirrorStatus,
  SourceState,
  SourceStatus,
  VerifyReport,
} from '../../replicator/status.ts';
import { formatBytes, formatSeconds, formatTable, oneLine, paint, type Tone } from './format.ts';

const TONES: Record<MirrorState, Tone> = {
  connecting: 'busy',
  comparing: 'busy',
  shipping: 'busy',
  streaming: 'good',
  delta: 'bad',
  paused: 'busy',
  diverged: 'bad',
  'not-converging': 'bad',
};

const SOURCE_TONES: Record<SourceState, Tone> = {
  waiting: 'busy',
  receiving: 'busy',
  streaming: 'good',
  failed: 'bad',
};

export function renderMirrors(mirrors: readonly MirrorStatus[], colour: boolean): string {
  const rows = mirrors.map((mirror) => [
    oneLine(mirror.uri),
    mirror.lanes === 1 ? mirror.kind : `${mirror.kind}/${mirror.lanes}`,
    mirror.mode === 'sync' ? `sync/${mirror.stall_policy}` : mirror.mode,
    mirror.state,
    mirror.consistent ? 'yes' : 'no',
    formatBytes(mirror.staged_bytes),
    formatBytes(mirror.dirty_bytes + mirror.suspect_bytes),
    formatSeconds(mirror.lag_seconds),
    formatSeconds(mirror.eta_seconds),
    formatBytes(mirror.bytes_sent),
  ]);
  const [head, ...lines] = formatTable([HEADS, ...rows], '  ')
    .trimEnd()
    .split('\n');
  let text = `${head ?? ''}\n`;
  for (const [index, line] of lines.entries()) {
    const mirror = mirrors[index];
    if (mirror === undefined) continue;
    text += `${paint(line, TONES[mirror.state], colour)}\n`;
    if (mirror.limit !== null) text += `    at most ${formatBytes(mirror.limit)} a second\n`;
    if (mirror.compression.active) text += `    ${compressed(mirror.compression)}\n`;
    if (mirror.delta !== null) {
      text += `    delta ${mirror.delta}, last run ${mirror.last_run_at ?? 'none yet'}\n`;
    }
    if (mirror.host_delay_ms > 0) {
      text += `    host writes are held back ${mirror.host_delay_ms} ms each: it lags too much\n`;
    }
    if (mirror.refuses.length > 0) {
      text += `    refuses: ${mirror.refuses.map(oneLine).join(', ')}\n`;
    }
    if (mirror.last_refusal !== null) {
      text += `    last refusal: ${oneLine(mirror.last_refusal)}\n`;
    }
    if (mirror.last_error !== null) text += `    last error: ${oneLine(mirror.last_error)}\n`;
  }
  return text;
}

function compressed({ ratio }: MirrorStatus['compression']): string {
  return `compressed to ${Math.round((ratio ?? 1) * 100)} %`;
}

const HEADS = [
  'MIRROR',
  'KIND',
  'MODE',
  'STATE',
  'CONSISTENT',
  'STAGED',
  'DIRTY',
  'LAG',
  'ETA',
  'SENT',
];

export function renderSource(source: SourceStatus, colour: boolean): string {
  const { received_epoch: received, durable_epoch: durable, applied_epoch: applied } = source;
  const held =
    source.consistent_at === null
      ? ['nothing yet']
      : [
          `as of ${source.consistent_at}`,
          `lag ${formatSeconds(source.lag_seconds)}`,
          `epochs ${received} received, ${durable} durable, ${applied} readable`,
        ];
  const facts = [
    source.state,
    ...held,
    `${formatBytes(source.journal_bytes)} in the journal`,
    `${formatBytes(source.bytes_received)} received`,
  ];
  const line = `  mirror of node ${oneLine(source.node)}: ${facts.join(', ')}`;
  let text = `${paint(line, SOURCE_TONES[source.state], colour)}\n`;
  if (source.last_error !== null) text += `    last error: ${oneLine(source.last_error)}\n`;
  return text;
}

/** One line, and one for each run of blocks that differ. */
export function renderVerify(report: VerifyReport): string {
  const { bytes_compared: compared, bytes_differing: differing, ranges } = report;
  const found = differing === 0 ? 'no difference' : `${formatBytes(differing)} differ`;
  const then = report.repaired ? '; they are sent again' : '';
  const runs = ranges.map(({ offset, length }) => `  ${length} bytes from byte ${offset} on\n`);
  return `${formatBytes(compared)} compared, ${found}${then}\n${runs.join('')}`;
}
