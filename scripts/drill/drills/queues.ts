/**
 * The link is far too slow for the host. Either the queue of the mirror overflows, or it fills with old content of blocks that were
 * written again: both times the host goes on at its own speed, the mirror keeps its state, and one delta run brings it back.
 */
import { fill } from '../block-load.ts';
import type { Drill, Round } from '../frame.ts';
import { MIB, Stage, VOLUME } from '../stage.ts';
import { waitEvent, writeConfig } from '../steps.ts';
import { judgeResent, judgeStall } from '../targets.ts';
import { sizeText } from '../timeline.ts';
import { run } from '../process.ts';

const SLOW_BYTES = 2 * MIB;
/** What a link may have on its way (docs/internals/ferry.md): it was sent, and may have to be sent again. */
const ON_THE_WAY_BYTES = 64 * MIB;
const OVERFLOW = { staging: '64M', from: 32 * MIB, to: 160 * MIB, size: 256 * MIB };
const REDUNDANT = { staging: '1G', area: 4 * MIB, written: 160 * MIB };

interface Flood {
  readonly staging: string;
  readonly sizeBytes: number;
  /** Why the mirror leaves the stream. */
  readonly why: RegExp;
  pour(uri: string): Promise<void>;
}

async function flooded(round: Round, flood: Flood): Promise<void> {
  const config = writeConfig(
    round,
    'alpha',
    `[replication]\nstaging_memory = "${flood.staging}"\n`,
  );
  const alpha = { serveOptions: config };
  const stage = await Stage.inStep(round, { alpha, lanes: 2, sizeBytes: flood.sizeBytes });
  const writer = stage.write();
  await writer.progress(100, round.signal);
  round.figures.calmStallMs = writer.longestWaitMs(0);
  const mark = stage.mark();
  stage.link.throttle(SLOW_BYTES);
  const before = stage.link.bytesToTarget;
  const kept = stage.recorder.counters.writtenBytes;
  const uri = `nbd+unix:///${VOLUME}?socket=${stage.recorder.address.slice('unix:'.length)}`;
  await flood.pour(uri);
  const written = stage.recorder.counters.writtenBytes - kept;
  const wanted = { kind: 'mirror-delta', message: flood.why };
  const why = await waitEvent(round, stage.alpha, wanted);
  const { dirty_bytes: dirty } = await stage.alpha.mirror(VOLUME);
  round.note(`${sizeText(written)} written; ${why}; ${sizeText(dirty)} to catch up`);
  await writer.progress(50, round.signal);
  judgeStall(round, writer.longestWaitMs(mark.atMs));
  const travelled = stage.link.bytesToTarget - before;
  stage.link.throttle(null);
  await stage.waitMirror('the stream to go on', ({ state }) => state === 'streaming', 60_000);
  await writer.stop();
  await stage.settle();
  const changedBytes = stage.changedSince(mark);
  const resentBytes = stage.link.bytesToTarget - before;
  round.note(`back: ${sizeText(changedBytes)} changed, ${sizeText(resentBytes)} travelled`);
  const knownBytes = Math.min(written, travelled + ON_THE_WAY_BYTES);
  judgeResent(round, { resentBytes, changedBytes, knownBytes });
  await stage.expectEqual();
  round.expect((await stage.state(stage.beta.uri(VOLUME))) >= writer.writes, 'writes are missing');
}

export const queueOverflow: Drill = {
  name: 'queue-overflow',
  about: 'the host writes more than the queue of a slow mirror holds',
  modes: ['async'],
  play: async (round) =>
    await flooded(round, {
      staging: OVERFLOW.staging,
      sizeBytes: OVERFLOW.size,
      why: /staging queue/,
      pour: async (uri) => await fill(uri, OVERFLOW),
    }),
};

export const redundancy: Drill = {
  name: 'redundancy',
  about: 'the host writes the same blocks again and again, faster than they travel',
  modes: ['async'],
  play: async (round) =>
    await flooded(round, {
      staging: REDUNDANT.staging,
      sizeBytes: OVERFLOW.size,
      why: /a delta run sends less/,
      async pour(uri) {
        const words =
          '--name=again --ioengine=nbd --thread --rw=randwrite --bs=16k --iodepth=8 --refill_buffers';
        const where = [
          '--randrepeat=0',
          '--norandommap',
          '--offset=32m',
          '--fsync=32',
          `--size=${REDUNDANT.area}`,
          `--io_size=${REDUNDANT.written}`,
        ];
        await run('fio', [...words.split(' '), ...where, `--uri=${uri}`]);
      },
    }),
};
