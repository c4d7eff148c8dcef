/** A `blockferry serve` as a child process, with its log in a file. */
import assert from 'node:assert';
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, fstatSync, openSync, readSync, renameSync, statSync } from 'node:fs';

const LOG_BYTES_MAX = 16 * 1024 * 1024;
const LAST_LINE_BYTES_MAX = 4096;

interface NodeProcessOptions {
  readonly name: string;
  /** Path of bin/blockferry.cjs. */
  readonly command: string;
  readonly arguments: readonly string[];
  readonly logPath: string;
}

export class NodeProcess {
  readonly name: string;
  readonly command: string;
  readonly logPath: string;
  /** How it ended (`with exit code 1`, `by SIGKILL`), null while it runs. */
  ended: string | null = null;
  private readonly arguments: readonly string[];
  private child: ChildProcess | null = null;
  private stopping = false;
  private readonly endListeners: (() => void)[] = [];

  constructor(options: NodeProcessOptions) {
    this.name = options.name;
    this.command = options.command;
    this.arguments = options.arguments;
    this.logPath = options.logPath;
  }

  get pid(): number {
    return this.child?.pid ?? 0;
  }

  start(): void {
    assert(this.child === null, 'started once');
    const old = statSync(this.logPath, { throwIfNoEntry: false });
    if (old !== undefined && old.size > LOG_BYTES_MAX)
      renameSync(this.logPath, `${this.logPath}.1`);
    const log = openSync(this.logPath, 'a', 0o600);
    // In a group of its own: a Ctrl-C in the terminal reaches the parent alone, which then stops the nodes
    // in order.
    this.child = spawn(process.execPath, [this.command, ...this.arguments], {
      detached: true,
      stdio: ['ignore', 'ignore', log],
    });
    closeSync(log);
    this.child.on('error', (error) => this.end(`before it ran: ${error.message}`));
    this.child.on('exit', (code, signal) => {
      this.end(signal === null ? `with exit code ${code ?? ''}` : `by ${signal}`);
    });
  }

  /** Calls `listener` when it ends without having been stopped; at once if it already has. */
  onEnd(listener: () => void): void {
    if (this.ended === null) this.endListeners.push(() => this.stopping || listener());
    else listener();
  }

  kill(signal: NodeJS.Signals): void {
    if (this.child !== null && this.ended === null) this.child.kill(signal);
  }

  /** Asks it to stop and waits until it has. */
  async stop(): Promise<void> {
    this.stopping = true;
    if (this.child === null || this.ended !== null) return;
    const ended = new Promise<void>((resolve) => this.endListeners.push(resolve));
    this.kill('SIGTERM');
    await ended;
  }

  /** As one types it, in the directory where the parent runs. */
  commandLine(): string {
    return ['node', this.command, ...this.arguments].map(quoted).join(' ');
  }

  /** The last line of its log, empty if there is none; of a JSON line, the message. */
  lastLine(): string {
    const line = lastLineOf(this.logPath);
    try {
      const parsed: unknown = JSON.parse(line);
      if (typeof parsed === 'object' && parsed !== null && 'msg' in parsed)
        return String(parsed.msg);
    } catch {
      // Plain text.
    }
    return line;
  }

  private end(how: string): void {
    if (this.ended !== null) return;
    this.ended = how;
    for (const listener of this.endListeners) listener();
  }
}

function lastLineOf(path: string): string {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch {
    return '';
  }
  const { size } = fstatSync(file);
  const buffer = Buffer.alloc(Math.min(size, LAST_LINE_BYTES_MAX));
  readSync(file, buffer, 0, buffer.length, size - buffer.length);
  closeSync(file);
  return buffer.toString('utf8').trimEnd().split('\n').at(-1) ?? '';
}

function quoted(word: string): string {
  return /^[\w./:=@-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
