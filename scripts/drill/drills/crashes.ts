/**
 * Nodes die without notice under load and come back: the mirror, the primary, both. Whatever is killed when, the mirror shows a
 * state that the volume had, and never an older one than before; both are equal again without a command.
 */
import { type BlockLoad, fill } from '../block-load.ts';
import type { Drill, Round } from '../frame.ts';
import { pause } from '../process.ts';
import { BETWEEN, MIB, SIZE, Stage, VOLUME } from '../stage.ts';
import { convergeAfter } from '../steps.ts';
import { judgeLoss, judgeStall } from '../targets.ts';
import { sizeText } from '../timeline.ts';
import type { Writer } from '../writer.ts';

const SLOW_BYTES = 24 * MIB;
/** Regions that may be compared: those of the writer and the load, and those ahead of one that walks on. */
const ACTIVE_BYTES_MAX = (32 + 12 + 32) * MIB;
const SIZE_BYTES = 128 * MIB;
/** What can differ after a crash of the primary: epochs on their way, and requests in flight. */
const DIFFERING_BYTES_MAX = 8 * MIB;
/** Longer than a region stays active without writes (src/io/limits.ts). */
const COOL_MS = 7_000;

async function killMirror(stage: Stage, writer: Writer, shownBefore: number): Promise<number> {
  const { round, link, beta } = stage;
  await round.pauseBetween(100, 900);
  const { state, position } = await stage.alpha.mirror(VOLUME);
  const killedAt = Date.now();
  await beta.kill();
  link.cut();
  await writer.progress(20, round.signal);
  judgeStall(round, writer.longestWaitMs(killedAt));
  await beta.start(round.signal);
  const shown = await stage.state(beta.uri(VOLUME));
  const { durable_epoch: durable } = await stage.source();
  round.note(`beta killed while ${state}; it shows the state after ${shown} writes`);
  round.expect(shown >= shownBefore, `it showed ${shownBefore} writes before, now ${shown}`);
  round.expect(durable >= (position?.epoch ?? 0), 'it forgot epochs that it had acknowledged');
  link.throttle(round.random.below(2) === 0 ? SLOW_BYTES : null);
  link.restore();
  return shown;
}

export const mirrorCrash: Drill = {
  name: 'mirror-crash',
  about: 'the mirror is killed again and again, in the stream and in delta runs',
  modes: ['async', 'sync'],
  async play(round) {
    const stage = await Stage.create(round, { lanes: 4 });
    await fill(stage.alpha.uri(VOLUME), { from: 0, to: SIZE });
    const writer = stage.write();
    const load = stage.load(BETWEEN);
    await writer.progress(100, round.signal);
    stage.link.throttle(SLOW_BYTES);
    await stage.addMirror();
    round.note('alpha begins to copy the volume to beta');
    round.figures.calmStallMs = writer.longestWaitMs(0);
    let shown = -1;
    for (let kill = round.pick(3, 10); kill > 0; kill--) {
      shown = await killMirror(stage, writer, shown);
      if (kill % 2 === 1) {
        // A busy machine may be slower than the load over a slow link, and the stream then never comes.
        stage.link.throttle(null);
        await stage.waitMirror('the stream', ({ state }) => state === 'streaming', 60_000);
      }
    }
    stage.link.throttle(null);
    await load.end();
    await writer.stop();
    await convergeAfter(stage, writer);
  },
};

/** What the mirror has of what the dead primary answered. */
async function whatIsLeft(
  stage: Stage,
  writer: Writer,
  told: { lagMs: number; killedAt: number },
): Promise<void> {
  const { round, beta } = stage;
  const shown = await stage.state(beta.uri(VOLUME));
  const { writes, spanMs } = writer.lost(shown, told.killedAt);
  round.note(
    `the mirror shows the state after ${shown} of ${writer.writes} answered writes; ` +
      `status had told of a lag of ${Math.round(told.lagMs)} ms`,
  );
  judgeLoss(round, { writes, spanMs, toldLagMs: told.lagMs });
}

/** Kills under load, and returns what the status said before. */
async function killUnderLoad(
  stage: Stage,
  writer: Writer,
  load: BlockLoad,
  victims: readonly ('alpha' | 'beta')[],
): Promise<{ lagMs: number; killedAt: number }> {
  const { round } = stage;
  await round.pauseBetween(300, 1500);
  await stage.waitMirror('the stream', ({ state }) => state === 'streaming', 60_000);
  const toldAt = Date.now();
  const { lag_seconds: lag } = await stage.alpha.mirror(VOLUME);
  const killedAt = Date.now();
  await Promise.all(victims.map(async (name) => await stage[name].kill()));
  round.note(`${victims.join(' and ')} killed (SIGKILL) under load`);
  await writer.ended();
  await load.kill();
  stage.link.cut();
  return { lagMs: 1000 * lag + Date.now() - toldAt, killedAt };
}

async function primaryDies(stage: Stage, victims: readonly ('alpha' | 'beta')[]): Promise<void> {
  const { round, alpha, beta, link } = stage;
  const writer = stage.write();
  const load = stage.load();
  await writer.progress(50, round.signal);
  const told = await killUnderLoad(stage, writer, load, victims);
  if (victims.includes('beta')) await beta.start(round.signal);
  await stage.quiet();
  await whatIsLeft(stage, writer, told);
  link.restore();
  await alpha.start(round.signal);
  const mirror = await stage.settle();
  await stage.expectEqual();
  const { bytes_compared: compared, delta_bytes_sent: sent } = mirror;
  round.note(`in step again: ${sizeText(compared)} compared, ${sizeText(sent)} sent`);
  round.expect(compared <= ACTIVE_BYTES_MAX, `${sizeText(compared)} were compared`);
  round.expect(sent <= DIFFERING_BYTES_MAX, `${sizeText(sent)} were sent`);
  const shown = await stage.state(alpha.uri(VOLUME));
  round.expect(shown >= writer.writes, `of ${writer.writes} answered writes ${shown} are left`);
}

async function crashes(round: Round, victims: readonly ('alpha' | 'beta')[]): Promise<void> {
  const stage = await Stage.inStep(round, { lanes: victims.length, sizeBytes: SIZE_BYTES });
  // So that a comparison of everything would be seen.
  await pause(COOL_MS, round.signal);
  for (let crash = round.pick(1, 5); crash > 0; crash--) await primaryDies(stage, victims);
}

export const primaryCrash: Drill = {
  name: 'primary-crash',
  about: 'the primary is killed under load and comes back',
  modes: ['async', 'sync'],
  play: async (round) => await crashes(round, ['alpha']),
};

export const bothCrash: Drill = {
  name: 'both-crash',
  about: 'both nodes are killed under load at one time and come back',
  modes: ['async', 'sync'],
  play: async (round) => await crashes(round, ['alpha', 'beta']),
};
