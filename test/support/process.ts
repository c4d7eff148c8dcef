/**
 * Child processes: run one to its end with a deadline, or keep one running and stop it by its pid.
 * Output is kept in memory, bounded, so that a failure can show it.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { Scope } from './scope.ts';
import { sleep } from './wait.ts';

/** Output kept of one stream, in characters; the oldest goes first. */
const OUTPUT_CHARS_MAX = 4 * 1024 * 1024;
const STOP_MS_MAX = 15_000;
/** A killed process ends only after the disk has answered it, and a busy disk takes its time. */
const KILL_MS_MAX = 60_000;

export interface RunOptions {
  /** Default 60 s. At the deadline the child is killed and the call fails. */
  readonly timeoutMs?: number;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly input?: string | Buffer;
  /** Return instead of throwing when the exit code is not 0. */
  readonly allowFailure?: boolean;
}

export interface RunResult {
  /** Exit code, or null after a signal. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

class Tail {
  #text = '';
  add(chunk: string): void {
    this.#text += chunk;
    if (this.#text.length > 2 * OUTPUT_CHARS_MAX) this.#text = this.#text.slice(-OUTPUT_CHARS_MAX);
  }
  get text(): string {
    return this.#text;
  }
}

function collect(child: ChildProcess): { stdout: Tail; stderr: Tail } {
  const stdout = new Tail();
  const stderr = new Tail();
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => stdout.add(chunk));
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => stderr.add(chunk));
  return { stdout, stderr };
}

/** Runs a command to its end. Throws, with its output, when it fails or takes too long. */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const child = spawn(command, args, {
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  const output = collect(child);
  const line = [command, ...args].join(' ');
  const timeoutMs = options.timeoutMs ?? 60_000;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  child.stdin?.on('error', () => undefined); // a child that ends without reading is judged by its code
  child.stdin?.end(options.input);
  try {
    const [code] = (await once(child, 'close')) as [number | null];
    const result = { code, stdout: output.stdout.text, stderr: output.stderr.text };
    if (late)
      throw new Error(`took over ${timeoutMs} ms: ${line}\n${result.stdout}${result.stderr}`);
    if (code !== 0 && options.allowFailure !== true) {
      throw new Error(`exit ${String(code)}: ${line}\n${result.stdout}${result.stderr}`);
    }
    return result;
  } finally {
    clearTimeout(timer);
  }
}

export interface StartOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Signals go to the child's whole process group, which is then its own. For programs that fork. */
  readonly group?: boolean;
}

/** A child that runs until it is stopped. */
export class ManagedProcess {
  readonly line: string;
  readonly #child: ChildProcess;
  readonly #group: boolean;
  readonly #output: { stdout: Tail; stderr: Tail };
  readonly #ended: Promise<void>;
  #failure: Error | null = null;

  constructor(command: string, args: readonly string[], options: StartOptions = {}) {
    this.line = [command, ...args].join(' ');
    this.#group = options.group === true;
    this.#child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: this.#group,
      env: { ...process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    this.#output = collect(this.#child);
    this.#child.on('error', (error) => {
      this.#failure = error;
    });
    this.#ended = new Promise((resolve) => {
      this.#child.once('exit', () => resolve());
      this.#child.once('error', () => resolve());
    });
  }

  get pid(): number {
    const { pid } = this.#child;
    if (pid === undefined) throw new Error(`did not start: ${this.line}`, { cause: this.#failure });
    return pid;
  }

  get running(): boolean {
    return this.#failure === null && this.#child.exitCode === null && !this.#signalled;
  }

  get #signalled(): boolean {
    return this.#child.signalCode !== null;
  }

  /** Exit code, or null while it runs or after a signal. */
  get exitCode(): number | null {
    return this.#child.exitCode;
  }

  get stdout(): string {
    return this.#output.stdout.text;
  }

  get stderr(): string {
    return this.#output.stderr.text;
  }

  get output(): string {
    return `${this.stdout}${this.stderr}`;
  }

  signal(signal: NodeJS.Signals): void {
    if (!this.#group) {
      this.#child.kill(signal);
      return;
    }
    try {
      process.kill(-this.pid, signal);
    } catch (thrown) {
      if (!(thrown instanceof Error) || !('code' in thrown) || thrown.code !== 'ESRCH')
        throw thrown;
    }
  }

  /** Resolves true when the child has ended, false when `timeoutMs` passed first. */
  async waitForExit(timeoutMs: number): Promise<boolean> {
    const late = new AbortController();
    const ended = this.#ended.then(() => true);
    const timer = new Promise<boolean>((resolve) => {
      const handle = setTimeout(() => resolve(false), timeoutMs);
      late.signal.addEventListener('abort', () => clearTimeout(handle));
    });
    const result = await Promise.race([ended, timer]);
    late.abort();
    return result;
  }

  /** SIGTERM, then SIGKILL when it has not ended in time; that is an error. */
  async stop(timeoutMs: number = STOP_MS_MAX): Promise<void> {
    if (!this.running) return;
    this.signal('SIGTERM');
    if (await this.waitForExit(timeoutMs)) return;
    await this.kill();
    throw new Error(`did not stop within ${timeoutMs} ms of SIGTERM: ${this.line}\n${this.output}`);
  }

  /** SIGKILL, and waits until it is gone. */
  async kill(): Promise<void> {
    if (this.running || this.#group) this.signal('SIGKILL');
    if (await this.waitForExit(KILL_MS_MAX)) return;
    throw new Error(`survived SIGKILL for ${KILL_MS_MAX} ms: ${this.line}`);
  }
}

/** Starts a child that ends with the scope at the latest. */
export function start(
  scope: Scope,
  command: string,
  args: readonly string[],
  options: StartOptions = {},
): ManagedProcess {
  const child = new ManagedProcess(command, args, options);
  scope.defer(`kill ${child.line}`, () => child.kill());
  scope.reportOnFailure(`output of ${child.line}`, () => child.output.slice(-8192));
  return child;
}

/** Fails when the child ends within `ms`: the cheapest proof that it came up. */
export async function expectAlive(child: ManagedProcess, ms: number): Promise<void> {
  await sleep(ms);
  if (!child.running) throw new Error(`ended at once: ${child.line}\n${child.output}`);
}
