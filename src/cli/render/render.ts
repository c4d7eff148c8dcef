/** Status and events as a person reads them. Pure. */
import type { NodeStatus, SpaceStatus, VolumeAccess, VolumeStatus } from '../../control/status.ts';
import type { BlockferryEvent } from '../../replicator/status.ts';
import { formatBytes, formatTable, oneLine, paint } from './format.ts';
import { renderMirrors, renderSource } from './render-mirrors.ts';
import { renderMerge } from './render-snapshots.ts';

/** The whole node, or some of its volumes. */
export function renderStatus(status: NodeStatus, colour: boolean): string {
  let text = `${paint(`node ${oneLine(status.node)}`, 'heading', colour)}\n`;
  text += renderSpace(status.space, colour);
  if (status.volumes.length === 0) text += 'no volumes\n';
  for (const volume of status.volumes) text += `\n${renderVolume(volume, colour)}`;
  for (const damaged of status.damaged) {
    const line = `damaged volume ${damaged.id}: ${oneLine(damaged.reason)}`;
    text += `\n${paint(line, 'bad', colour)}\n`;
  }
  return text;
}

function renderSpace(space: SpaceStatus, colour: boolean): string {
  const { level, free_bytes: free, total_bytes: total, over_provisioning: over } = space;
  const volumes = `${formatBytes(space.allocated_bytes)} of ${formatBytes(space.size_bytes)} in volumes`;
  if (level === null || free === null || total === null) return `disk  ${volumes}\n`;
  const there = `${formatBytes(free)} of ${formatBytes(total)} free`;
  const times = over === null ? '' : `, over-provisioning ${over.toFixed(2)}`;
  const line = `disk ${level}  ${there}, ${volumes}${times}`;
  return `${level === 'ok' ? line : paint(line, level === 'low' ? 'busy' : 'bad', colour)}\n`;
}

export function renderVolume(volume: VolumeStatus, colour: boolean): string {
  const facts = [
    formatBytes(volume.size_bytes),
    `${formatBytes(volume.allocated_bytes)} allocated`,
    volume.role,
    counted(volume.connections, 'connection'),
    `position ${volume.position.generation}:${volume.position.epoch}`,
    ...(volume.clone_of === null ? [] : [`clone of ${oneLine(volume.clone_of)}`]),
    ...(volume.on === null ? [] : [`on ${oneLine(volume.on.location)}`]),
    ...(volume.snapshots === 0 ? [] : [counted(volume.snapshots, 'snapshot')]),
    ...accessWords(volume.access),
  ];
  let text = `${paint(oneLine(volume.name), 'heading', colour)}  ${facts.join(', ')}\n`;
  if (volume.failure !== null) {
    text += `${paint(`  FAILED: ${oneLine(volume.failure)}`, 'bad', colour)}\n`;
  }
  const trouble = volume.on?.trouble ?? null;
  if (trouble !== null) {
    text += `${paint(`  OUT OF REACH: ${oneLine(trouble)}`, 'bad', colour)}\n`;
  }
  if (volume.fenced !== null) {
    const line = `  FENCED, writes wait: ${oneLine(volume.fenced)}`;
    text += `${paint(line, 'bad', colour)}\n`;
  }
  if (volume.kept_for_return !== null) {
    const { generation, epoch } = volume.kept_for_return;
    text += `  keeps what it overwrites since ${generation}:${epoch}, for the return of its old primary\n`;
  }
  const { merge } = volume;
  if (merge.state !== 'idle') {
    const line = `  ${renderMerge(merge)}`;
    text += `${paint(line, merge.state === 'failed' ? 'bad' : 'busy', colour)}\n`;
  }
  if (volume.refuses.length > 0) {
    const when = volume.source === null ? 'as a mirror refuses' : 'refuses';
    text += `  ${when} its primary: ${volume.refuses.join(', ')}\n`;
  }
  if (volume.source !== null) text += renderSource(volume.source, colour);
  if (volume.mirrors.length > 0) text += renderMirrors(volume.mirrors, colour);
  return text;
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** What is out of the ordinary. */
function accessWords({ read_only: readOnly, hidden, tls }: VolumeAccess): string[] {
  const words: string[] = [];
  if (readOnly) words.push('read-only');
  if (hidden) words.push('hidden');
  if (tls === 'required') words.push('TLS only');
  return words;
}

/** `volume list`. */
export function renderVolumeList(volumes: readonly VolumeStatus[]): string {
  if (volumes.length === 0)
    return 'no volumes; create one with: blockferry volume create NAME SIZE\n';
  const heads = [
    'NAME',
    'SIZE',
    'ALLOCATED',
    'ROLE',
    'CONNECTIONS',
    'SNAPSHOTS',
    'MIRRORS',
    'STATE',
  ];
  const rows = volumes.map((volume) => [
    oneLine(volume.name),
    formatBytes(volume.size_bytes),
    formatBytes(volume.allocated_bytes),
    volume.role,
    String(volume.connections),
    String(volume.snapshots),
    volume.source?.state ?? (volume.mirrors.map((mirror) => mirror.state).join(',') || '-'),
    stateWord(volume),
  ]);
  return formatTable([heads, ...rows]);
}

function stateWord({ failure, fenced }: VolumeStatus): string {
  if (failure !== null) return 'FAILED';
  return fenced === null ? 'ok' : 'FENCED';
}

export function renderEvent(event: BlockferryEvent): string {
  const about = [event.volume, event.mirror].filter((part) => part !== null).map(oneLine);
  const subject = about.length === 0 ? '' : `${about.join(' ')}: `;
  return `${event.time}  ${event.kind}  ${subject}${oneLine(event.message)}\n`;
}
