/**
 * Two nodes, one of which keeps mirrors of the other's volumes, and what the rows ask of them. All rows share one pair, so
 * that its memory is that of a node which went through all of them.
 */
import { join } from 'node:path';
import { inSync, type TestNode } from '../../../test/support/node.ts';
import type { MirrorMode } from '../../../src/replicator/status.ts';
import { blockferryNode, COPY_MS_MAX, type Contender } from '../contenders.ts';
import type { Place } from '../footprint.ts';
import { write } from '../layers/calls.ts';
import { peakBytes, resetPeak } from '../memory.ts';
import type { Runtime } from '../runtimes.ts';
import { Link } from './link.ts';

const ALPHA = 'alpha';
const BETA = 'beta';

/** Greatest resident size in a row, bytes. */
export interface Peak {
  readonly row: string;
  readonly alpha: number;
  readonly beta: number;
}

export interface MirroredVolume {
  readonly sizeBytes: number;
  /** Bytes from the start of the volume that are written before it gets its mirror; default all. */
  readonly filledBytes?: number;
  /** Null: it has no mirror. */
  readonly mode: MirrorMode | null;
  /** The link goes through the proxy. */
  readonly far?: boolean;
}

export class Pair {
  readonly alpha: TestNode;
  readonly beta: TestNode;
  readonly peaks: Peak[] = [];
  readonly #place: Place;
  readonly #runtime: Runtime;
  readonly #volumes = new Set<string>();
  #link: Link | null = null;

  private constructor(place: Place, runtime: Runtime, alpha: TestNode, beta: TestNode) {
    this.#place = place;
    this.#runtime = runtime;
    this.alpha = alpha;
    this.beta = beta;
  }

  static async start(place: Place, runtime: Runtime): Promise<Pair> {
    const { servers, dir } = place;
    const beta = await blockferryNode(servers, runtime, join(dir, BETA), { name: BETA });
    const alpha = await blockferryNode(servers, runtime, join(dir, ALPHA), { name: ALPHA });
    return new Pair(place, runtime, alpha, beta);
  }

  /** Two more nodes, for a part that ends one of them. */
  async another(name: string): Promise<{ readonly alpha: TestNode; readonly beta: TestNode }> {
    const { servers, dir } = this.#place;
    const start = async (node: string): Promise<TestNode> =>
      await blockferryNode(servers, this.#runtime, join(dir, `${name}-${node}`), { name: node });
    return { alpha: await start(ALPHA), beta: await start(BETA) };
  }

  async link(): Promise<Link> {
    const { servers, dir } = this.#place;
    this.#link ??= await Link.start(servers, join(dir, 'link.sock'), this.beta.nbdSocket);
    return this.#link;
  }

  /** Makes the volume, its content and its mirror, unless it is there; returns when both sides are equal. */
  async volume(name: string, { sizeBytes, filledBytes, mode, far }: MirroredVolume): Promise<void> {
    if (this.#volumes.has(name)) return;
    this.#volumes.add(name);
    await this.alpha.createVolume(name, String(sizeBytes));
    await write(this.alpha.uri(name), 0, filledBytes ?? sizeBytes);
    if (mode === null) return;
    const secondary = { name, size: String(sizeBytes), mirror_of: ALPHA };
    await this.beta.request('POST', '/v1/volumes', secondary);
    const socket = far === true ? (await this.link()).socket : this.beta.nbdSocket;
    await this.alpha.addMirror(name, `nbd+unix:///${name}?socket=${socket}`, mode);
    await this.alpha.waitInSync(name, COPY_MS_MAX);
    const { kind } = await this.alpha.mirror(name);
    if (kind !== 'blockferry') throw new Error(`the mirror of ${name} is of kind ${kind}`);
  }

  async pause(volume: string): Promise<void> {
    await this.alpha.request('POST', `/v1/volumes/${volume}/mirrors/pause`, {});
  }

  async resume(volume: string): Promise<void> {
    await this.alpha.request('POST', `/v1/volumes/${volume}/mirrors/resume`, {});
  }

  async inSync(volume: string): Promise<void> {
    await this.alpha.waitInSync(volume, COPY_MS_MAX);
  }

  /** A volume with a mirror; the next round begins when that has everything. */
  mirrored(name: string, volume: string, before?: () => Promise<void>): Contender {
    let deltaBefore: number | null = null;
    const delta = async (): Promise<number> => (await this.alpha.mirror(volume)).delta_bytes_sent;
    return {
      ...this.unmirrored(name, volume),
      before: async () => {
        await before?.();
        deltaBefore ??= await delta();
      },
      behind: async () => {
        const mirror = await this.alpha.mirror(volume);
        if (inSync(mirror)) return 0;
        return Math.max(1, mirror.staged_bytes + mirror.dirty_bytes + mirror.suspect_bytes);
      },
      remark: async () => {
        const now = await delta();
        const grown = now - (deltaBefore ?? now);
        deltaBefore = now;
        return grown > 0
          ? `left stream: ${(grown / 2 ** 20).toFixed(0)} MiB went in delta runs`
          : null;
      },
    };
  }

  /** A volume of which no mirror is waited for. */
  unmirrored(name: string, volume: string): Contender {
    return { name, uri: () => this.alpha.uri(volume), dir: this.alpha.dir };
  }

  /** Notes the peaks while `work` runs. */
  async watched<T>(row: string, work: () => Promise<T>): Promise<T> {
    const [alpha, beta] = [this.alpha.pid, this.beta.pid];
    resetPeak(alpha);
    resetPeak(beta);
    const result = await work();
    this.peaks.push({ row, alpha: peakBytes(alpha), beta: peakBytes(beta) });
    return result;
  }
}
