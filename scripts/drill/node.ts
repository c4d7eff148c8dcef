/**
 * A blockferry node as a real process, driven as an operator would: started with `serve`, commanded with
 * the CLI, watched through its control socket, and killed without notice.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Child, Hopeless, run, type RunResult, until } from './process.ts';
import { nbdUri } from './sockets.ts';

const START_MS_MAX = 15_000;
const ANSWER_MS_MAX = 5_000;

/** The parts of `status --json` that a drill looks at (design: operator's contract). */
export interface SeenMirror {
  readonly uri: string;
  readonly kind: string;
  readonly lanes: number;
  readonly mode: string;
  readonly state: string;
  readonly consistent: boolean;
  readonly staged_bytes: number;
  readonly dirty_bytes: number;
  readonly suspect_bytes: number;
  readonly lag_seconds: number;
  readonly bytes_sent: number;
  readonly delta_bytes_sent: number;
  readonly bytes_compared: number;
  readonly compression: {
    readonly mode: string;
    readonly active: boolean;
    readonly ratio: number | null;
    readonly bytes_in: number;
    readonly bytes_out: number;
  };
  readonly last_error: string | null;
  /** What it holds durably, as far as that is known. */
  readonly position: { readonly generation: number; readonly epoch: number } | null;
}

/** What a volume that is a mirror of another node's says of that. */
export interface SeenSource {
  readonly state: string;
  readonly durable_epoch: number;
  readonly applied_epoch: number;
  readonly bytes_received: number;
  readonly last_error: string | null;
}

export interface SeenVolume {
  readonly name: string;
  readonly source: SeenSource | null;
  /** Why its writes wait; null: they do not. */
  readonly fenced: string | null;
  readonly size_bytes: number;
  readonly allocated_bytes: number;
  readonly connections: number;
  readonly mirrors: readonly SeenMirror[];
}

export interface SeenNode {
  readonly node: string;
  readonly volumes: readonly SeenVolume[];
}

/** The command under test; BLOCKFERRY_BIN names another one than this checkout's. */
export function blockferryBin(): string {
  const override = process.env['BLOCKFERRY_BIN'];
  if (override !== undefined) return override;
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'bin', 'blockferry.cjs'))) {
    const parent = dirname(directory);
    if (parent === directory) throw new Error('bin/blockferry.cjs is nowhere above this script');
    directory = parent;
  }
  return join(directory, 'bin', 'blockferry.cjs');
}

export interface NodeOptions {
  /** DIRECTORY/NAME unless given; sockets and the log lie in `directory`. */
  readonly dataDirectory?: string;
  readonly nbdAddress?: string;
  readonly bin?: string;
  /** More options of `serve`. */
  readonly serveOptions?: readonly string[];
}

export class DrilledNode {
  readonly name: string;
  readonly dataDirectory: string;
  /** Where NBD clients connect, as `unix:PATH` or `HOST:PORT`. */
  readonly nbdAddress: string;
  readonly controlPath: string;
  /** Path of bin/blockferry.cjs: another build, from the next start on. */
  bin: string;
  /** Words in front of the command, such as `unshare --mount`, from the next start on. */
  wrapper: readonly string[] = [];
  private readonly serveOptions: readonly string[];
  private readonly logPath: string;
  private child: Child | null = null;

  constructor(options: NodeOptions & { name: string; directory: string }) {
    this.name = options.name;
    this.bin = options.bin ?? blockferryBin();
    this.serveOptions = options.serveOptions ?? [];
    this.dataDirectory = options.dataDirectory ?? join(options.directory, options.name);
    this.nbdAddress =
      options.nbdAddress ?? `unix:${join(options.directory, `${options.name}.nbd`)}`;
    this.controlPath = join(options.directory, `${options.name}.control`);
    this.logPath = join(options.directory, `${options.name}.log`);
    mkdirSync(this.dataDirectory, { recursive: true });
  }

  get running(): boolean {
    return this.child?.running ?? false;
  }

  get pid(): number {
    return this.child?.pid ?? 0;
  }

  uri(volume: string): string {
    return nbdUri(this.nbdAddress, volume);
  }

  /** Returns when the node answers. */
  async start(signal?: AbortSignal): Promise<void> {
    const words = [
      ...this.wrapper,
      process.execPath,
      this.bin,
      'serve',
      '--name',
      this.name,
      '--data',
      this.dataDirectory,
      '--nbd',
      this.nbdAddress,
      '--control',
      `unix:${this.controlPath}`,
      ...this.serveOptions,
    ];
    const [command = '', ...args] = words;
    const child = new Child(command, args, { logPath: this.logPath });
    this.child = child;
    const wait = { what: `node ${this.name} to answer`, timeoutMs: START_MS_MAX };
    try {
      await until(signal === undefined ? wait : { ...wait, signal }, async () => {
        if (!child.running) throw new Hopeless(`node ${this.name} ended: ${child.tail()}`);
        return await this.status();
      });
    } catch (thrown) {
      await this.kill();
      throw thrown;
    }
  }

  /** What it logged, over all its lives. */
  log(): string {
    return existsSync(this.logPath) ? readFileSync(this.logPath, 'utf8') : '';
  }

  /** kill -9. Returns when the process is gone. */
  async kill(): Promise<void> {
    await this.child?.kill();
  }

  /** Stops it where it is, as a machine that hangs; `thaw` lets it go on. */
  freeze(): void {
    this.child?.signal('SIGSTOP');
  }

  thaw(): void {
    this.child?.signal('SIGCONT');
  }

  /** SIGTERM, the clean way. */
  async stop(): Promise<void> {
    await this.child?.stop();
  }

  /** Runs `blockferry ARGS` against this node. Throws with its line when it fails. */
  async command(...args: readonly string[]): Promise<string> {
    return (await this.attempt(args, [0])).stdout;
  }

  /** The same, for what may be refused: the exit codes are 0 and 1, unless said otherwise. */
  async attempt(args: readonly string[], accept: readonly number[] = [0, 1]): Promise<RunResult> {
    return await run(process.execPath, [this.bin, ...args], {
      accept,
      env: { BLOCKFERRY_CONTROL: `unix:${this.controlPath}` },
    });
  }

  async status(): Promise<SeenNode> {
    return JSON.parse(await this.get('/v1/status')) as SeenNode;
  }

  async volume(name: string): Promise<SeenVolume> {
    const { volumes } = await this.status();
    const volume = volumes.find((each) => each.name === name);
    if (volume === undefined) throw new Error(`node ${this.name} has no volume ${name}`);
    return volume;
  }

  /** The only mirror of a volume. */
  async mirror(volume: string): Promise<SeenMirror> {
    const [mirror] = (await this.volume(volume)).mirrors;
    if (mirror === undefined) throw new Error(`volume ${volume} has no mirror`);
    return mirror;
  }

  private get(path: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const outgoing = request(
        { socketPath: this.controlPath, path, agent: false, timeout: ANSWER_MS_MAX },
        (response) => {
          let text = '';
          response.setEncoding('utf8');
          response.on('data', (chunk: string) => {
            text += chunk;
          });
          response.on('error', reject);
          response.on('end', () => {
            if (response.statusCode === 200) resolve(text);
            else reject(new Error(`node ${this.name} answered ${response.statusCode}: ${text}`));
          });
        },
      );
      outgoing.on('timeout', () => outgoing.destroy(new Error('no answer in time')));
      outgoing.on('error', reject);
      outgoing.end();
    });
  }
}

/** In step: nothing left to send, and the mirror a state that the volume had. */
export function inStep(mirror: SeenMirror): boolean {
  return mirror.state === 'streaming' && mirror.consistent;
}

/** In step with nothing under way: after the load has ended both sides are then equal. */
export function settled(mirror: SeenMirror): boolean {
  return (
    inStep(mirror) &&
    mirror.staged_bytes === 0 &&
    mirror.dirty_bytes === 0 &&
    mirror.suspect_bytes === 0
  );
}

/** For volumes of some GiB on a busy machine. */
const COMPARE_MS_MAX = 300_000;
/** Both fail the pipeline when they fail; a copy that ends early makes the streams differ. */
const COMPARE = 'set -o pipefail; nbdcopy -- "$1" - | cmp - <(nbdcopy -- "$2" -)';

/** Reads both exports whole, through their servers, and compares them byte by byte. */
export async function expectEqualExports(uris: readonly [string, string]): Promise<void> {
  await run('bash', ['-c', COMPARE, 'compare', ...uris], { timeoutMs: COMPARE_MS_MAX });
}
