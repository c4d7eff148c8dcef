/** Two ends of a link, and what each of them hears. */
import { crc32 } from 'node:zlib';
import { Dice } from '../../../../scripts/fuzz/dice.ts';
import type { BlockferryError } from '../../../../src/io/errors.ts';
import type {
  FrameHeader,
  LinkHandler,
  ReceivedPayload,
} from '../../../../src/replicator/link/link-types.ts';
import type { ControlMessage } from '../../../../src/replicator/link/messages.ts';
import type { LinkMemory } from '../../../../src/replicator/link/link-memory.ts';
import { PeerLink } from '../../../../src/replicator/link/peer-link.ts';
import type { Compressor } from '../../../../src/workers/compressor.ts';
import { MemoryNetwork, type MemoryNetworkOptions } from '../../../support/memory-network.ts';
import { VirtualClock } from '../../../support/virtual-clock.ts';
import { entry, TOKEN } from './wire.ts';

export class Hearer implements LinkHandler {
  readonly frames: {
    readonly header: FrameHeader;
    readonly bytes: number;
    readonly checksum: number;
  }[] = [];
  readonly controls: ControlMessage[] = [];
  readonly heartbeats: FrameHeader[] = [];
  readonly events: string[] = [];
  drains = 0;
  /** Payloads that were not released, when the hearer keeps them. */
  readonly kept: ReceivedPayload[] = [];
  keeps = false;
  onFrame: (header: FrameHeader) => void = () => {};
  onClosed: () => void = () => {};

  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    this.events.push('frame');
    const content = payload?.buffer.subarray(0, payload.length) ?? Buffer.alloc(0);
    this.frames.push({ header, bytes: content.length, checksum: crc32(content) });
    if (payload !== null && this.keeps) this.kept.push(payload);
    else payload?.release();
    this.onFrame(header);
  }

  control(message: ControlMessage): void {
    this.events.push('control');
    this.controls.push(message);
  }

  heartbeat(header: FrameHeader): void {
    this.events.push('heartbeat');
    this.heartbeats.push(header);
  }

  drained(): void {
    this.drains += 1;
  }

  closed(error: BlockferryError): void {
    this.onClosed();
    this.events.push(`closed ${error.code}: ${error.message}`);
  }

  /** What was said of the end. */
  get ends(): string[] {
    return this.events.filter((event) => event.startsWith('closed'));
  }
}

export interface PairOptions extends Partial<Omit<MemoryNetworkOptions, 'clock'>> {
  readonly lanes?: number;
  readonly seed?: number;
  /** Shared with other pairs. */
  readonly shared?: VirtualClock;
  /** Of the mirror's node. */
  readonly memory?: LinkMemory;
  /** Of both ends; payloads are compressed when the primary is told to. */
  readonly compressor?: Compressor;
}

/** A primary and a mirror in memory, started. */
export class Pair {
  readonly clock: VirtualClock;
  readonly network: MemoryNetwork;
  readonly primary: PeerLink;
  readonly mirror: PeerLink;
  readonly atPrimary = new Hearer();
  readonly atMirror = new Hearer();

  constructor(wanted: PairOptions = {}) {
    const { lanes = 1, seed = 1, shared, memory, compressor, ...options } = wanted;
    this.clock = shared ?? new VirtualClock();
    const dice = new Dice(seed, 0);
    const fraction = (): number => dice.below(2 ** 20) / 2 ** 20;
    const { clock } = this;
    this.network = new MemoryNetwork({ clock, fraction, ...options });
    const parts = { clock, token: TOKEN, compressor: compressor ?? null };
    this.primary = new PeerLink({ ...parts, side: 'primary', peer: 'mirror node' });
    this.mirror = new PeerLink({
      ...parts,
      side: 'mirror',
      peer: 'primary node',
      memory: memory ?? null,
    });
    for (let lane = 0; lane < lanes; lane += 1) this.addLane(lane);
  }

  start(): this {
    this.primary.start(this.atPrimary);
    this.mirror.start(this.atMirror);
    return this;
  }

  addLane(index: number): void {
    const wire = this.network.wire(`lane ${index}`);
    this.primary.addLane(index, wire.connector, Buffer.alloc(0));
    this.mirror.addLane(index, wire.acceptor, Buffer.alloc(0));
  }

  run(ms: number): Promise<void> {
    return this.clock.run(ms);
  }

  settle(): Promise<void> {
    return this.clock.settle();
  }

  /** Nothing of a link that is over stays behind. */
  leftovers(): Record<string, number> {
    const { primary, mirror } = this;
    return {
      backlog: primary.backlogBytes + mirror.backlogBytes,
      held: primary.heldBytes + mirror.heldBytes,
      timers: this.clock.pendingTimers,
    };
  }
}

export const NOTHING_LEFT = { backlog: 0, held: 0, timers: 0 };

export const header = (kind: number, rest: Partial<FrameHeader> = {}): FrameHeader => ({
  kind: kind as FrameHeader['kind'],
  flags: 0,
  volume: 0,
  epoch: 0,
  index: 0,
  offset: 0,
  length: 0,
  aux: 0,
  ...rest,
});

/** A DATA frame with `blocks` blocks. */
export function sendData(link: PeerLink, index: number, blocks: number, sent?: () => void): Buffer {
  const payload = entry(BigInt(index) * 4096n, Buffer.alloc(blocks * 4096, index));
  const half = payload.length >> 1;
  const chunks = [payload.subarray(0, half), payload.subarray(half)];
  link.send(header(1, { epoch: 1, index, length: payload.length }), chunks, sent);
  return payload;
}
