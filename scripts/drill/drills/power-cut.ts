/**
 * The power goes under load: of the mirror, of the primary, of both at one moment. The data directory is on a disk that really
 * loses what was not flushed (nbd-disk.ts), and the node that comes back sees another boot of the system, as after a real one.
 *
 * What was flushed before is there. The mirror shows a state that the volume had, and in sync mode all that a FLUSH was answered
 * after. Both are equal again without a command.
 */
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Drill, Round } from '../frame.ts';
import type { DrilledNode } from '../node.ts';
import { NbdDisk } from '../nbd-disk.ts';
import { MIB, Stage, VOLUME } from '../stage.ts';
import { sizeText } from '../timeline.ts';
import type { Writer } from '../writer.ts';

const DISK_BYTES = 768 * MIB;
const BOOT_ID = '/proc/sys/kernel/random/boot_id';
const VICTIMS = ['beta', 'alpha', 'both'] as const;
type Victim = (typeof VICTIMS)[number];

async function volatileDisk(round: Round, name: string): Promise<NbdDisk> {
  const disk = await NbdDisk.create(round, name, {
    sizeBytes: DISK_BYTES,
    filters: ['cache'],
    settings: ['cache=writeback'],
  });
  await disk.makeFilesystem();
  await disk.mount();
  return disk;
}

/** The next process of the node sees an id of its own for the boot of the system. */
function reboot(round: Round, node: DrilledNode): void {
  const file = join(round.directory, `${node.name}.boot-id`);
  writeFileSync(file, `${randomUUID()}\n`);
  const script = `mount --bind ${file} ${BOOT_ID} && exec "$@"`;
  node.wrapper = ['unshare', '--mount', 'sh', '-c', script, 'sh'];
}

class PowerCut {
  private readonly stage: Stage;
  private readonly disks: { readonly alpha: NbdDisk; readonly beta: NbdDisk };

  constructor(stage: Stage, disks: { readonly alpha: NbdDisk; readonly beta: NbdDisk }) {
    this.stage = stage;
    this.disks = disks;
  }

  async play(victim: Victim): Promise<void> {
    const { stage } = this;
    const { round } = stage;
    const writer = stage.write();
    const load = stage.load();
    await writer.progress(80, round.signal);
    await round.pauseBetween(200, 1200);
    if (victim !== 'beta') await stage.waitMirror('the stream', inStream, 60_000);
    const names = victim === 'both' ? (['alpha', 'beta'] as const) : ([victim] as const);
    for (const name of names) await this.disks[name].writeUnsynced();
    const cutAt = Date.now();
    for (const name of names) this.disks[name].cutPower();
    await Promise.all(names.map(async (name) => await stage[name].kill()));
    const flushed = flushedBefore(writer, cutAt);
    round.note(`no power: ${names.join(' and ')}; the host knew of ${flushed} flushed writes`);
    if (victim === 'beta') {
      await writer.progress(40, round.signal);
      await load.end();
    } else {
      await writer.ended();
      await load.kill();
    }
    stage.link.cut();
    for (const name of names) await this.powerOn(name);
    await this.judge(victim, writer, flushed);
    stage.link.restore();
    if (victim !== 'beta') await stage.alpha.start(round.signal);
    await writer.stop();
    const mirror = await stage.settle();
    round.note(`in step again, no command given: ${sizeText(mirror.bytes_compared)} compared`);
    await stage.expectEqual();
    const shown = await stage.state(stage.alpha.uri(VOLUME));
    round.expect(shown >= flushed, `${flushed} writes were flushed, ${shown} are left`);
  }

  private async powerOn(name: 'alpha' | 'beta'): Promise<void> {
    const { stage } = this;
    const disk = this.disks[name];
    await disk.detach();
    await disk.attach();
    await disk.mount();
    await disk.expectUnsyncedLost();
    reboot(stage.round, stage[name]);
    if (name === 'beta') await stage.beta.start(stage.round.signal);
  }

  /** What the mirror is worth right now, as if the primary never came back. */
  private async judge(victim: Victim, writer: Writer, flushed: number): Promise<void> {
    const { round, beta } = this.stage;
    await this.stage.quiet();
    const shown = await this.stage.state(beta.uri(VOLUME));
    round.note(`the mirror shows the state after ${shown} of ${writer.writes} answered writes`);
    if (victim === 'beta') return;
    const { writes } = writer.lost(shown, Date.now());
    round.atLeast('lostWrites', Math.max(0, Math.min(writes, flushed - shown)));
    if (round.mode === 'sync') {
      round.expect(
        shown >= flushed,
        `sync: ${flushed} writes were flushed, the mirror has ${shown}`,
      );
    }
  }
}

/** Writes whose FLUSH was answered before a moment. */
function flushedBefore(writer: Writer, atMs: number): number {
  const last = writer.answers().findLast(({ flush, endMs }) => flush && endMs < atMs);
  return (last?.number ?? 0) * writer.area.blocks;
}

function inStream({ state }: { state: string }): boolean {
  return state === 'streaming';
}

export const powerCut: Drill = {
  name: 'power-cut',
  about: 'the power goes, and with it all that was not flushed: of the mirror, the primary, both',
  modes: ['async', 'sync'],
  async play(round) {
    const disks = {
      alpha: await volatileDisk(round, 'disk-alpha'),
      beta: await volatileDisk(round, 'disk-beta'),
    };
    const stage = await Stage.inStep(round, {
      alpha: { dataDirectory: join(disks.alpha.mountPoint, 'data') },
      beta: { dataDirectory: join(disks.beta.mountPoint, 'data') },
    });
    const drill = new PowerCut(stage, disks);
    const rounds = round.pick(1, 4);
    for (let done = 0; done < rounds; done++) {
      const victims = round.options.short ? [VICTIMS[round.random.below(3)] ?? 'both'] : VICTIMS;
      for (const victim of victims) await drill.play(victim);
    }
  },
};
