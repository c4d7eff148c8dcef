/**
 * What this machine's kernel says of its network block devices: /sys/block/nbdN, and who uses them.
 *
 * Invariant: nothing is changed by looking, and a device that goes away meanwhile is a device that is not there.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface KernelDevice {
  /** N of /dev/nbdN. */
  readonly index: number;
  readonly attached: boolean;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** What it was told that it is attached to, or null: not by everyone, and not before Linux 5.14. */
  readonly backend: string | null;
  /** The process that attached it, which may be gone. Null: not attached. */
  readonly pid: number | null;
  /** In words: `mounted at /srv`, `swap`, `part of dm-0`. */
  readonly users: readonly string[];
}

export interface KernelView {
  /** Whether there is a driver at all. */
  readonly driver: boolean;
  /** Ascending. */
  readonly devices: readonly KernelDevice[];
}

const SECTOR_BYTES = 512;
const NAME = /^nbd(\d{1,4})$/;
const ABSENT: ReadonlySet<string> = new Set(['ENOENT', 'ENOTDIR', 'ENODEV', 'ENXIO']);

/** `root`: where /sys and /proc are. */
export function readKernelDevices(root = '/'): KernelView {
  const block = join(root, 'sys/block');
  const indexes = namesIn(block)
    .flatMap((name) => NAME.exec(name)?.[1] ?? [])
    .map(Number)
    .toSorted((a, b) => a - b);
  const mounts = mountsByDevice(textOf(join(root, 'proc/self/mountinfo')) ?? '');
  const swaps = swapDevices(textOf(join(root, 'proc/swaps')) ?? '');
  return {
    driver: indexes.length > 0 || namesIn(join(root, 'sys/module')).includes('nbd'),
    devices: indexes.map((index) => readDevice(join(block, `nbd${index}`), index, mounts, swaps)),
  };
}

/** Whether /dev/nbdN is attached to anything. */
export function isAttached(index: number, root = '/'): boolean {
  return textOf(join(root, `sys/block/nbd${index}/pid`)) !== null;
}

/** What the process is called, or null when there is none. */
export function processName(pid: number, root = '/'): string | null {
  return textOf(join(root, `proc/${pid}/comm`));
}

function readDevice(
  dir: string,
  index: number,
  mounts: ReadonlyMap<string, readonly string[]>,
  swaps: ReadonlySet<string>,
): KernelDevice {
  const pid = textOf(join(dir, 'pid'));
  const backend = textOf(join(dir, 'backend')) ?? '';
  const name = `nbd${index}`;
  const parts = [name, ...namesIn(dir).filter((each) => each.startsWith(`${name}p`))];
  return {
    index,
    attached: pid !== null,
    sizeBytes: Number(textOf(join(dir, 'size')) ?? '0') * SECTOR_BYTES,
    readOnly: textOf(join(dir, 'ro')) === '1',
    backend: pid === null || backend === '' ? null : backend,
    pid: pid === null ? null : Number(pid),
    users: parts.flatMap((part) => {
      const home = part === name ? dir : join(dir, part);
      const number = textOf(join(home, 'dev')) ?? '';
      return [
        ...(mounts.get(number) ?? []).map((where) => `mounted at ${where}`),
        ...(swaps.has(`/dev/${part}`) ? ['swap'] : []),
        ...namesIn(join(home, 'holders')).map((holder) => `part of ${holder}`),
      ];
    }),
  };
}

/** Mount points by `MAJOR:MINOR`, of the text of /proc/self/mountinfo. */
export function mountsByDevice(mountinfo: string): ReadonlyMap<string, readonly string[]> {
  const mounts = new Map<string, string[]>();
  for (const line of mountinfo.split('\n')) {
    const [, , device, , where] = line.split(' ');
    if (device === undefined || where === undefined) continue;
    const point = where.replace(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    mounts.set(device, [...(mounts.get(device) ?? []), point]);
  }
  return mounts;
}

/** Of the text of /proc/swaps. */
function swapDevices(swaps: string): ReadonlySet<string> {
  return new Set(
    swaps
      .split('\n')
      .slice(1)
      .flatMap((line) => line.split(/\s/)[0] ?? []),
  );
}

function textOf(path: string): string | null {
  return unlessAbsent(() => readFileSync(path, 'utf8').trim());
}

function namesIn(path: string): readonly string[] {
  return unlessAbsent(() => readdirSync(path).toSorted()) ?? [];
}

function unlessAbsent<T>(read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    if (error instanceof Error && 'code' in error && ABSENT.has(String(error.code))) return null;
    throw error;
  }
}
