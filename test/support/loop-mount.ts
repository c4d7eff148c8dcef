/**
 * A volume as a disk of this machine without the nbd module: nbdfuse shows the export as a file, a loop
 * device makes a disk of it. FLUSH arrives as FLUSH. Needs root.
 */
import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { run, start, type ManagedProcess } from './process.ts';
import type { Scope } from './scope.ts';
import { waitUntil } from './wait.ts';

export class LoopDisk {
  readonly device: string;
  readonly #dir: string;
  readonly #fuse: ManagedProcess;
  #mounted: string | null = null;
  #attached = true;

  private constructor(dir: string, fuse: ManagedProcess, device: string) {
    this.#dir = dir;
    this.#fuse = fuse;
    this.device = device;
  }

  static async attach(scope: Scope, uri: string): Promise<LoopDisk> {
    const dir = scope.tempDir('bf-loop-');
    const file = join(dir, 'nbd');
    const fuse = start(scope, 'nbdfuse', [dir, uri]);
    // A fuse mount outlives its process when that is killed.
    scope.defer(`unmount ${dir}`, async () => {
      await run('fusermount3', ['-u', '-z', '-q', dir], { allowFailure: true });
    });
    const size = await waitUntil('nbdfuse', () => (fuse.running ? statSync(file).size : -1), {
      onTimeout: () => fuse.output,
    });
    if (size < 0) throw new Error(`nbdfuse ended:\n${fuse.output}`);
    const { stdout } = await run('losetup', ['--find', '--show', '--direct-io=off', file]);
    const disk = new LoopDisk(dir, fuse, stdout.trim());
    scope.defer(`detach ${disk.device}`, () => disk.detach());
    return disk;
  }

  /** Mounts the file system of the disk and returns where. */
  async mount(scope: Scope, ...options: readonly string[]): Promise<string> {
    const dir = join(scope.tempDir('bf-mnt-'), 'fs');
    mkdirSync(dir);
    await run('mount', [...options, this.device, dir]);
    this.#mounted = dir;
    scope.defer(`unmount ${dir}`, () => this.unmount());
    return dir;
  }

  async unmount(): Promise<void> {
    if (this.#mounted === null) return;
    await run('umount', [this.#mounted]);
    this.#mounted = null;
  }

  /** Lets go of everything; all that was written has then reached the export. */
  async detach(): Promise<void> {
    await this.unmount();
    if (this.#attached) {
      this.#attached = false;
      await run('losetup', ['--detach', this.device]);
    }
    if (!this.#fuse.running) return;
    // The kernel lets go of the loop device, and with it of the file, a moment after losetup returns.
    await waitUntil(`${this.#dir} to be free`, async () => {
      const { code } = await run('fusermount3', ['-u', this.#dir], { allowFailure: true });
      return code === 0;
    });
    await this.#fuse.waitForExit(10_000);
  }
}
