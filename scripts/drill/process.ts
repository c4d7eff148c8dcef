/**
 * Child processes of a drill: run one to its end with a deadline, or keep one and end it by its pid.
 *
 * Children get a process group of their own: a Ctrl-C reaches the drill alone, which then takes things
 * down in order. Nothing here waits synchronously: the drill's proxies must go on meanwhile.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as sleepFor } from 'node:timers/promises';

const RUN_MS_MAX = 60_000;
const STOP_MS_MAX = 15_000;
const OUTPUT_CHARS_MAX = 1024 * 1024;
const LOG_TAIL_CHARS = 4000;

export interface RunResult {
  /** Exit code, or null after a signal. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly timeoutMs?: number;
  readonly env?: NodeJS.ProcessEnv;
  /** Exit codes that are no failure. Default: 0 alone. */
  readonly accept?: readonly number[];
}

/** Runs a command to its end. Throws, with its output, when it fails or takes too long. */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    env: { ...process.env, ...options.env },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout = (stdout + text).slice(-OUTPUT_CHARS_MAX);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-OUTPUT_CHARS_MAX);
  });
  const timeoutMs = options.timeoutMs ?? RUN_MS_MAX;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  }).finally(() => clearTimeout(timer));
  const line = `${[command, ...args].join(' ')}\n${stdout}${stderr}`;
  if (late) throw new Error(`took over ${timeoutMs} ms: ${line}`);
  if (!(options.accept ?? [0]).includes(code ?? -1)) {
    throw new Error(`exit ${code ?? 'by signal'}: ${line}`);
  }
  return { code, stdout, stderr };
}

/** A child that runs until it ends or is ended; its output goes to a file. */
export class Child {
  readonly logPath: string;
  private readonly process: ChildProcess;
  private readonly ended: Promise<void>;
  private readonly line: string;

  constructor(
    command: string,
    args: readonly string[],
    options: { logPath: string; env?: NodeJS.ProcessEnv },
  ) {
    this.line = [command, ...args].join(' ');
    this.logPath = options.logPath;
    const log = openSync(options.logPath, 'a');
    this.process = spawn(command, args, {
      stdio: ['ignore', log, log],
      detached: true,
      env: { ...process.env, ...options.env },
    });
    closeSync(log);
    this.ended = new Promise((resolve) => {
      this.process.once('exit', () => resolve());
      this.process.once('error', () => resolve());
    });
  }

  get pid(): number {
    return this.process.pid ?? 0;
  }

  get running(): boolean {
    const { pid, exitCode, signalCode } = this.process;
    return pid !== undefined && exitCode === null && signalCode === null;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running) this.process.kill(signal);
  }

  /** Resolves true when the child has ended, false when `timeoutMs` passed first. */
  async waitForExit(timeoutMs: number): Promise<boolean> {
    const late = new AbortController();
    const timer = sleepFor(timeoutMs, false, { signal: late.signal }).catch(() => false);
    const result = await Promise.race([this.ended.then(() => true), timer]);
    late.abort();
    return result;
  }

  /** SIGKILL for the child and what it forked. */
  async kill(): Promise<void> {
    try {
      if (this.pid > 0) process.kill(-this.pid, 'SIGKILL');
    } catch (thrown) {
      if (!(thrown instanceof Error && 'code' in thrown && thrown.code === 'ESRCH')) throw thrown;
    }
    if (!(await this.waitForExit(STOP_MS_MAX))) {
      throw new Error(`still there after SIGKILL (pid ${this.pid}): ${this.line}`);
    }
  }

  /** SIGTERM, then SIGKILL when that did not do. */
  async stop(): Promise<void> {
    this.signal('SIGTERM');
    if (!(await this.waitForExit(STOP_MS_MAX))) await this.kill();
  }

  /** The end of what it said, for error messages. */
  tail(): string {
    return `${this.line}\n${readFileSync(this.logPath, 'utf8').slice(-LOG_TAIL_CHARS)}`;
  }
}

/** What was set up, taken down again in reverse order whatever happened. */
export class Undo {
  private readonly steps: { readonly what: string; readonly step: () => void | Promise<void> }[] =
    [];

  add(what: string, step: () => void | Promise<void>): void {
    this.steps.push({ what, step });
  }

  /** Runs every step even if some fail, and returns what failed, a line each. */
  async run(): Promise<string[]> {
    const failures: string[] = [];
    for (let entry = this.steps.pop(); entry !== undefined; entry = this.steps.pop()) {
      try {
        await entry.step();
      } catch (thrown) {
        const why = thrown instanceof Error ? thrown.message : String(thrown);
        failures.push(`${entry.what}: ${why}`);
      }
    }
    return failures;
  }
}

export interface WaitOptions {
  readonly what: string;
  readonly timeoutMs: number;
  readonly everyMs?: number;
  readonly signal?: AbortSignal;
}

/** Thrown by a probe when asking again is no use. */
export class Hopeless extends Error {}

/** Asks until the answer is something, and returns it. A probe that throws is asked again. */
export async function until<T>(
  options: WaitOptions,
  probe: () => T | null | false | Promise<T | null | false>,
): Promise<T> {
  const deadline = performance.now() + options.timeoutMs;
  let last = '';
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      const value = await probe();
      if (value !== null && value !== false) return value;
    } catch (thrown) {
      if (thrown instanceof Hopeless) throw thrown;
      last = ` (${thrown instanceof Error ? thrown.message : String(thrown)})`;
    }
    if (performance.now() > deadline) break;
    await pause(options.everyMs ?? 50, options.signal);
  }
  throw new Error(`waited ${options.timeoutMs / 1000} s for ${options.what}${last}`);
}

export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  await sleepFor(ms, undefined, signal === undefined ? {} : { signal });
}
