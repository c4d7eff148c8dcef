/**
 * A node in whatever role its volume has by its log: what the daemon puts together, with its own commands for promotion and
 * failback. Histories use it from the moment at which roles change.
 */
import { CommandRoom } from '../../../src/control/commands/command-room.ts';
import { FailoverCommands } from '../../../src/control/commands/failover.ts';
import { PeerLinks } from '../../../src/control/exports/peer-links.ts';
import { NbdServer } from '../../../src/nbd/server/server.ts';
import type { HostedVolume } from '../../../src/replicator/hosted-volume.ts';
import { SecondaryVolume } from '../../../src/replicator/intake/secondary.ts';
import { PeerAcceptor } from '../../../src/replicator/link/accept-peer.ts';
import { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import type { SpaceStatus } from '../../../src/control/status.ts';
import { VolumeCommands } from '../../../src/control/commands/volumes.ts';
import { takeBytes } from '../arena.ts';
import { wrongUnless } from '../failure.ts';
import type { Staging } from './primary-node.ts';
import { Lines } from './lines.ts';
import type { Begun, Node } from './node.ts';
import { simExaminer } from './requests.ts';

/** Nobody asks. */
const SPACE: SpaceStatus = { free_bytes: 0, total_bytes: 0 } as unknown as SpaceStatus;

export class Site {
  readonly node: Node;
  readonly volumeName: string;
  private readonly staging: Staging;
  private room: CommandRoom | null = null;
  private commands: FailoverCommands | null = null;
  private begun: Begun | null = null;

  constructor(node: Node, volumeName: string, staging: Staging) {
    this.node = node;
    this.volumeName = volumeName;
    this.staging = staging;
  }

  /** Null while its process is down. */
  get device(): HostedVolume | null {
    return this.node.running ? (this.room?.devices.get(this.volumeName) ?? null) : null;
  }

  get primary(): ReplicatedVolume | null {
    const { device } = this;
    return device instanceof ReplicatedVolume ? device : null;
  }

  get secondary(): SecondaryVolume | null {
    const { device } = this;
    return device instanceof SecondaryVolume ? device : null;
  }

  get failover(): FailoverCommands | null {
    return this.node.running ? this.commands : null;
  }

  /** Takes over a device that runs. Null: it is made by what the log says. */
  async adopt(begun: Begun, device: HostedVolume | null): Promise<void> {
    this.begun = begun;
    const room = new CommandRoom({ emit: ({ kind, message }) => this.tell(kind, message) });
    this.room = room;
    let adopted = device;
    const commands = new VolumeCommands({
      node: this.node.name,
      store: this.node.store!,
      room,
      host: (volume) => {
        const made = adopted ?? this.deviceOf(volume);
        adopted = null;
        return made;
      },
      space: () => SPACE,
    });
    this.commands = new FailoverCommands({
      room,
      clock: begun.process,
      commands,
      isOurs: () => false,
      insecure: true,
      address: null,
    });
    if (device === null) room.require(this.volumeName).start();
    await this.listen(begun);
  }

  private tell(kind: string, message: string): void {
    this.node.note(`${kind}: ${message}`);
  }

  private deviceOf(volume: Volume): HostedVolume {
    const { process, disk, random } = this.begun!;
    const { lines, journalFileBytes, compressor } = this.node.surroundings;
    const { stagingBytes, pushBytes, graceMs, ringBytes } = this.staging;
    const parts = {
      node: this.node.name,
      volume,
      clock: process,
      random,
      examiner: simExaminer,
      events: {
        emit: (event: { kind: string; message: string }) => this.tell(event.kind, event.message),
      },
    };
    return volume.metadata.state.source === null
      ? new ReplicatedVolume({
          ...parts,
          disk,
          network: lines.of(this.node.name, process),
          ...(compressor === null ? {} : { compressor }),
          stagingBytes,
          pushBytes,
          graceMs,
          stagingDisk: { disk, sizeBytes: ringBytes },
        })
      : new SecondaryVolume({ ...parts, disk, journalFileBytes });
  }

  private async listen({ process, random }: Begun): Promise<void> {
    const { lines, compressor } = this.node.surroundings;
    const room = this.room!;
    const links = new PeerLinks({
      find: (volume) => room.linkTarget(volume, this.node.name),
      whyDenied: () => null,
      asksProof: () => false,
    });
    const acceptor = new PeerAcceptor({
      clock: process,
      random,
      compressor,
      judge: (hello, client) => links.judge(hello, client),
    });
    const server = new NbdServer({
      network: lines.of(this.node.name, process),
      clock: process,
      exports: { find: () => ({ kind: 'unknown' }), list: () => [] },
      log: { info: () => {}, warn: () => {} },
      privateOption: acceptor.option,
    });
    lines.vacate(this.node.name);
    await server.listen(Lines.address(this.node.name));
  }
}

export function contentOf({ volume }: ReplicatedVolume): Buffer {
  const bytes = takeBytes(volume.sizeBytes);
  const status = volume.readNow(bytes, 0, bytes.length, 0);
  wrongUnless(status === 0, `a volume cannot be read: ${status}`);
  return bytes;
}
