/**
 * A `blockferry serve` process for tests, drills and benchmarks: started, commanded over its control
 * socket, stopped or killed, started again on the same data.
 */
import { request } from 'node:http';
import { join } from 'node:path';
import type { NodeFacts, NodeStatus, VolumeStatus } from '../../src/control/status.ts';
import type { MirrorMode, MirrorStatus } from '../../src/replicator/status.ts';
import { run, start, type ManagedProcess, type RunOptions, type RunResult } from './process.ts';
import { BLOCKFERRY_BIN } from './root.ts';
import type { Scope } from './scope.ts';
import { waitUntil } from './wait.ts';

const READY_MS_MAX = 15_000;
const REQUEST_MS_MAX = 30_000;

export interface NodeOptions {
  readonly name: string;
  /** Home of data, sockets and nothing else; default a temporary directory of the scope. */
  readonly dir?: string;
  /** Further addresses beside the unix socket: `127.0.0.1:PORT`. */
  readonly nbd?: readonly string[];
  /** No `--nbd` at all: a configuration file or a parent process says where. */
  readonly nbdElsewhere?: boolean;
  /** More flags for `serve`. */
  readonly flags?: readonly string[];
  /** Words before the command: `ip netns exec NAME`. */
  readonly prefix?: readonly string[];
  /** The Node that runs it, and flags for that; default the one that runs this. */
  readonly runtime?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
}

/** A refusal of the control API. */
export class ControlError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(`${code}: ${message}`);
    this.status = status;
    this.code = code;
  }
}

export class TestNode {
  readonly name: string;
  readonly dir: string;
  readonly data: string;
  readonly nbdSocket: string;
  readonly controlSocket: string;
  readonly #scope: Scope;
  readonly #options: NodeOptions;
  #process: ManagedProcess | null = null;

  constructor(scope: Scope, options: NodeOptions) {
    this.#scope = scope;
    this.#options = options;
    this.name = options.name;
    this.dir = options.dir ?? scope.tempDir(`bf-${options.name}-`);
    this.data = join(this.dir, 'data');
    this.nbdSocket = join(this.dir, 'nbd.sock');
    this.controlSocket = join(this.dir, 'control.sock');
  }

  get process(): ManagedProcess {
    if (this.#process === null) throw new Error(`node ${this.name} was not started`);
    return this.#process;
  }

  get pid(): number {
    return this.process.pid;
  }

  get log(): string {
    return this.process.output;
  }

  /** The export of a volume, over the unix socket. */
  uri(volume: string): string {
    return `nbd+unix:///${encodeURIComponent(volume)}?socket=${this.nbdSocket}`;
  }

  /** Starts the process and waits until it answers on its control socket. */
  async start(): Promise<void> {
    const nbd = [`unix:${this.nbdSocket}`, ...(this.#options.nbd ?? [])];
    const command = [
      ...(this.#options.prefix ?? []),
      ...(this.#options.runtime ?? [process.execPath]),
      BLOCKFERRY_BIN,
      'serve',
      '--name',
      this.name,
      '--data',
      this.data,
      ...(this.#options.nbdElsewhere === true ? [] : nbd.flatMap((a) => ['--nbd', a])),
      '--control',
      `unix:${this.controlSocket}`,
      ...(this.#options.flags ?? []),
    ];
    const [program = '', ...args] = command;
    const child = start(this.#scope, program, args, { env: this.#options.env ?? {} });
    this.#process = child;
    await waitUntil(
      `node ${this.name} to answer`,
      async () => {
        if (!child.running) return 'ended';
        await this.status();
        return 'answers';
      },
      { timeoutMs: READY_MS_MAX, onTimeout: () => child.output },
    );
    if (!child.running) throw new Error(`node ${this.name} ended at start:\n${child.output}`);
  }

  /** SIGTERM; fails when the node does not end cleanly. */
  async stop(): Promise<void> {
    await this.process.stop();
    if (this.process.exitCode !== 0) {
      throw new Error(
        `node ${this.name} ended with ${String(this.process.exitCode)}:\n${this.log}`,
      );
    }
  }

  /** SIGKILL: the process loses what it held in memory, the machine does not. */
  async kill(): Promise<void> {
    await this.process.kill();
  }

  /** Runs the command line against this node. */
  async cli(args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const control = ['--control', `unix:${this.controlSocket}`];
    return await run(process.execPath, [BLOCKFERRY_BIN, ...args, ...control], options);
  }

  /** One request of the control API; throws ControlError when it is refused. */
  async request<T>(method: string, path: string, body?: unknown): Promise<T> {
    const { status, text } = await httpOverUnix(this.controlSocket, method, path, body);
    const answer: unknown = JSON.parse(text);
    if (status < 300) return answer as T;
    const { error } = answer as { error: { code: string; message: string } };
    throw new ControlError(status, error.code, error.message);
  }

  async facts(): Promise<NodeFacts> {
    return await this.request<NodeFacts>('GET', '/v1/node');
  }

  /** `HOST:PORT` of the first TCP address of that host, with the port that the system chose. */
  async tcpAddress(host = '127.0.0.1'): Promise<string> {
    const { nbd } = await this.facts();
    const found = nbd.find((address) => address.startsWith(`${host}:`));
    if (found === undefined) throw new Error(`no address on ${host} among ${nbd.join(' ')}`);
    return found;
  }

  async status(): Promise<NodeStatus> {
    return await this.request<NodeStatus>('GET', '/v1/status');
  }

  async volume(name: string): Promise<VolumeStatus> {
    return await this.request<VolumeStatus>('GET', `/v1/volumes/${encodeURIComponent(name)}`);
  }

  /** `size` as on the command line: `256M`. */
  async createVolume(name: string, size: string): Promise<VolumeStatus> {
    return await this.request<VolumeStatus>('POST', '/v1/volumes', { name, size });
  }

  async addMirror(volume: string, uri: string, mode: MirrorMode = 'async'): Promise<VolumeStatus> {
    const path = `/v1/volumes/${encodeURIComponent(volume)}/mirrors`;
    return await this.request<VolumeStatus>('POST', path, { uri, mode });
  }

  /** The first mirror of a volume. */
  async mirror(volume: string): Promise<MirrorStatus> {
    const [mirror] = (await this.volume(volume)).mirrors;
    if (mirror === undefined) throw new Error(`volume ${volume} has no mirror`);
    return mirror;
  }

  /** Waits until every mirror of the volume streams with nothing staged and nothing marked. */
  async waitInSync(volume: string, timeoutMs = 30_000): Promise<VolumeStatus> {
    let last: VolumeStatus | null = null;
    return await waitUntil(
      `the mirrors of ${volume} to be in sync`,
      async () => {
        last = await this.volume(volume);
        return last.mirrors.length > 0 && last.mirrors.every(inSync) ? last : null;
      },
      { timeoutMs, everyMs: 20, onTimeout: () => JSON.stringify(last, null, 2) },
    );
  }
}

export function inSync(mirror: MirrorStatus): boolean {
  const { state, staged_bytes: staged, dirty_bytes: dirty, suspect_bytes: suspect } = mirror;
  return state === 'streaming' && staged === 0 && dirty === 0 && suspect === 0;
}

/** A node that runs and answers; it ends with the scope at the latest. */
export async function startNode(scope: Scope, options: NodeOptions): Promise<TestNode> {
  const node = new TestNode(scope, options);
  await node.start();
  return node;
}

interface HttpAnswer {
  readonly status: number;
  readonly text: string;
}

async function httpOverUnix(
  socketPath: string,
  method: string,
  path: string,
  body: unknown,
): Promise<HttpAnswer> {
  const payload = body === undefined ? undefined : JSON.stringify(body);
  return await new Promise((resolve, reject) => {
    const headers =
      payload === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) };
    const call = request(
      { socketPath, method, path, headers, timeout: REQUEST_MS_MAX },
      (reply) => {
        let text = '';
        reply.setEncoding('utf8');
        reply.on('data', (chunk: string) => {
          text += chunk;
        });
        reply.on('end', () => resolve({ status: reply.statusCode ?? 0, text }));
        reply.on('error', reject);
      },
    );
    call.on('timeout', () => call.destroy(new Error(`${method} ${path}: no answer in time`)));
    call.on('error', reject);
    call.end(payload);
  });
}
