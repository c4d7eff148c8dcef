/** The proxy process between the two nodes, as its parent sees it. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Scope } from '../../../test/support/scope.ts';
import type { LinkCount, LinkOrder } from './delay-proxy.ts';

const ANSWER_MS_MAX = 10_000;

export class Link {
  /** The unix socket that it listens at. */
  readonly socket: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, socket: string) {
    this.#child = child;
    this.socket = socket;
  }

  /** Everything that comes to `socket` goes to the unix socket `target`. */
  static async start(scope: Scope, socket: string, target: string): Promise<Link> {
    const script = fileURLToPath(new URL('./delay-proxy.js', import.meta.url)); // as it is built
    const child = fork(script, [`unix:${socket}`, `unix:${target}`]);
    scope.defer('end the link', async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    });
    const link = new Link(child, socket);
    await link.#answer();
    return link;
  }

  /** Each way, from now on. */
  async delay(ms: number): Promise<void> {
    await this.#order({ kind: 'delay', ms });
  }

  /** Resets what stands and what comes, until `restore`. */
  async cut(): Promise<void> {
    await this.#order({ kind: 'cut' });
  }

  async restore(): Promise<void> {
    await this.#order({ kind: 'restore' });
  }

  async count(): Promise<LinkCount> {
    return await this.#order({ kind: 'count' });
  }

  async #order(order: LinkOrder): Promise<LinkCount> {
    const answered = this.#answer();
    this.#child.send(order);
    return await answered;
  }

  async #answer(): Promise<LinkCount> {
    const signal = AbortSignal.timeout(ANSWER_MS_MAX);
    const [count] = (await once(this.#child, 'message', { signal })) as [LinkCount];
    return count;
  }
}
