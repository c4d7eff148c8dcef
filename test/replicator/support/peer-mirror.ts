/**
 * A mirror that is another node: a real store with a secondary volume, an NBD server over it, and the links that it accepts,
 * in this process. Its links can be cut, it can be killed and started again on what it left.
 */
import type { Disk } from '../../../src/io/disk.ts';
import { systemRandom } from '../../../src/io/random.ts';
import { NbdServer } from '../../../src/nbd/server/server.ts';
import { SecondaryVolume } from '../../../src/replicator/intake/secondary.ts';
import { PeerAcceptor } from '../../../src/replicator/link/accept-peer.ts';
import { VolumeStore } from '../../../src/volume/store.ts';
import { inlineExaminer } from '../../../src/workers/examiner.ts';
import type { Scope } from '../../support/scope.ts';
import { MemoryDisk } from '../../volume/support/memory-disk.ts';
import { Host } from './host.ts';
import { Life } from './life.ts';
import { CuttableNetwork } from './mirror-server.ts';
import type { SparseImage } from './sparse-image.ts';

const NAME = 'm';
const BLOCK = 4096;

export interface PeerMirrorOptions {
  readonly sizeBytes: number;
  /** The node that it is a mirror of. */
  readonly source?: string;
  readonly disk?: Disk;
  readonly journalFileBytes?: number;
  /** Puts something into the volume before it becomes a mirror of what it never saw. */
  readonly path?: string;
}

export class PeerMirror {
  readonly uri: string;
  readonly events: string[] = [];
  private readonly options: PeerMirrorOptions;
  private readonly path: string;
  readonly disk: Disk;
  private readonly network = new CuttableNetwork();
  private socket: string;
  private life = new Life();
  private store: VolumeStore | null = null;
  private current: SecondaryVolume | null = null;
  private server: NbdServer | null = null;
  private acceptor: PeerAcceptor | null = null;

  private constructor(scope: Scope, options: PeerMirrorOptions) {
    this.options = options;
    this.disk = options.disk ?? new MemoryDisk();
    this.path = options.path ?? '/mirror';
    this.socket = `${scope.tempDir('bf-peer-')}/s`;
    this.uri = `nbd+unix:///${NAME}?socket=${this.socket}`;
    scope.reportOnFailure('events of the mirror', () => this.events.join('\n'));
    scope.defer('the mirror', () => this.stop());
  }

  static async start(scope: Scope, options: PeerMirrorOptions): Promise<PeerMirror> {
    const mirror = new PeerMirror(scope, options);
    const store = mirror.openStore();
    await store.create(NAME, options.sizeBytes, options.source ?? 'primary');
    await mirror.serve();
    return mirror;
  }

  get secondary(): SecondaryVolume {
    if (this.current === null) throw new Error('the mirror is down');
    return this.current;
  }

  private openStore(): VolumeStore {
    this.life = new Life();
    const { disk, path } = this;
    this.store = VolumeStore.open({ disk, clock: this.life.clock, random: systemRandom, path });
    return this.store;
  }

  private async serve(): Promise<void> {
    const volume = this.store?.find(NAME);
    if (volume === null || volume === undefined) throw new Error('the mirror has no volume');
    const { clock } = this.life;
    const { disk, options } = this;
    const secondary = new SecondaryVolume({
      volume,
      disk,
      clock,
      random: systemRandom,
      examiner: inlineExaminer,
      events: { emit: ({ kind, message }) => void this.events.push(`${kind}: ${message}`) },
      node: 'secondary',
      ...(options.journalFileBytes === undefined
        ? {}
        : { journalFileBytes: options.journalFileBytes }),
    });
    this.current = secondary;
    this.acceptor = new PeerAcceptor({
      clock,
      random: systemRandom,
      judge: (hello, client) => {
        const verdict = secondary.judge(hello, client.tls);
        if (verdict.kind === 'stranger') {
          return { kind: 'refuse', known: false, reason: verdict.reason };
        }
        if (verdict.kind === 'refused')
          return { kind: 'refuse', known: true, reason: verdict.text };
        const { welcome } = verdict;
        return {
          kind: 'accept',
          welcome,
          accepted: (link, of) => secondary.attach(link, of),
          abandoned: () => secondary.unexpected(hello),
        };
      },
    });
    secondary.start();
    const exported = { name: NAME, device: secondary, readOnly: true };
    this.server = new NbdServer({
      network: this.network,
      clock,
      exports: {
        find: () => ({ kind: 'granted', export: exported }),
        list: () => [exported],
      },
      log: { info: () => {}, warn: () => {} },
      privateOption: this.acceptor.option,
    });
    await this.server.listen({ kind: 'unix', path: this.socket });
  }

  cut(): void {
    this.network.cut();
  }

  leave(): void {
    this.network.away = true;
    this.network.cut();
  }

  comeBack(): void {
    this.network.away = false;
  }

  /** An orderly end. */
  async stop(): Promise<void> {
    const { server, current, store, acceptor } = this;
    this.server = null;
    if (server === null) return;
    acceptor?.close();
    await server.close();
    await current?.close();
    await store?.close();
    this.life.kill();
  }

  /** Another process on what the last one left. */
  async restart(): Promise<void> {
    await this.stop();
    this.openStore();
    await this.serve();
  }

  /** Blocks that are not as expected, as a reader of the export sees them. */
  async differences(expected: SparseImage): Promise<number[]> {
    const host = new Host(this.secondary);
    const differing: number[] = [];
    const step = 1024 * 1024;
    for (let at = 0; at < this.options.sizeBytes; at += step) {
      const length = Math.min(step, this.options.sizeBytes - at);
      const bytes = await host.read(at, length);
      if (bytes.equals(expected.read(at, length))) continue;
      for (let block = 0; block < length / BLOCK; block += 1) {
        const from = block * BLOCK;
        if (bytes.subarray(from, from + BLOCK).equals(expected.page(at / BLOCK + block))) continue;
        differing.push(at / BLOCK + block);
      }
    }
    return differing.slice(0, 10);
  }
}
