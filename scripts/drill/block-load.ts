/**
 * fio on an NBD export, in three ways: a fill, random writes that go on until they are ended, and a job whose content
 * fio itself can verify later, on whichever copy is left.
 */
import { join } from 'node:path';
import { Child, run } from './process.ts';

const LOAD_SECONDS_MAX = 120;
const END_MS_MAX = 20_000;
const FILL_MS_MAX = 600_000;
const COMMON = ['--ioengine=nbd', '--thread', '--randrepeat=0', '--refill_buffers'];
let loads = 0;

export interface Extent {
  readonly from: number;
  readonly to: number;
}

/** Fills an extent with bytes that no two blocks share. */
export async function fill(uri: string, { from, to }: Extent): Promise<void> {
  const where = [`--uri=${uri}`, `--offset=${from}`, `--size=${to - from}`];
  const words = ['--name=fill', '--rw=write', '--bs=1M', '--iodepth=8', '--end_fsync=1'];
  await run('fio', [...COMMON, ...words, ...where], { timeoutMs: FILL_MS_MAX });
}

/** Writes so many bytes into an extent, 16 KiB here and there, no block twice. */
export async function scatter(uri: string, { from, to }: Extent, bytes: number): Promise<void> {
  const where = [`--uri=${uri}`, `--offset=${from}`, `--size=${to - from}`, `--io_size=${bytes}`];
  const words = ['--name=scatter', '--rw=randwrite', '--bs=16k', '--iodepth=16', '--end_fsync=1'];
  await run('fio', [...COMMON, ...words, ...where], { timeoutMs: FILL_MS_MAX });
}

export class BlockLoad {
  private readonly child: Child;

  constructor(directory: string, uri: string, extra: readonly string[]) {
    const words =
      `--name=load --rw=randwrite --bs=16k --iodepth=16 --rate_iops=400 --fsync=32 --time_based ` +
      `--runtime=${LOAD_SECONDS_MAX}`;
    this.child = new Child('fio', [...COMMON, ...words.split(' '), `--uri=${uri}`, ...extra], {
      logPath: join(directory, `fio-${++loads}.log`),
    });
  }

  get running(): boolean {
    return this.child.running;
  }

  tail(): string {
    return this.child.tail();
  }

  /** Ends it, which first waits for what it has in flight, and expects that it met no error. */
  async end(): Promise<void> {
    if (!this.child.running) throw new Error(`fio ended too early: ${this.child.tail()}`);
    this.child.signal('SIGINT');
    if (!(await this.child.waitForExit(END_MS_MAX)))
      throw new Error(`fio does not end: ${this.child.tail()}`);
    if (/err= *[1-9]/.test(this.child.tail())) {
      throw new Error(`fio met errors: ${this.child.tail()}`);
    }
  }

  async kill(): Promise<void> {
    await this.child.kill();
  }
}

/** A job of random writes whose content follows from its seed. */
export class VerifiedJob {
  private readonly words: readonly string[];

  constructor({ from, to }: Extent, seed: number) {
    const size = to - from;
    this.words = [
      '--name=verified',
      '--ioengine=nbd',
      '--thread',
      '--rw=randwrite',
      '--bs=16k',
      '--iodepth=8',
      '--verify=crc32c',
      '--verify_state_save=0',
      `--randseed=${(seed % 65_536) + 1}`,
      `--offset=${from}`,
      `--size=${size}`,
    ];
  }

  /** `rate` in bytes a second. */
  async write(uri: string, rate: number): Promise<void> {
    const args = ['--do_verify=0', `--rate=${rate}`, '--end_fsync=1', `--uri=${uri}`];
    await run('fio', [...this.words, ...args], { timeoutMs: 120_000 });
  }

  /** Throws with what fio says if a block holds anything else. */
  async verify(uri: string): Promise<void> {
    await run('fio', [...this.words, '--verify_only=1', '--verify_fatal=1', `--uri=${uri}`]);
  }
}
