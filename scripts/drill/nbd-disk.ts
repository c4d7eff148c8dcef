/**
 * A disk of this machine that can be slow, and can lose its power: nbdkit serves a file, nbdfuse shows it, a loop device makes it a
 * disk, and where wanted an ext4 is on it.
 *
 *   node ──> ext4 ──> loop device ──> nbdfuse ──> nbdkit (cache=writeback | delay) ──> file
 *
 * With `cutPower` nbdkit is killed: its cache, which holds whatever was written since the last flush of the disk, is gone, and the
 * kernel can bring nothing there any more of what it has in its page cache. What is left in the file is what a disk with a write
 * cache holds after a power cut. Nothing of blockferry takes part in that.
 */
import { existsSync, mkdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isMounted, unmount } from './filesystem.ts';
import type { Round } from './frame.ts';
import { Child, Hopeless, run, until } from './process.ts';

const ATTACH_MS_MAX = 15_000;
const FREE_MS_MAX = 5_000;
const UNSYNCED = 'unsynced';

export class NbdDisk {
  readonly mountPoint: string;
  private readonly round: Round;
  private readonly name: string;
  private readonly filters: readonly string[];
  private readonly settings: readonly string[];
  private readonly socket: string;
  private readonly fusePoint: string;
  private nbdkit: Child | null = null;
  private fuse: Child | null = null;
  private loop: string | null = null;

  /** `filters` and `settings` as nbdkit takes them. The file is made with `sizeBytes`. */
  private constructor(
    round: Round,
    name: string,
    words: { readonly filters: readonly string[]; readonly settings: readonly string[] },
  ) {
    this.round = round;
    this.name = name;
    this.filters = words.filters.map((filter) => `--filter=${filter}`);
    this.settings = words.settings;
    this.socket = join(round.directory, `${name}.nbd`);
    this.mountPoint = join(round.directory, `${name}-fs`);
    this.fusePoint = join(round.directory, `${name}-fuse`);
    mkdirSync(this.mountPoint);
    mkdirSync(this.fusePoint);
  }

  static async create(
    round: Round,
    name: string,
    options: {
      readonly sizeBytes: number;
      readonly filters: readonly string[];
      readonly settings: readonly string[];
    },
  ): Promise<NbdDisk> {
    const disk = new NbdDisk(round, name, options);
    await run('truncate', ['--size', String(options.sizeBytes), disk.file]);
    round.undo.add(`detach the disk ${name}`, () => disk.detach());
    await disk.attach();
    return disk;
  }

  /** The block device. */
  get device(): string {
    if (this.loop === null) throw new Error(`${this.name} is not attached`);
    return this.loop;
  }

  private get file(): string {
    return join(this.round.directory, `${this.name}.disk`);
  }

  async attach(): Promise<void> {
    const { round, name, socket, fusePoint } = this;
    const { signal } = round;
    rmSync(socket, { force: true });
    const words = ['--foreground', '--unix', socket, ...this.filters, 'file', this.file];
    const nbdkit = new Child('nbdkit', [...words, ...this.settings], {
      logPath: join(round.directory, `${name}.nbdkit.log`),
    });
    this.nbdkit = nbdkit;
    await until({ what: 'nbdkit', timeoutMs: ATTACH_MS_MAX, signal }, () => {
      if (!nbdkit.running) throw new Hopeless(`nbdkit ended: ${nbdkit.tail()}`);
      return existsSync(socket);
    });
    const fuse = new Child('nbdfuse', [fusePoint, `nbd+unix:///?socket=${socket}`], {
      logPath: join(round.directory, `${name}.nbdfuse.log`),
    });
    this.fuse = fuse;
    const file = join(fusePoint, 'nbd');
    await until({ what: 'nbdfuse', timeoutMs: ATTACH_MS_MAX, signal }, () => {
      if (!fuse.running) throw new Hopeless(`nbdfuse ended: ${fuse.tail()}`);
      return existsSync(file) && statSync(file).size > 0;
    });
    const found = await run('losetup', ['--show', '--direct-io=on', '--find', file]);
    this.loop = found.stdout.trim();
  }

  async makeFilesystem(): Promise<void> {
    await run('mkfs.ext4', ['-q', '-m', '0', '-E', 'nodiscard,lazy_itable_init=0', this.device]);
  }

  /** The kernel replays the journal. */
  async mount(): Promise<void> {
    await run('mount', [this.device, this.mountPoint]);
  }

  /** Everything that was not flushed is gone; requests fail from now on. Returns at once. */
  cutPower(): void {
    this.nbdkit?.signal('SIGKILL');
  }

  /** Leaves something in a file that nobody flushes. */
  async writeUnsynced(): Promise<void> {
    await run('sh', ['-c', `echo there >> "$1"`, 'sh', join(this.mountPoint, UNSYNCED)]);
  }

  /** Throws if that survived: then the power cut was none, and shows nothing. */
  async expectUnsyncedLost(): Promise<void> {
    const file = join(this.mountPoint, UNSYNCED);
    const { stdout } = await run('sh', ['-c', `[ ! -e "$1" ] || cat "$1"; rm -f "$1"`, 'sh', file]);
    if (stdout !== '') throw new Error(`${this.name} lost nothing when its power was cut`);
  }

  /** Takes it down, also after a power cut. Repeating it does nothing. */
  async detach(): Promise<void> {
    if (isMounted(this.mountPoint)) await unmount(this.mountPoint);
    if (this.loop !== null) await run('losetup', ['--detach', this.loop], { accept: [0, 1] });
    this.loop = null;
    const { fuse, nbdkit } = this;
    this.fuse = null;
    this.nbdkit = null;
    if (fuse !== null) await this.detachFuse(fuse);
    await nbdkit?.stop();
  }

  /**
   * The kernel lets go of the loop device, and with it of the file, a moment after losetup returns. Not while a mount
   * namespace that somebody else made in the meantime has a copy of the mount: that one is left with a dead disk.
   */
  private async detachFuse(fuse: Child): Promise<void> {
    const { fusePoint } = this;
    const free = async (): Promise<boolean> => {
      if (!isMounted(fusePoint)) return true;
      return (await run('fusermount3', ['-u', fusePoint], { accept: [0, 1] })).code === 0;
    };
    try {
      await until({ what: `${fusePoint} to be free`, timeoutMs: FREE_MS_MAX }, free);
    } catch {
      await run('fusermount3', ['-u', '-z', fusePoint], { accept: [0, 1] });
      await fuse.kill();
    }
    if (!(await fuse.waitForExit(ATTACH_MS_MAX))) await fuse.kill();
  }
}
