/**
 * A Linux host with its kernel's own NBD client: the user-mode kernel (package user-mode-linux) runs as a process, `blockferry attach
 * --persist` inside it attaches a volume, and an ext4 on that is under load: a ledger with a line for each sync, a database that
 * commits, and rounds of fio that are read back. When all is said it unmounts, checks and detaches.
 *
 *   ext4 -> /dev/nbd0 ── tap ── namespace: bridge ── unix sockets ("doors") of nodes or recorders
 *
 * Its network is a namespace of its own with one tap device, routed nowhere. A server that the kernel may turn to is a door: the path
 * of a unix socket, which need not be there yet.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Answer, answersIn, longestWait, readAnswers } from './answers.ts';
import { NotHere, type Round } from './frame.ts';
import { BRIDGE, DATABASE, INIT, LEDGER } from './guest-program.ts';
import { LEDGER_NAME } from './load.ts';
import { blockferryBin } from './node.ts';
import { Child, Hopeless, run, until } from './process.ts';
import { DATABASE_NAME } from './sqlite.ts';

const HOST = '10.213.0.1';
const GUEST = '10.213.0.2/30';
const FIRST_PORT = 10809;
const BOOT_MS_MAX = 90_000;
const PROGRESS_MS_MAX = 60_000;
const FINISH_MS_MAX = 90_000;
const BRIDGE_MS_MAX = 10_000;
/** Seconds after which the kernel sends again what was on its way over a connection that was lost. */
export const KERNEL_TIMEOUT_S = 2;
const TOOLS = 'linux.uml insmod ip fio mkfs.ext4 e2fsck python3';
const MODULE = '/usr/lib/uml/modules/*/kernel/drivers/block/nbd.ko';
const PACKAGES = 'user-mode-linux kmod iproute2 fio e2fsprogs';
/** What the guest mounts over: what the host has there it does not see. */
const HIDDEN = /^\/(dev|run|mnt|proc|sys)\//;

/** Why there is no kernel client on this machine, or null. */
export async function kernelLacking(): Promise<string | null> {
  const script = `for tool in ${TOOLS}; do command -v "$tool" >/dev/null || echo "$tool"; done; ls ${MODULE} >/dev/null 2>&1 || echo nbd.ko`;
  const { stdout } = await run('sh', ['-c', script]);
  const missing = stdout.trim().replaceAll('\n', ' ');
  return missing === '' ? null : `missing: ${missing} (Debian: apt install ${PACKAGES})`;
}

export interface KernelHostOptions {
  /** Paths of the unix sockets of its servers, first choice first. */
  readonly doors: readonly string[];
  readonly volume: string;
  /** Rounds of fio beside the ledger and the database. */
  readonly fio: boolean;
  /** KERNEL_TIMEOUT_S unless given. */
  readonly timeoutSeconds?: number;
}

export class KernelHost {
  private readonly round: Round;
  private readonly directory: string;
  private guest: Child | null = null;

  private constructor(round: Round) {
    this.round = round;
    this.directory = join(round.directory, 'guest');
  }

  /** Returns when its load writes to the volume, which must be empty and taking writes. */
  static async boot(round: Round, options: KernelHostOptions): Promise<KernelHost> {
    const lacking = await kernelLacking();
    if (lacking !== null) throw new NotHere(`no kernel client: ${lacking}`);
    if (HIDDEN.test(round.directory)) {
      throw new NotHere(`no kernel client: it does not see ${round.directory}; set TMPDIR`);
    }
    const host = new KernelHost(round);
    await host.start(options);
    return host;
  }

  get running(): boolean {
    return (this.guest?.running ?? false) && !existsSync(this.file('result'));
  }

  /** Lines of the ledger that were told to be synced. */
  get ledgerLines(): number {
    return answersIn(this.file('answers'));
  }

  /** Transactions that were told to be durable. */
  get transactions(): number {
    const path = this.file('transactions');
    return existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0;
  }

  answers(): Answer[] {
    return readAnswers(this.file('answers'));
  }

  /** The longest that it waited for the sync of a line in a span of time, in milliseconds. */
  longestWaitMs(fromMs: number, toMs?: number): number {
    return longestWait(this.answers(), fromMs, toMs);
  }

  /** Waits until so many more lines are synced. */
  async progress(more: number, signal: AbortSignal = this.round.signal): Promise<void> {
    const goal = this.ledgerLines + more;
    const what = `${more} more lines in the ledger of the kernel client`;
    await until({ what, timeoutMs: PROGRESS_MS_MAX, everyMs: 5, signal }, () => {
      if (!this.running) throw new Hopeless(`the kernel client ended: ${this.tail()}`);
      return this.ledgerLines >= goal;
    });
  }

  /** It unmounts, checks and detaches. What it or its kernel found wrong is a violation. */
  async finish(): Promise<void> {
    const { guest, round } = this;
    writeFileSync(this.file('finish'), '');
    const ended = (await guest?.waitForExit(FINISH_MS_MAX)) ?? false;
    const result = existsSync(this.file('result')) ? this.read('result').trim() : 'no result';
    round.expect(ended && result === 'passed', `the kernel client: ${result}: ${this.tail()}`);
    const wrong = /.*(I\/O error|EXT4-fs error).*/i.exec(this.read('guest-dmesg.log'));
    round.expect(wrong === null, `the log of the client's kernel: ${wrong?.[0] ?? ''}`);
    if (ended)
      round.note(`the kernel client unmounts, e2fsck finds nothing, no I/O error in its log`);
  }

  /** SIGKILL: the host dies. */
  async kill(): Promise<void> {
    await this.guest?.kill();
  }

  /** The end of what the guest said. */
  tail(): string {
    return this.read('guest.log').slice(-2000);
  }

  private async start({ doors, volume, fio, timeoutSeconds }: KernelHostOptions): Promise<void> {
    const { round, directory } = this;
    mkdirSync(directory);
    writeFileSync(this.file('init.sh'), INIT, { mode: 0o755 });
    writeFileSync(this.file('ledger.py'), LEDGER);
    writeFileSync(this.file('database.py'), DATABASE);
    const namespace = await makeNamespace(round);
    const ports = doors.map((_, index) => FIRST_PORT + index);
    await this.bridge(namespace, doors, ports);
    const words: Record<string, string | number> = {
      BF_DIR: directory,
      BF_GUEST: GUEST,
      BF_HOST: HOST,
      BF_PORTS: ports.join(','),
      BF_EXPORT: volume,
      BF_TIMEOUT: timeoutSeconds ?? KERNEL_TIMEOUT_S,
      BF_NODE: process.execPath,
      BF_BIN: blockferryBin(),
      BF_LEDGER: LEDGER_NAME,
      BF_DATABASE: DATABASE_NAME,
      BF_FIO: fio ? 1 : 0,
    };
    const line = ['mem=512M', 'root=/dev/root', 'rootfstype=hostfs', 'rootflags=/', 'rw'];
    line.push(`init=${this.file('init.sh')}`, `uml_dir=${directory}`);
    line.push(`vec0:transport=tap,ifname=${TAP},depth=128,gro=1`);
    // A panic ends the process instead of hanging it.
    line.push('con=null', 'con0=null,fd:1', 'panic=-1');
    for (const [name, value] of Object.entries(words)) line.push(`${name}=${value}`);
    const guest = new Child('ip', ['netns', 'exec', namespace, 'linux.uml', ...line], {
      logPath: this.file('console.log'),
    });
    this.guest = guest;
    round.undo.add('end the kernel client', () => guest.kill());
    const { signal } = round;
    await until({ what: 'the kernel client to boot', timeoutMs: BOOT_MS_MAX, signal }, () => {
      if (!this.running) {
        throw new Hopeless(`the kernel client ended: ${guest.tail()}${this.tail()}`);
      }
      return existsSync(this.file('stage')) && this.ledgerLines > 0;
    });
  }

  private async bridge(
    namespace: string,
    doors: readonly string[],
    ports: readonly number[],
  ): Promise<void> {
    const words = doors.map((path, index) => `${ports[index] ?? 0}=${path}`);
    const python = ['/usr/bin/python3', '-B', '-c', BRIDGE, HOST, ...words];
    const logPath = this.file('bridge.log');
    const bridge = new Child('ip', ['netns', 'exec', namespace, ...python], { logPath });
    this.round.undo.add('end the bridge', () => bridge.kill());
    await until({ what: 'the bridge', timeoutMs: BRIDGE_MS_MAX }, () => {
      if (!bridge.running) throw new Hopeless(`the bridge ended: ${bridge.tail()}`);
      return readFileSync(logPath, 'utf8').includes('ready');
    });
  }

  private file(name: string): string {
    return join(this.directory, name);
  }

  private read(name: string): string {
    return existsSync(this.file(name)) ? readFileSync(this.file(name), 'utf8') : '';
  }
}

const TAP = 'tap0';

/** A network namespace with a tap device. */
async function makeNamespace(round: Round): Promise<string> {
  const name = `bf-drill-${randomBytes(4).toString('hex')}`;
  await run('ip', ['netns', 'add', name]);
  round.undo.add(`delete the namespace ${name}`, async () => {
    await run('ip', ['netns', 'del', name]);
  });
  await run('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
  await run('ip', ['-n', name, 'tuntap', 'add', 'dev', TAP, 'mode', 'tap']);
  await run('ip', ['-n', name, 'addr', 'add', `${HOST}/30`, 'dev', TAP]);
  await run('ip', ['-n', name, 'link', 'set', TAP, 'up']);
  return name;
}
