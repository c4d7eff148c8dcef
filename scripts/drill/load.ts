/**
 * The load of a drill: fio jobs that write, sync, create and delete, a database that commits (sqlite.ts), and a ledger: a file that gets one
 * numbered line after another, each synced before its number is told. After a failover the ledger says in
 * a person's terms what was kept: lines 1 to n without a gap.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Child } from './process.ts';
import { Database } from './sqlite.ts';

/** A load ends by itself after this long, whatever becomes of the drill. */
const LOAD_SECONDS_MAX = 180;
const END_MS_MAX = 15_000;

export const LEDGER_NAME = 'ledger';

const LEDGER_PROGRAM = `
const fs = require('node:fs');
const wait = new Int32Array(new SharedArrayBuffer(4));
const file = fs.openSync(process.argv[1], 'a');
for (let line = 1; ; line++) {
  fs.writeSync(file, String(line).padStart(15, '0') + '\\n');
  fs.fsyncSync(file);
  fs.writeSync(1, line + '\\n');
  Atomics.wait(wait, 0, 0, 10);
}`;

/** Random writes with many syncs, a steady stream with few, and files that come and go. */
function jobFile(directory: string): string {
  return `
[global]
directory=${directory}
ioengine=psync
time_based
runtime=${LOAD_SECONDS_MAX}
randrepeat=0
refill_buffers
fallocate=none
[random]
rw=randwrite
bs=4k
size=16m
numjobs=3
fsync=16
[stream]
rw=write
bs=64k
size=24m
fsync=64
rate=8m
[files]
rw=write
bs=16k
nrfiles=64
filesize=4k-128k
openfiles=4
create_on_open=1
unlink_each_loop=1
fsync_on_close=1
rate=4m
`;
}

export class Load {
  /** The last line of the ledger that is known to be synced. */
  ledgerLines = 0;
  readonly database: Database;
  private readonly fio: Child;
  private readonly ledger: ChildProcess;
  private readonly ledgerEnded: Promise<void>;

  constructor(mountPoint: string, directory: string) {
    const jobs = join(directory, 'load.fio');
    writeFileSync(jobs, jobFile(mountPoint));
    this.fio = new Child('fio', [jobs], { logPath: join(directory, 'fio.log') });
    this.database = new Database(mountPoint);
    const ledgerPath = join(mountPoint, LEDGER_NAME);
    const ledger = spawn(process.execPath, ['-e', LEDGER_PROGRAM, ledgerPath], {
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    });
    this.ledger = ledger;
    let rest = '';
    ledger.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      this.ledgerLines = Number(lines.at(-1) ?? this.ledgerLines);
    });
    this.ledgerEnded = new Promise((resolve) => {
      ledger.once('close', () => resolve());
      ledger.once('error', () => resolve());
    });
  }

  get running(): boolean {
    const { running } = this.database;
    return (
      running &&
      this.fio.running &&
      this.ledger.exitCode === null &&
      this.ledger.signalCode === null
    );
  }

  /** The end of what fio said. */
  tail(): string {
    return this.fio.tail();
  }

  /** Ends the load and waits until it has let go of the filesystem. */
  async stop(): Promise<void> {
    this.ledger.kill('SIGKILL');
    await this.database.stop();
    // fio ends its jobs at SIGTERM; jobs stuck in a dead filesystem fail by themselves.
    this.fio.signal('SIGTERM');
    if (!(await this.fio.waitForExit(END_MS_MAX))) await this.fio.kill();
    await this.ledgerEnded;
  }
}

/** Lines of a ledger file, or throws when they are not 1 to n in order. A torn last line does not count. */
export function ledgerLength(content: string): number {
  const lines = content.split('\n').slice(0, -1);
  for (const [index, line] of lines.entries()) {
    if (Number(line) !== index + 1) {
      throw new Error(`line ${index + 1} of the ledger is ${JSON.stringify(line.slice(0, 40))}`);
    }
  }
  return lines.length;
}
