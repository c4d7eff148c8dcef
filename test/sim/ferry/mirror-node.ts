/**
 * The node of a mirror: a store with a secondary volume, and a server that takes the links of its primary. What it claims to
 * hold is noted, and held against it.
 */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import { PeerLinks } from '../../../src/control/exports/peer-links.ts';
import { NbdServer } from '../../../src/nbd/server/server.ts';
import { SecondaryVolume } from '../../../src/replicator/intake/secondary.ts';
import {
  PeerAcceptor,
  type PeerAcceptorOptions,
} from '../../../src/replicator/link/accept-peer.ts';
import type { LinkPosition } from '../../../src/replicator/link/messages.ts';
import type { Platter } from '../platter.ts';
import { Lines } from './lines.ts';
import { Node, type Begun } from './node.ts';
import { simExaminer } from './requests.ts';

export const VOLUME = 'm';
export const PRIMARY = 'p';

export class MirrorNode extends Node {
  secondary: SecondaryVolume | null = null;
  /** The newest position that it had durably, by its own word. */
  claimed: LinkPosition | null = null;
  /** The last change that its host was promised to be here durably. */
  promised = 0;
  /** What its disk was once, with what was claimed then. */
  backup: { platter: Platter; claimed: LinkPosition | null } | null = null;
  /** Its disk was set back, and its primary has not noticed yet. */
  setBack = false;
  private server: NbdServer | null = null;
  private acceptor: PeerAcceptor | null = null;

  async create(): Promise<void> {
    const parts = this.begin();
    await this.store!.create(VOLUME, this.surroundings.blocks * 4096, PRIMARY);
    await this.serve(parts);
  }

  async start(): Promise<void> {
    await this.serve(this.begin());
  }

  private async serve({ process, disk, random }: Begun): Promise<void> {
    const { lines, journalFileBytes, compressor } = this.surroundings;
    const volume = this.store!.find(VOLUME)!;
    const secondary = new SecondaryVolume({
      volume,
      disk,
      clock: process,
      random,
      examiner: simExaminer,
      events: { emit: ({ kind, message }) => this.note(`${kind}: ${message}`) },
      node: this.name,
      journalFileBytes,
    });
    this.secondary = secondary;
    this.acceptor = acceptorOf(secondary, { clock: process, random, compressor });
    secondary.start();
    const exported = { name: VOLUME, device: secondary, readOnly: true };
    this.server = new NbdServer({
      network: lines.of(this.name, process),
      clock: process,
      exports: { find: () => ({ kind: 'granted', export: exported }), list: () => [exported] },
      log: { info: () => {}, warn: () => {} },
      privateOption: this.acceptor.option,
    });
    await this.server.listen(Lines.address(this.name));
  }

  /** Notes what it claims by now. */
  listen(): void {
    const held = this.secondary?.intake.durable ?? null;
    if (held === null || (this.claimed !== null && held.epoch <= this.claimed.epoch)) return;
    this.claimed = { generation: held.generation, epoch: held.epoch };
  }

  async close(): Promise<void> {
    const { server, acceptor, secondary, store } = this;
    this.closing = true;
    acceptor?.close();
    await server?.close();
    await secondary?.close();
    await store?.close();
  }

  /** Its device is somebody else's from now on. */
  handOver(): void {
    this.ended();
  }

  protected override ended(): void {
    this.secondary = null;
    this.server = null;
    this.acceptor = null;
  }

  // ---- backups

  /** Copies what a power cut would leave. */
  keepBackup(dice: Dice): void {
    this.backup = { platter: this.platter.afterPowerCut(dice), claimed: this.claimed };
  }

  restoreBackup(dice: Dice): void {
    const { backup } = this;
    if (backup === null) return;
    this.platter = backup.platter.afterPowerCut(dice);
    this.claimed = backup.claimed;
    this.promised = 0;
    this.setBack = true;
    this.note('is set back to a backup');
  }
}

/** As the daemon makes it. */
export function acceptorOf(
  secondary: SecondaryVolume,
  parts: Omit<PeerAcceptorOptions, 'judge'>,
): PeerAcceptor {
  const links = new PeerLinks({
    find: () => secondary,
    whyDenied: () => null,
    asksProof: () => false,
  });
  return new PeerAcceptor({ ...parts, judge: (hello, client) => links.judge(hello, client) });
}
