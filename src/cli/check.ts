/**
 * `blockferry check`: a data directory that no node uses (--data), or a volume of a running node.
 *
 * The code that looks into a directory is loaded only when it is asked for.
 */
import type { Command } from 'commander';
import {
  countOf,
  findingStatus,
  repairStatus,
  volumeCheckStatus,
  type FindingStatus,
  type RepairStatus,
  type VolumeCheckStatus,
} from '../control/api/check-status.ts';
import type { NodeStatus } from '../control/status.ts';
import { BlockferryError } from '../io/errors.ts';
import { atFile, describePlace, finding } from '../volume/check/check-finding.ts';
import { volumePath } from './client.ts';
import { clientOf, print, printJson, wantsColour, type SharedOptions } from './context.ts';
import { oneLine, paint, type Tone } from './render/format.ts';
import { leaf } from './verb.ts';

interface CheckFlags extends SharedOptions {
  readonly all?: boolean;
  readonly data?: string;
  readonly repair?: boolean;
}

interface Report {
  /** Of the data directory itself. */
  readonly findings: readonly FindingStatus[];
  readonly volumes: readonly VolumeCheckStatus[];
  readonly repairs: readonly RepairStatus[];
}

const HELP = `
With --data the directory is opened here and no node may use it. VOLUME is a name, or an id where the log does not
tell the name any more. Nothing is changed without --repair, and with it only what is proven to be right.

Without --data a running node checks the volume while it is in use.

  blockferry check demo
  blockferry check --all --data /srv/blockferry --repair

Exit code 0: no faults; 1: faults remain. Every code of a finding: docs/operating/check.md.`;

export function addCheckVerb(program: Command): void {
  leaf(program, 'check [volume]', 'verify the log, the maps and the files of volumes')
    .option('--all', 'every volume, and what else lies in the data directory')
    .option('--data <dir>', 'look into this data directory; no node may use it')
    .option('--repair', 'mend what is proven to be right (with --data)')
    .addHelpText('after', HELP)
    .action(check);
}

async function check(volume: string | undefined, flags: CheckFlags): Promise<void> {
  const all = flags.all ?? false;
  if ((volume === undefined) !== all) {
    throw new BlockferryError('USAGE', 'name one volume to check, or give --all');
  }
  if (flags.repair === true && flags.data === undefined) {
    throw new BlockferryError('USAGE', '--repair needs --data: a volume in use is not repaired');
  }
  const report =
    flags.data === undefined
      ? await checkOnline(volume ?? null, flags)
      : await checkOffline(flags.data, volume ?? null, flags.repair ?? false);
  const findings = [...report.findings, ...report.volumes.flatMap((each) => each.findings)];
  const faults = countOf(findings, 'fault');
  const failed = report.repairs.filter(({ error }) => error !== null).length;
  if (flags.json) printJson({ ...report, faults, warnings: countOf(findings, 'warning') });
  else print(renderReport(report, wantsColour()));
  if (faults + failed === 0) return;
  const message =
    failed === 0
      ? `${counted(faults, 'fault')} found`
      : `${counted(faults, 'fault')} found, ${counted(failed, 'repair')} failed`;
  throw new BlockferryError('CHECK_FOUND_FAULTS', message);
}

async function checkOnline(volume: string | null, options: SharedOptions): Promise<Report> {
  const client = clientOf(options);
  const status = volume === null ? await client.call<NodeStatus>('GET', '/v1/status') : null;
  const names = status === null ? [volume ?? ''] : status.volumes.map(({ name }) => name);
  const volumes: VolumeCheckStatus[] = [];
  for (const name of names) {
    volumes.push(await client.call<VolumeCheckStatus>('POST', `${volumePath(name)}/check`));
  }
  for (const { id, reason } of status?.damaged ?? []) {
    const what = `the node does not serve it: ${reason}`;
    volumes.push(volumeCheckStatus(id, null, [finding('volume-not-open', atFile(id), what)]));
  }
  return { findings: [], volumes, repairs: [] };
}

async function checkOffline(path: string, volume: string | null, repair: boolean): Promise<Report> {
  const [
    { checkDataDirectory },
    { containerBytes },
    { nodeDisk },
    { systemClock },
    { systemRandom },
  ] = await Promise.all([
    import('../volume/check/check.ts'),
    import('../io/container-file.ts'),
    import('../io/node-disk.ts'),
    import('../io/clock.ts'),
    import('../io/random.ts'),
  ]);
  const report = await checkDataDirectory({
    disk: nodeDisk,
    clock: systemClock,
    random: systemRandom,
    path,
    volume,
    repair,
    deviceBytes: containerBytes,
  });
  return {
    findings: report.findings.map(findingStatus),
    volumes: report.volumes.map(({ id, name, findings }) => volumeCheckStatus(id, name, findings)),
    repairs: report.repairs.map(repairStatus),
  };
}

const TONES: Readonly<Record<FindingStatus['severity'], Tone>> = {
  fault: 'bad',
  warning: 'busy',
  info: 'heading',
};

function renderReport(report: Report, colour: boolean): string {
  let text = '';
  for (const { code, place, repair, error } of report.repairs) {
    const done =
      error === null ? paint('repaired', 'good', colour) : paint('failed', 'bad', colour);
    const why = error === null ? '' : `: ${oneLine(error)}`;
    text += `${done} ${code} at ${oneLine(describePlace(place))}: ${repair}${why}\n`;
  }
  text += report.findings.map((found) => renderFinding(found, colour)).join('');
  for (const volume of report.volumes) {
    const name = volume.name === null ? `volume ${volume.id}` : `volume ${oneLine(volume.name)}`;
    const said = [
      volume.faults > 0 ? paint(counted(volume.faults, 'fault'), 'bad', colour) : 'no faults',
      ...(volume.warnings > 0 ? [counted(volume.warnings, 'warning')] : []),
    ];
    text += `${name}: ${said.join(', ')}\n`;
    text += volume.findings.map((found) => renderFinding(found, colour)).join('');
  }
  return text;
}

function renderFinding(found: FindingStatus, colour: boolean): string {
  const { severity, code, place, what, repair } = found;
  const mend = repair === null ? '' : `\n    --repair would: ${oneLine(repair)}`;
  return (
    `  ${paint(severity, TONES[severity], colour)} ${code} at ${oneLine(describePlace(place))}\n` +
    `    ${oneLine(what)}${mend}\n`
  );
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
