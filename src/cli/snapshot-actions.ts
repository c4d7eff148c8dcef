/** What the verbs of `blockferry snapshot` do. */
import { exportName, splitExportName } from '../control/exports/export-name.ts';
import type {
  MeasuredSnapshot,
  MergeProgress,
  SnapshotDiff,
  SnapshotStatus,
  VolumeStatus,
} from '../control/status.ts';
import { BlockferryError } from '../io/errors.ts';
import { volumePath } from './client.ts';
import { clientOf, print, printJson, type SharedOptions } from './context.ts';
import { oneLine } from './render/format.ts';
import { renderMerge, renderRange, renderSnapshotList } from './render/render-snapshots.ts';

interface ForceOptions extends SharedOptions {
  readonly force?: boolean;
}

interface RestoreOptions extends ForceOptions {
  readonly offset?: string;
  readonly length?: string;
}

interface MergeOptions extends SharedOptions {
  readonly pause?: boolean;
  readonly resume?: boolean;
  readonly limit?: string;
}

export async function create(
  first: string,
  others: readonly string[],
  options: SharedOptions,
): Promise<void> {
  const volumes = [first, ...others];
  const name = volumes.pop() ?? '';
  const client = clientOf(options);
  const body = { volumes, name };
  const answer = await client.call<{ snapshots: SnapshotStatus[] }>('POST', '/v1/snapshots', body);
  if (options.json) return printJson(answer);
  for (const each of answer.snapshots) print(`snapshot ${oneLine(each.export)} created\n`);
}

export async function list(volume: string, options: SharedOptions): Promise<void> {
  const path = `${volumePath(volume)}/snapshots`;
  const answer = await clientOf(options).call<{ snapshots: MeasuredSnapshot[] }>('GET', path);
  if (options.json) printJson(answer);
  else print(renderSnapshotList(volume, answer.snapshots));
}

export async function copy(from: string, name: string, options: SharedOptions): Promise<void> {
  const { path, shown } = pathOf(from);
  const made = await clientOf(options).call<SnapshotStatus>('POST', `${path}/copy`, { name });
  if (options.json) printJson(made);
  else print(`snapshot ${oneLine(made.export)} created of ${shown}\n`);
}

export async function clone(from: string, name: string, options: SharedOptions): Promise<void> {
  const { path, shown } = pathOf(from);
  const made = await clientOf(options).call<VolumeStatus>('POST', `${path}/clone`, { name });
  if (options.json) printJson(made);
  else print(`volume ${oneLine(made.name)} created as a clone of ${shown}\n`);
}

export async function remove(snapshot: string, options: ForceOptions): Promise<void> {
  const { path, shown } = pathOf(snapshot);
  const answer = await clientOf(options).call(
    'DELETE',
    `${path}${options.force ? '?force=true' : ''}`,
  );
  if (options.json) printJson(answer);
  else print(`snapshot ${shown} deleted\n`);
}

export async function restore(snapshot: string, options: RestoreOptions): Promise<void> {
  const { path, shown, volume } = pathOf(snapshot);
  const { offset = null, length = null, force = false } = options;
  const body = { offset, length, force };
  const answer = await clientOf(options).call('POST', `${path}/restore`, body);
  if (options.json) return printJson(answer);
  const part = offset === null && length === null ? '' : ' in part';
  print(`volume ${oneLine(volume)} restored${part} from ${shown}\n`);
}

export async function refresh(snapshot: string, options: ForceOptions): Promise<void> {
  const { path, shown } = pathOf(snapshot);
  const body = { force: options.force ?? false };
  const made = await clientOf(options).call<SnapshotStatus>('POST', `${path}/refresh`, body);
  if (options.json) printJson(made);
  else print(`snapshot ${shown} has the present content, of ${made.created_at}\n`);
}

export async function sync(from: string, to: string, options: ForceOptions): Promise<void> {
  const source = pathOf(from);
  const target = pathOf(to);
  refuseStrange(source, target);
  const body = { from: source.snapshot, force: options.force ?? false };
  const client = clientOf(options);
  const made = await client.call<SnapshotStatus>('POST', `${target.path}/sync`, body);
  if (options.json) printJson(made);
  else print(`snapshot ${target.shown} has the content of ${source.shown}\n`);
}

/** Page after page, as they come: a difference may be longer than memory. */
export async function diff(
  from: string,
  to: string | undefined,
  options: SharedOptions,
): Promise<void> {
  const source = pathOf(from);
  const target = to === undefined ? null : pathOf(to);
  if (target !== null) refuseStrange(source, target);
  const client = clientOf(options);
  const query = target === null ? '' : `&to=${encodeURIComponent(target.snapshot)}`;
  let ids: string | null = null;
  for (let offset: number | null = 0; offset !== null;) {
    const path: string = `${source.path}/diff?offset=${offset}${query}`;
    const page: SnapshotDiff = await client.call<SnapshotDiff>('GET', path);
    const now = `${page.from} ${page.to ?? ''}`;
    if (ids !== null && ids !== now) {
      const message = 'a snapshot took another content while the difference was read';
      throw new BlockferryError('SNAPSHOT_NOT_FOUND', message);
    }
    ids = now;
    print(
      page.ranges
        .map((range) => (options.json ? `${JSON.stringify(range)}\n` : renderRange(range)))
        .join(''),
    );
    offset = page.next;
  }
}

export async function merge(volume: string, options: MergeOptions): Promise<void> {
  const client = clientOf(options);
  const path = `${volumePath(volume)}/merge`;
  const { limit } = options;
  if (limit !== undefined) {
    await client.call('POST', `${path}/limit`, { limit: limit === 'off' ? null : limit });
  }
  if (options.pause) await client.call('POST', `${path}/pause`, {});
  if (options.resume) await client.call('POST', `${path}/resume`, {});
  const progress = await client.call<MergeProgress>('GET', path);
  if (options.json) printJson(progress);
  else print(`${oneLine(volume)}: ${renderMerge(progress)}\n`);
}

interface SnapshotPath {
  readonly volume: string;
  readonly snapshot: string;
  readonly path: string;
  /** For a line on the terminal. */
  readonly shown: string;
}

/** Throws SNAPSHOT_NAME_INVALID. */
function pathOf(text: string): SnapshotPath {
  const { volume, snapshot } = splitExportName(text);
  if (snapshot === null || snapshot === '') {
    throw new BlockferryError('SNAPSHOT_NAME_INVALID', `${JSON.stringify(text)} names no snapshot`);
  }
  const path = `${volumePath(volume)}/snapshots/${encodeURIComponent(snapshot)}`;
  return { volume, snapshot, path, shown: oneLine(exportName(volume, snapshot)) };
}

function refuseStrange(one: SnapshotPath, other: SnapshotPath): void {
  if (one.volume === other.volume) return;
  const message = `${one.shown} and ${other.shown} are of different volumes`;
  throw new BlockferryError('USAGE', message);
}
