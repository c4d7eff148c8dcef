/**
 * Both sides write, which nobody wanted: the link is lost, the mirror is promoted, and the primary, which lives, goes on. When they
 * hear of each other the old primary stops, and becomes the mirror of the new one. What only it had is kept and whole, both
 * are equal, and little more travels than what either side changed.
 */
import { fill, scatter } from '../block-load.ts';
import type { Drill, Round } from '../frame.ts';
import { pause, until } from '../process.ts';
import { nbdUri } from '../sockets.ts';
import { type Mark, MIB, Stage, VERIFIED, VOLUME } from '../stage.ts';
import { judgeRecovery, judgeResent } from '../targets.ts';
import { sizeText } from '../timeline.ts';
import type { Writer } from '../writer.ts';

const FENCED_MS_MAX = 20_000;
const PROMOTE_MS_MAX = 15_000;
const ON_THE_WAY_MS = 300;
const YOUNG_ROUNDS = 100_000;
/** What clients of the promoted mirror write beside the writer. */
const MORE = { from: VERIFIED.from, to: VERIFIED.from + 4 * MIB };

/** Of a volume whose size was asked for: what changes while the sides are apart, half of it on either, without a block in common. */
const DIVERGENCE = 0.01;
const SCATTER_BYTES = 16 * 1024;

interface Changes {
  readonly bytes: number;
  on(side: 'alpha' | 'beta', stage: Stage): Promise<void>;
}

/** What is written beside the writers. */
function changesOf({ options }: Round): Changes {
  const { sizeBytes } = options;
  if (sizeBytes === null) {
    return {
      bytes: MORE.to - MORE.from,
      on: async (side, { beta }) => {
        if (side === 'beta') await fill(beta.uri(VOLUME), MORE);
      },
    };
  }
  const half = Math.round((DIVERGENCE * sizeBytes) / 2 / SCATTER_BYTES) * SCATTER_BYTES;
  const middle = VERIFIED.from + (sizeBytes - VERIFIED.from) / 2;
  const extents = {
    alpha: { from: VERIFIED.from, to: middle },
    beta: { from: middle, to: sizeBytes },
  };
  return {
    bytes: 2 * half,
    on: async (side, stage) => await scatter(stage[side].uri(VOLUME), extents[side], half),
  };
}

/** Until the mirror, whose link is gone, takes writes. */
async function promote(stage: Stage, cutAt: number): Promise<void> {
  const { round, beta } = stage;
  const wait = { what: 'beta to be promoted', timeoutMs: PROMOTE_MS_MAX, everyMs: 10 };
  await until({ ...wait, signal: round.signal }, async () => {
    const { code, stderr } = await beta.attempt(['promote', VOLUME]);
    if (code === 0) return true;
    throw new Error(stderr.trim());
  });
  judgeRecovery(round, Date.now() - cutAt);
  round.note(`beta promoted ${Date.now() - cutAt} ms after the loss of the link`);
}

/** What only the old primary had is in the snapshot that it kept. */
async function expectKept(stage: Stage, writer: Writer): Promise<void> {
  const { round, alpha } = stage;
  const listed = await alpha.command('snapshot', 'list', VOLUME, '--json');
  const name = /"(diverged-[^"]+)"/.exec(listed)?.[1];
  if (name === undefined) return round.violate('the old primary kept nothing of what it alone had');
  const kept = await stage.state(alpha.uri(`${VOLUME}@${name}`));
  round.note(`${VOLUME}@${name} has ${kept} of the ${writer.writes} writes that alpha answered`);
  round.expect(kept >= writer.writes, 'answered writes are missing in it');
}

/** Beta is promoted while alpha, which cannot know, goes on; both writers run. */
async function part(stage: Stage): Promise<{ old: Writer; young: Writer; mark: Mark }> {
  const { round, alpha, beta, link } = stage;
  const old = stage.write();
  const load = stage.load();
  await old.progress(60, round.signal);
  const mark = stage.mark();
  // What is on its way at the cut was written after the mark.
  await pause(ON_THE_WAY_MS, round.signal);
  link.cut();
  await promote(stage, Date.now());
  // Its content is like nothing that alpha writes meanwhile.
  const young = stage.write(beta, old.next + YOUNG_ROUNDS);
  const changes = changesOf(round);
  await changes.on('alpha', stage);
  await changes.on('beta', stage);
  await young.progress(round.pick(60, 400), round.signal);
  await old.progress(20, round.signal);
  await load.end();
  await old.stop();
  round.note(`both sides took writes: ${old.writes} on alpha, up to ${young.writes} on beta`);
  link.restore();
  const wait = { what: 'alpha to know', timeoutMs: FENCED_MS_MAX, signal: round.signal };
  const why = await until(wait, async () => (await alpha.volume(VOLUME)).fenced);
  round.note(`alpha is fenced: ${why}`);
  return { old, young, mark };
}

/** Alpha becomes the mirror of beta; `old` wrote there last. */
async function unite(
  stage: Stage,
  writers: { old: Writer; young: Writer; mark: Mark },
  force: readonly string[],
): Promise<void> {
  const { round, alpha, beta, back } = stage;
  const { old, young, mark } = writers;
  const before = back.bytesToTarget;
  await alpha.command('failback', VOLUME, 'beta', ...force);
  await beta.command('mirror', 'add', VOLUME, nbdUri(back.address, VOLUME), '--seeded');
  await young.progress(20, round.signal);
  await young.stop();
  const mirror = await stage.settle(beta);
  const changedBytes = stage.changedSince(mark) + changesOf(round).bytes;
  const resentBytes = back.bytesToTarget - before;
  round.note(
    `alpha is the mirror of beta: ${sizeText(changedBytes)} changed on either side, ` +
      `${sizeText(resentBytes)} travelled, ${sizeText(mirror.bytes_compared)} were compared`,
  );
  judgeResent(round, { resentBytes, changedBytes });
  await stage.expectEqual();
  const shown = await stage.state(alpha.uri(VOLUME));
  round.expect(shown >= young.writes, `of ${young.writes} writes of the new primary ${shown} came`);
  await expectKept(stage, old);
}

export const failback: Drill = {
  name: 'failback',
  about:
    'both sides wrote: the old primary becomes the mirror of the new one, and keeps what it had',
  modes: ['async'],
  sized: true,
  async play(round) {
    const { sizeBytes } = round.options;
    const stage = await Stage.inStep(round, sizeBytes === null ? {} : { sizeBytes });
    await unite(stage, await part(stage), []);
  },
};

export const split: Drill = {
  name: 'split',
  about: 'both sides go on for themselves, on purpose, and become one pair again',
  modes: ['async'],
  async play(round) {
    const stage = await Stage.inStep(round);
    const parted = await part(stage);
    await stage.alpha.command('promote', VOLUME, '--force');
    const old = stage.write(stage.alpha, parted.old.next);
    await Promise.all([
      old.progress(round.pick(60, 400), round.signal),
      parted.young.progress(round.pick(60, 400), round.signal),
    ]);
    round.note(`alpha goes on too: ${old.writes} writes there, ${parted.young.writes} on beta`);
    await old.stop();
    await unite(stage, { ...parted, old }, ['--force']);
  },
};
