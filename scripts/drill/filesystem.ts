/**
 * An ext4 filesystem on an NBD export of this machine, without the kernel's NBD client: nbdfuse shows the
 * export as a file, a loop device makes it a block device (direct I/O, so that many requests are in flight
 * and none is answered early), the kernel mounts it.
 *
 * The drill's own process serves the export's proxies, so it must never touch the mounted filesystem
 * itself: whatever does runs as a child.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Child, Hopeless, run, type Undo, until } from './process.ts';

const ATTACH_MS_MAX = 10_000;

export class MountedExport {
  readonly mountPoint: string;
  private readonly fusePoint: string;
  private readonly pidFile: string;
  private readonly logPath: string;
  private loop: string | null = null;
  private mounted = false;
  private fuse: Child | null = null;

  constructor(directory: string) {
    this.mountPoint = join(directory, 'mnt');
    this.fusePoint = join(directory, 'fuse');
    this.pidFile = join(directory, 'nbdfuse.pid');
    this.logPath = join(directory, 'nbdfuse.log');
    mkdirSync(this.mountPoint);
    mkdirSync(this.fusePoint);
  }

  /** Attaches, formats and mounts. Whatever was reached is taken down by `detach`. */
  async attach(uri: string, signal: AbortSignal): Promise<void> {
    const args = ['--connections=4', '--pidfile', this.pidFile, this.fusePoint, uri];
    const fuse = new Child('nbdfuse', args, { logPath: this.logPath });
    this.fuse = fuse;
    await until({ what: 'nbdfuse to attach', timeoutMs: ATTACH_MS_MAX, signal }, () => {
      if (!fuse.running) throw new Hopeless(`nbdfuse ended: ${fuse.tail()}`);
      return existsSync(this.pidFile);
    });
    const loop = await run('losetup', [
      '--show',
      '--direct-io=on',
      '--find',
      join(this.fusePoint, 'nbd'),
    ]);
    this.loop = loop.stdout.trim();
    // Without a TRIM of the whole volume first: it would make every region of it an active one.
    await run('mkfs.ext4', ['-q', '-E', 'nodiscard', this.loop]);
    await run('mount', ['-o', 'discard', this.loop, this.mountPoint]);
    this.mounted = true;
  }

  /** Takes everything down, also when the export is dead. Repeating it does nothing. */
  async detach(): Promise<void> {
    if (this.mounted) await unmount(this.mountPoint);
    this.mounted = false;
    if (this.loop !== null) await run('losetup', ['--detach', this.loop], { accept: [0, 1] });
    this.loop = null;
    const { fuse } = this;
    this.fuse = null;
    if (fuse === null) return;
    if (isMounted(this.fusePoint)) await unmount(this.fusePoint);
    if (!(await fuse.waitForExit(ATTACH_MS_MAX))) await fuse.kill();
  }
}

/** Unmounts; as the last resort lazily, so that a stuck filesystem does not keep the rest up. */
export async function unmount(path: string): Promise<void> {
  const result = await run('umount', [path], { accept: [0, 1, 16, 32] });
  if (result.code === 0 || !isMounted(path)) return;
  await run('umount', ['--lazy', path]);
}

export function isMounted(path: string): boolean {
  return mountPoints().includes(path);
}

function mountPoints(): string[] {
  const lines = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  return lines.map((line) => line.split(' ')[1] ?? '');
}

/** Whether anything is mounted in or below a directory, which must not be removed then. */
export function holdsMounts(directory: string): boolean {
  return mountPoints().some((each) => each === directory || each.startsWith(`${directory}/`));
}

/** Mounts an image file read-write at `mountPoint`: the kernel replays its journal. */
export async function mountImage(options: {
  image: string;
  mountPoint: string;
  undo: Undo;
}): Promise<void> {
  mkdirSync(options.mountPoint, { recursive: true });
  const loop = await run('losetup', ['--show', '--find', options.image]);
  const device = loop.stdout.trim();
  options.undo.add(`detach ${device}`, async () => {
    await run('losetup', ['--detach', device], { accept: [0, 1] });
  });
  await run('mount', [device, options.mountPoint]);
  options.undo.add(`unmount ${options.mountPoint}`, () => unmount(options.mountPoint));
}
