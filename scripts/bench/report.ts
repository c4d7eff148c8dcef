/** The results as Markdown, for a terminal and for docs/benchmarks.md alike. */
import { execFileSync } from 'node:child_process';
import { cpus, release, totalmem } from 'node:os';
import type { FootprintValue } from './footprint.ts';
import {
  aimText,
  amount,
  isReached,
  outcomeText,
  type Comparison,
  type Unit,
} from './layers/comparison.ts';
import { median, type Measured, type Series } from './measure.ts';
import { otherRuntimes, OTHER_NODE_RATIO_MIN, ratio, reaches } from './verdict.ts';

function cell(samples: readonly number[], unit: Unit): string {
  const middle = amount(median(samples), unit);
  if (samples.length < 2) return middle;
  const [low, high] = [Math.min(...samples), Math.max(...samples)];
  return `${middle} (${amount(low, unit).split(' ')[0]} - ${amount(high, unit).split(' ')[0]})`;
}

function markdown(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((text, i) => text.padEnd(widths[i] ?? 0)).join(' | ')} |`;
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  const [head = [], ...body] = rows;
  return [line(head), rule, ...body.map(line)].join('\n');
}

/** Every contender of a table once, in the order of its first row with all of them. */
function contendersOf(results: readonly Measured[]): string[] {
  const rows = results.map(({ series }) => series.map(({ contender }) => contender));
  return rows.reduce((most, row) => (row.length > most.length ? row : most), []);
}

function seriesOf(measured: Measured, contender: string): Series | undefined {
  return measured.series.find((series) => series.contender === contender);
}

function aim(target: number | undefined, value: number): string {
  if (target === undefined) return '';
  return `>= ${target}${reaches(value, target) ? '' : ', missed'}`;
}

/** One row a workload: medians (least - greatest), and the ratio of medians beside its target. */
export function speedTable(results: readonly Measured[], reference: string): string {
  const names = contendersOf(results);
  const head = ['workload', ...names, `ratio to ${reference}`, 'target'];
  const rows = results.map((measured) => {
    const value = ratio(measured, 'blockferry', reference);
    const { name, unit, target } = measured.workload;
    const cells = names.map((contender) => {
      const series = seriesOf(measured, contender);
      return series === undefined ? '' : cell(series.samples, unit);
    });
    return [name, ...cells, value.toFixed(2), aim(target, value)];
  });
  return markdown([head, ...rows]);
}

/** Blockferry under other Nodes: ratios to itself under the one that runs this, and to the reference. */
export function runtimeTable(results: readonly Measured[], reference: string): string {
  const others = [...new Set(results.flatMap(otherRuntimes))];
  const head = [
    'workload',
    ...others.flatMap((name) => [`${name} / ${process.version}`, 'target', `/ ${reference}`]),
  ];
  const rows = results.map((measured) => [
    measured.workload.name,
    ...others.flatMap((name) => {
      const value = ratio(measured, name, 'blockferry');
      const toReference = ratio(measured, name, reference);
      return [value.toFixed(2), aim(OTHER_NODE_RATIO_MIN, value), toReference.toFixed(2)];
    }),
  ]);
  return markdown([head, ...rows]);
}

function footprintCell({ bound, value, note }: FootprintValue): string {
  const text = `${value.toFixed(bound.unit === 's' ? 3 : 1)} ${bound.unit}`;
  const extra = note === '' ? '' : ` (${note})`;
  return `${text}${extra}${value < bound.below ? '' : ', missed'}`;
}

/** One row a bound, one column a runtime. */
export function footprintTable(values: readonly FootprintValue[]): string {
  const names = [...new Set(values.map(({ contender }) => contender))];
  const bounds = [...new Set(values.map(({ bound }) => bound))];
  const rows = bounds.map((bound) => [
    bound.name,
    ...names.map((name) => {
      const found = values.find((entry) => entry.bound === bound && entry.contender === name);
      return found === undefined ? '' : footprintCell(found);
    }),
    `< ${bound.below} ${bound.unit}`,
  ]);
  return markdown([['footprint', ...names, 'target'], ...rows]);
}

/** One row a comparison; ratios and differences are those of medians. */
export function comparisonTable(title: string, comparisons: readonly Comparison[]): string {
  const head = [title, 'measured', 'held against', 'outcome', 'target'];
  const rows = comparisons.map((comparison) => {
    const { name, unit, samples, against } = comparison;
    const other = against === null ? '' : `${cell(against.samples, unit)}, ${against.name}`;
    const target = `${aimText(comparison)}${isReached(comparison) ? '' : ', missed'}`;
    return [name, cell(samples, unit), other, outcomeText(comparison), target];
  });
  return markdown([head, ...rows]);
}

/** Seconds from the end of a round until the mirror held everything: median and greatest. */
export function catchUpTable(results: readonly Measured[]): string {
  const names = results[0]?.series.map((series) => series.contender) ?? [];
  const rows = results.map((measured) => [
    measured.workload.name,
    ...measured.series.map(({ catchUpSeconds: seconds }) =>
      seconds.length === 0
        ? ''
        : `${median(seconds).toFixed(2)} (${Math.max(...seconds).toFixed(2)})`,
    ),
  ]);
  return markdown([['seconds until the mirror is equal: median (greatest)', ...names], ...rows]);
}

export interface Surroundings {
  readonly time: string;
  readonly node: string;
  readonly kernel: string;
  readonly cpu: string;
  readonly memory_gib: number;
  readonly tools: readonly string[];
}

function firstLine(command: string): string {
  try {
    return (execFileSync(command, ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? '').trim();
  } catch {
    return `${command}: unknown`;
  }
}

export function surroundings(): Surroundings {
  const all = cpus();
  return {
    time: new Date().toISOString(),
    node: process.version,
    kernel: release(),
    cpu: `${all.length} x ${all[0]?.model ?? 'unknown'}`,
    memory_gib: Math.round(totalmem() / 2 ** 30),
    tools: ['fio', 'nbdkit', 'qemu-nbd', 'qemu-storage-daemon'].map(firstLine),
  };
}
