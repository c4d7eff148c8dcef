/**
 * Everything at once, for some ten seconds: requests of every kind, two mirrors (one of them synchronous), links
 * that are cut, mirrors that lose power, stall, fill up and fail, pauses, resyncs, resizes, kills and orderly
 * restarts of the primary. At the end both mirrors and the volume hold what the host wrote. A seed decides what
 * is done (not when the sockets are ready): BLOCKFERRY_SEED sets it.
 */
import { expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { seeded, stamped } from './support/host.ts';
import type { MirrorServer } from './support/mirror-server.ts';
import { MIB, Rig } from './support/rig.ts';

const SOAK_MS = 10_000;
const LARGEST = 96 * MIB;
const seed = Number(process.env['BLOCKFERRY_SEED'] ?? 20_241);

interface Range {
  readonly offset: number;
  readonly length: number;
}

interface Soak {
  rig: Rig;
  /** Ranges that requests without an answer change. The order of two that overlap would be open. */
  readonly changing: Set<Range>;
  readonly mirrors: readonly MirrorServer[];
  readonly random: () => number;
  readonly under: Set<Promise<unknown>>;
  stamp: number;
}

const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

function request({ rig, random, changing }: Soak, stamp: number): Promise<void> {
  const whole = random() < 0.6;
  const unit = whole ? 4096 : 1;
  const length = Math.ceil((1 + random() ** 4 * 400_000) / unit) * unit;
  const offset = Math.floor((random() * (rig.device.sizeBytes - length)) / unit) * unit;
  const dice = random();
  const overlaps = [...changing].some(
    (other) => offset < other.offset + other.length && other.offset < offset + length,
  );
  if (dice < 0.1 || overlaps) return rig.flush();
  const range = { offset, length };
  changing.add(range);
  const answered =
    dice < 0.2
      ? rig.zero(offset, length, { noHole: dice < 0.15 })
      : rig.write(offset, stamped(length, stamp), { fua: dice > 0.97 });
  return answered.finally(() => changing.delete(range));
}

async function quiet(soak: Soak): Promise<void> {
  while (soak.under.size > 0) await Promise.all(soak.under);
}

/** Something that happens to a mirror. */
async function trouble(soak: Soak, mirror: MirrorServer): Promise<void> {
  const { rig, random } = soak;
  const kinds = ['cut', 'power', 'away', 'stall', 'errors', 'pause', 'resync'] as const;
  const kind = kinds[Math.floor(random() * kinds.length)];
  if (kind === 'cut') mirror.cut();
  if (kind === 'power') {
    mirror.powerCut(() => random() < 0.5);
    mirror.device.shuffleAnswers(random);
  }
  if (kind === 'away') {
    mirror.leave();
    await pause(random() * 300);
    mirror.comeBack();
  }
  if (kind === 'stall') {
    mirror.device.stall();
    await pause(random() * 300);
    mirror.device.resume();
  }
  if (kind === 'errors') {
    mirror.device.fault = () => (random() < 0.3 ? (random() < 0.5 ? 28 : 5) : 0);
    await pause(random() * 300);
    mirror.device.fault = null;
  }
  if (kind === 'pause') {
    await rig.device.pauseMirror(mirror.uri);
    await pause(random() * 100);
    await rig.device.resumeMirror(mirror.uri);
  }
  if (kind === 'resync') await rig.device.resyncMirror(mirror.uri);
}

/** Something that happens to the primary, when no request is under way. */
async function upheaval(soak: Soak): Promise<void> {
  await quiet(soak);
  const { rig, random } = soak;
  const dice = random();
  if (dice < 0.4) soak.rig = rig.killAndRestart();
  else if (dice < 0.6) soak.rig = await rig.restart();
  else if (rig.device.sizeBytes < LARGEST) {
    // Refused while a mirror cannot be asked.
    await rig.device.resize(rig.device.sizeBytes + 4 * MIB).catch(() => {});
  }
}

it(`soaks (seed ${seed})`, async () => {
  const scope = testScope();
  const random = seeded(seed);
  const rig = await Rig.create(scope, { sizeBytes: 32 * MIB, stagingBytes: 8 * MIB });
  const mirrors = [await rig.mirror(LARGEST), await rig.mirror(LARGEST)] as const;
  const soak: Soak = { rig, mirrors, random, under: new Set(), changing: new Set(), stamp: 0 };
  for (const mirror of mirrors) mirror.device.shuffleAnswers(random);
  await rig.addMirror(mirrors[0]);
  await rig.addMirror(mirrors[1], { mode: 'sync' });
  const end = performance.now() + SOAK_MS;
  let troubles = 0;
  while (performance.now() < end) {
    for (let index = 0; index < 40; index += 1) {
      soak.stamp += 1;
      const under = request(soak, soak.stamp).finally(() => soak.under.delete(under));
      soak.under.add(under);
      if (random() < 0.2) await pause(random() * 5);
    }
    const dice = random();
    if (dice < 0.5) {
      troubles += 1;
      await trouble(soak, mirrors[random() < 0.5 ? 0 : 1]);
    } else if (dice < 0.65) await upheaval(soak);
  }
  await quiet(soak);
  for (const mirror of mirrors) await soak.rig.equal(mirror);
  expect(troubles).toBeGreaterThan(3);
  expect(soak.stamp).toBeGreaterThan(400);
}, 180_000);
