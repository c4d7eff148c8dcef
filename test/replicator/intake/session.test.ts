/**
 * Who may send to a mirror, what it answers, and what ends a link. Method: a mirror on the simulator's disk, and the other end of
 * its link played by the test, one message at a time.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { COMPARE_GROUP_BYTES, INTAKE_ACK_MS_MAX } from '../../../src/io/limits.ts';
import type { TlsPeer } from '../../../src/io/network.ts';
import type { Verdict } from '../../../src/replicator/intake/admission.ts';
import { FrameKind } from '../../../src/replicator/link/link-types.ts';
import { encodeCommand, type Hello } from '../../../src/replicator/link/messages.ts';
import {
  COMPARE_GROUPS,
  COMPARE_TWIN,
  COMPARE_ZERO,
} from '../../../src/replicator/runs/run-frames.ts';
import { digestUnits } from '../../../src/workers/kernels.ts';
import { ENOSPC } from '../../sim/sim-disk.ts';
import { blockOf, entriesOf, tagsOf } from './support/copy-model.ts';
import { GENERATIONS, MirrorWorld } from './support/mirror-world.ts';

let world: MirrorWorld;

beforeEach(async () => {
  world = new MirrorWorld(7, 16);
  await world.create();
  world.model.write();
  world.model.write();
  await world.until('the start', () => world.mirror!.judge(world.hello(), null).kind === 'welcome');
  world.mirror!.unexpected(world.hello());
});

/** Connected, with the last epoch of the model, and epochs follow. */
async function streaming(): Promise<void> {
  const welcome = await world.connect();
  if (welcome!.position === null) expect(await world.run(welcome!)).toBe(true);
  world.link!.control({ kind: 'stream-begin', generation: 1, after: world.model.last });
  await world.until('the stream', () => world.mirror!.sourceStatus().state === 'streaming');
}

async function ended(): Promise<string> {
  await world.until('the end', () => world.link!.endedBy !== null);
  const { code } = world.link!.endedBy!;
  await world.until('the session', () => world.mirror!.sourceStatus().state === 'waiting');
  expect(world.link!.held).toBe(0);
  return code;
}

const X509 = (identity: string) => ({ kind: 'x509', identity }) as const;

function verdict(change: Partial<Hello>, tls: TlsPeer | null = null): Verdict {
  const given = world.mirror!.judge({ ...world.hello(), ...change }, tls);
  world.mirror!.unexpected(world.hello());
  return given;
}

function acks(): number {
  return world.link!.answers.filter(({ header }) => header.kind === FrameKind.ACK).length;
}

describe('a mirror that is told what is waited for', () => {
  test('says at once what came and what is awaited, and the rest with what it says next', async () => {
    world.awaits = true;
    await streaming();
    const send = (): number => {
      world.model.write();
      world.sendEpoch(world.model.last);
      return world.model.last;
    };
    const one = send();
    await world.until('it arrives', () => world.link!.answers.at(-1)?.header.index === one);
    const before = acks();
    await world.until('it can be read', () => world.mirror!.intake.applied?.epoch === one);
    await world.until('it is told', () => world.link!.answers.at(-1)?.header.aux === one);
    expect(acks() - before).toBeLessThanOrEqual(2);
  });

  test('says at once that a part of it is durable: somebody may wait for that part alone', async () => {
    world.awaits = true;
    await streaming();
    world.model.write();
    const one = world.model.last;
    world.link!.frame({ kind: FrameKind.AWAITS, epoch: one });
    // Another request of the host waits already, for an epoch that has not come.
    world.link!.frame({ kind: FrameKind.AWAITS, epoch: one + 1 });
    world.sendEpoch(one);
    const { intake } = world.mirror!;
    await world.until('it is durable', () => intake.durable?.epoch === one);
    const before = world.scheduler.now();
    await world.until('it is told', () => world.link!.answers.at(-1)?.header.epoch === one);
    expect(world.scheduler.now() - before).toBeLessThan(INTAKE_ACK_MS_MAX);
  });
});

test('an epoch that found no room in the journal does not take back those before it, which become durable', async () => {
  world.awaits = true;
  await streaming();
  world.model.write();
  const one = world.model.last;
  world.sendEpoch(one);
  const { intake } = world.mirror!;
  await world.until('it is written', () => intake.journalBytes > 0);
  expect(intake.durable!.epoch).toBeLessThan(one);
  intake.refused([], ENOSPC);
  await world.until('the end', () => world.mirror!.sourceStatus().state === 'waiting');
  await world.until('it is durable', () => intake.durable!.epoch === one);
  // The stream goes on behind what the mirror says that it holds.
  expect((await world.connect())!.position!.epoch).toBe(one);
  world.link!.control({ kind: 'stream-begin', generation: 1, after: one });
  await world.heard('the stream', () => world.mirror!.sourceStatus().state === 'streaming');
  expect(world.link!.endedBy).toBeNull();
});

describe('a mirror welcomes', () => {
  test('the node that it is bound to, by name and by what TLS proved', () => {
    expect(verdict({}).kind).toBe('welcome');
    expect(verdict({}, X509('CN=one,O=x')).kind).toBe('welcome');
    expect(verdict({}, { kind: 'psk', identity: 'one' }).kind).toBe('welcome');
    expect(verdict({ node: 'three' }).kind).toBe('stranger');
    expect(verdict({}, X509('CN=three')).kind).toBe('stranger');
    expect(verdict({}, { kind: 'psk', identity: 'CN=one' }).kind).toBe('stranger');
  });

  test('the size that it has, and the volume that it is bound to by its first run', async () => {
    expect(verdict({ sizeBytes: 4096 })).toMatchObject({ kind: 'refused' });
    expect(verdict({ volumeId: 'ee'.repeat(16) }).kind).toBe('welcome');
    await streaming();
    world.link!.lose();
    await ended();
    expect(verdict({ volumeId: 'ee'.repeat(16) }).kind).toBe('refused');
    expect(verdict({}).kind).toBe('welcome');
  });

  test('one link at a time; one that is silent gives way', async () => {
    await streaming();
    expect(verdict({}).kind).toBe('refused');
    world.scheduler.lose(10_000);
    expect(verdict({}).kind).toBe('refused');
    await ended();
    expect(verdict({}).kind).toBe('welcome');
  });

  test('nobody else between a welcome and its link', () => {
    expect(world.mirror!.judge(world.hello(), null).kind).toBe('welcome');
    expect(world.mirror!.judge(world.hello(), null).kind).toBe('refused');
  });
});

describe('the link ends for', () => {
  const cases: Record<string, () => void> = {
    'epochs behind another one than it holds': () =>
      world.link!.control({ kind: 'stream-begin', generation: 1, after: 1 }),
    'an unknown generation': () =>
      world.link!.control({ kind: 'stream-begin', generation: 2, after: world.model.last }),
    'an entry past the end': () =>
      world.link!.frame(
        { kind: FrameKind.DATA, epoch: world.model.last + 1, index: 0 },
        entriesOf([{ first: 16, tags: [5] }]),
      ),
    'a payload that is no entries': () =>
      world.link!.frame({ kind: FrameKind.DATA, epoch: world.model.last + 1 }, Buffer.alloc(5000)),
    'a command that is none': () =>
      world.link!.frame({ kind: FrameKind.COMMAND, epoch: world.model.last + 1 }, Buffer.alloc(9)),
    'another volume of a group': () =>
      world.link!.frame(
        { kind: FrameKind.DATA, volume: 1, epoch: world.model.last + 1 },
        entriesOf([{ first: 1, tags: [5] }]),
      ),
    'a word about a run that is not there': () =>
      world.link!.control({ kind: 'run-commit', run: 'ab'.repeat(16), frames: 0 }),
    'a frame that only a mirror sends': () =>
      world.link!.frame({ kind: FrameKind.ACK, epoch: 1, index: 1, aux: 1 }),
    'a message that only a mirror sends': () =>
      world.link!.control({ kind: 'run-committed', run: 'ab'.repeat(16) }),
    'a run of another size': () =>
      world.link!.control({ ...begin('ab'.repeat(16)), sizeBytes: 4096 }),
    'a run of another history': () =>
      world.link!.control({
        ...begin('ab'.repeat(16)),
        generations: [{ ...GENERATIONS[0]!, id: 'dd'.repeat(16) }],
      }),
    'a question past the end': () =>
      world.link!.frame({
        kind: FrameKind.DIGESTS,
        flags: COMPARE_ZERO,
        offset: 16 * 4096,
        length: 0,
      }),
  };
  test.each(Object.keys(cases))('%s', async (name) => {
    await streaming();
    cases[name]!();
    expect(await ended()).toBe('LINK_PROTOCOL');
    const { last } = world.model;
    expect(world.model.isAt(last, (await world.content())!)).toBe(true);
  });
});

function begin(run: string, number = 9) {
  return {
    kind: 'run-begin' as const,
    number,
    run,
    generation: 1,
    epoch: world.model.last,
    time: 5,
    sizeBytes: world.model.sizeBytes,
    generations: GENERATIONS,
    full: false,
  };
}

describe('a delta run', () => {
  const RUN = 'ab'.repeat(16);

  async function opened(): Promise<void> {
    await streaming();
    world.link!.control(begin(RUN));
    await world.until('run-ready', () =>
      world.link!.controls.some(
        ({ kind }) => kind === 'run-ready' && world.runNumber === 1 && world.mirror!.delta.active,
      ),
    );
    world.link!.frame(
      { kind: FrameKind.RUN_DATA, epoch: 9, index: 0 },
      entriesOf([{ first: 2, tags: [99] }]),
    );
    await world.until('the frame', () => world.link!.queued === 0);
  }

  test('is not seen before its commit, and is gone after its end', async () => {
    await opened();
    const { last } = world.model;
    expect(world.model.isAt(last, (await world.content())!)).toBe(true);
    world.link!.control({ kind: 'run-abort', run: RUN });
    await world.until(
      'the abort',
      () =>
        !world.mirror!.delta.active &&
        world.mirror!.delta.open === null &&
        world.mirror!.delta.settled,
    );
    expect(world.model.isAt(last, (await world.content())!)).toBe(true);
    expect(world.mirror!.position().epoch).toBe(last);
  });

  test('that was interrupted is told of, and goes on behind its mark', async () => {
    await opened();
    world.link!.control({ kind: 'run-mark', run: RUN, cursor: 3 * 4096, frames: 1 });
    await world.until('run-durable', () =>
      world.link!.controls.some(({ kind }) => kind === 'run-durable'),
    );
    world.restart('cut');
    const welcome = await world.connect();
    expect(welcome).toMatchObject({
      run: { id: RUN, cursor: 3 * 4096 },
      position: { epoch: world.model.last },
    });
    world.link!.control(begin(RUN, 1));
    world.link!.control({ kind: 'run-commit', run: RUN, frames: 0 });
    await world.until('run-committed', () =>
      world.link!.controls.some(({ kind }) => kind === 'run-committed'),
    );
    expect(world.link!.controls[0]).toEqual({ kind: 'run-ready', run: RUN, cursor: 3 * 4096 });
    expect((await world.content())![2]).toBe(99);
    expect(world.mirror!.volume.snapshots.hidden).toEqual([]);
  });

  test('that is undone behind the end of its link keeps the next link out until then: its position would be taken back', async () => {
    await opened();
    const { mirror } = world;
    const { volume } = mirror!;
    const commit = volume.commit.bind(volume);
    const discard = volume.snapshots.discard.bind(volume.snapshots);
    let refusals = 1;
    let release: (() => void) | null = null;
    Object.assign(volume, {
      commit: () => ((refusals -= 1) >= 0 ? Promise.resolve(ENOSPC) : commit()),
    });
    // Its record is on its way to a slow disk.
    Object.assign(volume.snapshots, {
      discard: async (name: string) => {
        await discard(name);
        await new Promise<void>((resolve) => (release = resolve));
      },
    });
    world.link!.control({ kind: 'run-abort', run: RUN });
    await world.until('the base to be gone', () => release !== null && mirror!.delta.settled);
    expect(world.link!.endedBy).not.toBeNull();
    expect(verdict({})).toMatchObject({
      kind: 'refused',
      text: expect.stringContaining('being ended') as string,
    });
    release!();
    await streaming();
    expect(mirror!.position().epoch).toBe(world.model.last);
  });

  test('is answered questions about its base, whatever it brought', async () => {
    await opened();
    const state = world.model.states[world.model.last]!;
    const held = Buffer.concat([1, 2, 3].map((block) => blockOf(state[block]!)));
    const digests = digestUnits(held, held.length, 4096);
    const group = digestUnits(held, held.length, COMPARE_GROUP_BYTES);
    const wrongGroup = Buffer.from(group);
    wrongGroup[15]! ^= 1;
    const wrong = Buffer.from(digests);
    wrong[16]! ^= 1;
    const ask = { kind: FrameKind.DIGESTS, epoch: 9, offset: 4096, length: 3 * 4096 };
    world.link!.frame({ ...ask, index: 0 }, digests);
    world.link!.frame({ ...ask, index: 1 }, wrong);
    world.link!.frame({ ...ask, index: 2, flags: COMPARE_ZERO });
    world.link!.frame({ ...ask, index: 3, flags: COMPARE_GROUPS }, group);
    world.link!.frame({ ...ask, index: 4, flags: COMPARE_GROUPS }, wrongGroup);
    const answers = () =>
      world.link!.answers.filter(({ header }) => header.kind === FrameKind.DIFFERS);
    await world.until('the answers', () => answers().length === 5);
    const bits = [1, 2, 3].reduce((sum, block, at) => sum | (state[block] === 0 ? 0 : 1 << at), 0);
    const byIndex = answers().toSorted((one, two) => one.header.index - two.header.index);
    expect(byIndex.map(({ payload }) => payload?.[0] ?? 0)).toEqual([0, 2, bits, 0, 7]);
  });
});

test('a command keeps the content of its epoch for comparing, until it is thawed', async () => {
  await streaming();
  const { model } = world;
  model.write();
  const epoch = model.last;
  const command = encodeCommand({ kind: 'freeze', id: 'fe'.repeat(16) });
  model.frames.set(epoch, [
    ...model.frames.get(epoch)!,
    { kind: FrameKind.COMMAND, payload: command },
  ]);
  world.sendEpoch(epoch);
  model.write();
  world.sendEpoch(epoch + 1);
  await world.until('both', () => world.link!.positions.aux === epoch + 1);
  expect(world.link!.controls).toContainEqual({ kind: 'command-done', epoch, error: null });
  const content = Buffer.concat([...model.states[epoch]!].map(blockOf));
  world.link!.frame(
    { kind: FrameKind.DIGESTS, flags: COMPARE_TWIN, epoch, offset: 0, length: content.length },
    digestUnits(content, content.length, 4096),
  );
  await world.until('the answer', () =>
    world.link!.answers.some(({ header }) => header.kind === FrameKind.DIFFERS),
  );
  const answer = world.link!.answers.find(({ header }) => header.kind === FrameKind.DIFFERS)!;
  expect(answer.payload).toBeNull();
  expect(tagsOf(content)).toEqual(model.states[epoch]);
  world.link!.lose();
  await ended();
  expect(world.mirror!.volume.snapshots.hidden).toEqual([]);
});

test('a full disk ends the link with the reason, and the mirror takes the same epochs when there is room', async () => {
  await streaming();
  const { model } = world;
  world.disk.platter.pagesMax = world.disk.platter.pagesUsed() + 1;
  const from = model.last;
  for (let count = 0; count < 12; count += 1) {
    model.write();
    world.sendEpoch(model.last);
  }
  await world.until('the end', () => world.link!.endedBy !== null);
  expect(world.link!.controls).toContainEqual(expect.objectContaining({ kind: 'failed' }));
  world.disk.platter.pagesMax = Infinity;
  const welcome = await world.connect();
  const held = welcome!.position!.epoch;
  expect(held).toBeGreaterThanOrEqual(from);
  world.link!.control({ kind: 'stream-begin', generation: 1, after: held });
  for (let epoch = held + 1; epoch <= model.last; epoch += 1) world.sendEpoch(epoch);
  await world.until('all of it', () => world.link!.positions.aux === model.last);
  expect(model.isAt(model.last, (await world.content())!)).toBe(true);
});
