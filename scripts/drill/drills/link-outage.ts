/**
 * The link to the mirror is lost in five ways: for a moment, for longer than writes are kept in memory, again and again, in one
 * direction only, and by becoming slow. The host goes on, the mirror shows a state that the volume had, both are equal again
 * without a command, and little more travels than it must: each write, in order, where the mirror was not given up and what was kept in memory
 * goes on; each changed block once, where it came to a delta run.
 */
import type { Drill, Round } from '../frame.ts';
import { KernelVolume } from '../kernel-volume.ts';
import type { SeenMirror } from '../node.ts';
import { pause } from '../process.ts';
import { MIB, Stage, VOLUME } from '../stage.ts';
import { writeConfig } from '../steps.ts';
import { judgeResent, judgeStall } from '../targets.ts';
import { sizeText } from '../timeline.ts';
import type { Writer } from '../writer.ts';

const CALM_MS = 700;
/** A mirror counts as silent after ten seconds without an answer (src/io/limits.ts). */
const GRACE_SECONDS = { short: 1, long: 10 };
const SLOW_BYTES = 4 * MIB;
const SLOW_DELAY_MS = 30;

interface Outage {
  readonly name: string;
  begin(stage: Stage): Promise<void>;
}

function outages(round: Round): readonly Outage[] {
  const graceMs = 1000 * round.pick(GRACE_SECONDS.short, GRACE_SECONDS.long);
  const stay = async (ms: number): Promise<void> => await pause(ms, round.signal);
  return [
    {
      name: 'short',
      async begin({ link }) {
        link.cut();
        await stay(graceMs / 3);
      },
    },
    {
      name: 'long',
      async begin({ link }) {
        link.cut();
        await stay(1.5 * graceMs + 500);
      },
    },
    {
      name: 'flapping',
      async begin({ link }) {
        for (let flap = round.pick(4, 20); flap > 0; flap--) {
          link.cut();
          await round.pauseBetween(20, 200);
          link.restore();
          await round.pauseBetween(20, 300);
        }
        link.cut();
      },
    },
    {
      name: 'one-way',
      async begin({ link }) {
        link.deafen(round.random.below(2) === 0 ? 'to-target' : 'to-client');
        await stay(round.pick(1000, 8000));
      },
    },
    {
      name: 'slow',
      async begin({ link }) {
        link.throttle(SLOW_BYTES);
        link.delay(SLOW_DELAY_MS);
        await stay(round.pick(1000, 6000));
      },
    },
  ];
}

/** What of the load is on its way at any moment, and may have to travel again. */
const ON_THE_WAY_BYTES = 4 * MIB;
/** What the kernel's load gets done while the link is lost. */
const KERNEL_LINES = 5;

/** The stream goes on, and what was kept meanwhile has travelled, but for what the writer adds. */
function caughtUp({ state, staged_bytes: staged }: SeenMirror): boolean {
  return state === 'streaming' && staged < MIB;
}

interface Users {
  readonly writer: Writer;
  /** A Linux kernel with a volume of its own, over the same link. */
  readonly kernel: KernelVolume | null;
}

async function oneOutage(stage: Stage, { writer, kernel }: Users, outage: Outage): Promise<void> {
  const { round, link } = stage;
  const load = stage.load();
  await writer.progress(50, round.signal);
  const calmFrom = Date.now();
  await pause(CALM_MS, round.signal);
  round.atLeast('calmStallMs', writer.longestWaitMs(calmFrom));
  const calmKernelMs = kernel?.host.longestWaitMs(calmFrom) ?? 0;
  const { staged_bytes: staged, delta_bytes_sent: sentBefore } = await stage.alpha.mirror(VOLUME);
  const mark = stage.mark();
  const before = link.bytesToTarget;
  const kernelMark = kernel?.mark() ?? 0;
  const kernelSentBefore = (await kernel?.deltaBytes()) ?? 0;
  await outage.begin(stage);
  await writer.progress(round.pick(10, 50), round.signal);
  await kernel?.host.progress(KERNEL_LINES);
  const { state } = await stage.alpha.mirror(VOLUME);
  await load.end();
  const stallMs = writer.longestWaitMs(mark.atMs);
  judgeStall(round, stallMs);
  kernel?.judgeStall(mark.atMs, calmKernelMs);
  link.restore();
  link.throttle(null);
  link.delay(0);
  const restoredAt = Date.now();
  const back = await stage.waitMirror('the stream to go on', caughtUp, 60_000);
  const backMs = Date.now() - restoredAt;
  await kernel?.waitStream();
  // Each volume has a mirror of its own: one may go on with what it kept while the other needs a delta run.
  const once = back.delta_bytes_sent > sentBefore;
  const ofWriters = once ? stage.changedSince(mark) : stage.writtenSince(mark);
  const kernelOnce = ((await kernel?.deltaBytes()) ?? 0) > kernelSentBefore;
  const ofKernel = kernelOnce ? kernel?.changedSince(kernelMark) : kernel?.writtenSince(kernelMark);
  const changedBytes = ofWriters + (ofKernel ?? 0);
  const resentBytes = link.bytesToTarget - before;
  round.note(
    `${outage.name}: alpha reported ${state}, the host waited ${Math.round(stallMs)} ms at most; ` +
      `back in ${backMs} ms; ${sizeText(changedBytes)} ${once ? 'changed' : 'written'}, ${sizeText(resentBytes)} travelled`,
  );
  const knownBytes = staged + ON_THE_WAY_BYTES;
  judgeResent(round, { resentBytes, changedBytes: Math.max(changedBytes, 1), knownBytes });
}

export const linkOutage: Drill = {
  name: 'link-outage',
  about: 'the link is lost: short, long, flapping, one-way, slow',
  modes: ['async', 'sync'],
  clients: ['nbd', 'kernel'],
  async play(round) {
    const grace = round.pick(GRACE_SECONDS.short, GRACE_SECONDS.long);
    const config = writeConfig(round, 'alpha', `[replication]\ngrace_seconds = ${grace}\n`);
    const lanes = 1 + round.random.below(4);
    const stage = await Stage.inStep(round, { lanes, alpha: { serveOptions: config } });
    const kernel = round.client === 'kernel' ? await KernelVolume.attach(stage) : null;
    const writer = stage.write();
    for (const outage of outages(round)) await oneOutage(stage, { writer, kernel }, outage);
    await kernel?.finish();
    const { verified, link, alpha } = stage;
    const writing = verified.write(alpha.uri(VOLUME), 16 * MIB);
    link.cut();
    await round.pauseBetween(200, 800);
    const shown = await stage.state(stage.beta.uri(VOLUME));
    round.note(`while the link is cut beta shows the state after ${shown} writes`);
    link.restore();
    await writing;
    await writer.stop();
    await stage.settle();
    await stage.expectEqual();
    await stage.verify(stage.beta.uri(VOLUME));
    round.expect(
      (await stage.state(stage.beta.uri(VOLUME))) >= writer.writes,
      'writes are missing',
    );
  },
};
