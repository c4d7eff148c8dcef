/**
 * Disks that are in the way: full ones on either side, slow ones on either side. The host hears the truth, no answered write is
 * lost, and when the disk is well again everything goes on without a command.
 */
import { join } from 'node:path';
import { fill } from '../block-load.ts';
import type { Drill, Round } from '../frame.ts';
import { NbdDisk } from '../nbd-disk.ts';
import { until } from '../process.ts';
import { AREA, BUSY, MIB, SIZE, Stage, VOLUME } from '../stage.ts';
import { convergeAfter, SmallDisk } from '../steps.ts';
import { judgeStall } from '../targets.ts';

const DISK_BYTES = 512 * MIB;
const TOLD_MS_MAX = 20_000;
const LEFT_BYTES = 12 * MIB;
const DELAY_MS = 40;
const SLOW_ANSWERS = 40;

async function fullMirror(round: Round): Promise<void> {
  const disk = await SmallDisk.mount(round, 'disk-beta', DISK_BYTES);
  const beta = { dataDirectory: join(disk.path, 'data') };
  const stage = await Stage.inStep(round, { beta });
  await disk.leave(LEFT_BYTES);
  const writer = stage.write();
  await writer.progress(20, round.signal);
  round.figures.calmStallMs = writer.longestWaitMs(0);
  const fullAt = Date.now();
  await fill(stage.alpha.uri(VOLUME), { from: BUSY.from + 31 * MIB, to: SIZE });
  await fill(stage.alpha.uri(VOLUME), { from: BUSY.to, to: SIZE });
  const told = await stage.waitMirror('alpha to tell of the full disk', ({ last_error }) =>
    /full|space/.test(last_error ?? ''),
  );
  round.note(`the disk of beta is full; alpha is ${told.state} and says: ${told.last_error ?? ''}`);
  await until(
    { what: 'beta to tell of it', timeoutMs: TOLD_MS_MAX, signal: round.signal },
    async () => {
      const { state, last_error: says } = await stage.source();
      return /full|space/.test(says ?? '') && (state === 'failed' || state === 'waiting');
    },
  );
  await writer.progress(50, round.signal);
  stage.link.cut();
  const shown = await stage.state(stage.beta.uri(VOLUME));
  round.note(`the host goes on; beta shows the state after ${shown} writes`);
  judgeStall(round, writer.longestWaitMs(fullAt));
  stage.link.restore();
  disk.clear();
  await stage.waitMirror('the stream to go on', ({ state }) => state === 'streaming', 60_000);
  round.note('there is space again: streaming, no command given');
  await writer.stop();
  await convergeAfter(stage, writer);
}

async function fullPrimary(round: Round): Promise<void> {
  const disk = await SmallDisk.mount(round, 'disk-alpha', DISK_BYTES);
  const alpha = { dataDirectory: join(disk.path, 'data') };
  const stage = await Stage.create(round, { alpha });
  await stage.addMirror();
  const writer = stage.write();
  await writer.progress(40, round.signal);
  await disk.leave(LEFT_BYTES);
  const error = await fill(stage.alpha.uri(VOLUME), { from: BUSY.to, to: SIZE }).then(
    () => 'none',
    (thrown: unknown) => String(thrown),
  );
  const honest = /no space left|ENOSPC|error=28/i.test(error);
  round.expect(honest, `the host was not told that the disk is full: ${error.slice(-300)}`);
  round.note('the disk of alpha is full, and the host is told ENOSPC');
  await writer.stop();
  await stage.settle();
  const shown = await stage.state(stage.alpha.uri(VOLUME));
  round.expect(shown >= writer.writes, `of ${writer.writes} answered writes ${shown} are left`);
  await stage.expectEqual();
  disk.clear();
  await fill(stage.alpha.uri(VOLUME), { from: BUSY.to, to: SIZE });
  round.note('there is space again, and the host can write');
  await stage.settle();
  await stage.expectEqual();
}

export const fullDiskMirror: Drill = {
  name: 'full-disk-mirror',
  about: 'the disk of the mirror is full',
  modes: ['async', 'sync'],
  play: fullMirror,
};

export const fullDiskPrimary: Drill = {
  name: 'full-disk-primary',
  about: 'the disk of the primary is full',
  modes: ['async'],
  play: fullPrimary,
};

/** The volume of the primary lies on a device that takes its time for every request. */
async function slowDisk(round: Round): Promise<void> {
  const disk = await NbdDisk.create(round, 'slow', {
    sizeBytes: SIZE,
    filters: ['delay'],
    settings: [`wdelay=${DELAY_MS}ms`],
  });
  const { signal } = round;
  const stage = await Stage.create(round, { createOptions: ['--on', disk.device] });
  await stage.addMirror();
  await stage.waitMirror('the stream', ({ state }) => state === 'streaming', 60_000);
  round.note(`every write to the disk of alpha takes ${DELAY_MS} ms`);
  const writer = stage.write();
  await writer.progress(SLOW_ANSWERS, signal);
  round.figures.calmStallMs = writer.longestWaitMs(0);
  const cutAt = Date.now();
  stage.link.cut();
  await writer.progress(SLOW_ANSWERS, signal);
  judgeStall(round, writer.longestWaitMs(cutAt), AREA.blocks * DELAY_MS);
  stage.link.restore();
  await writer.progress(SLOW_ANSWERS, signal);
  await writer.stop();
  await convergeAfter(stage, writer);
}

export const slow: Drill = {
  name: 'slow-disk',
  about: 'the disk of the primary is slow (nbdkit with a delay), and the link is lost',
  modes: ['async', 'sync'],
  play: slowDisk,
};
