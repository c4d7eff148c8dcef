/**
 * The planned move: the writes go to the mirror and home again under load, and the client, which knows both servers by name, goes on
 * at the other one with its file system mounted. Nothing that was answered is lost, in either mode.
 *
 *   client ─┬─ recorder ──> alpha ── link ──> beta
 *           └─ recorder ──> beta  ── back ──> alpha
 *
 * Both recorders write one record, so the oracle sees one disk. After each move it looks at a snapshot that the new primary makes while
 * the load goes on: what was answered before the snapshot was asked for must be in it. That would show a loss that later writes hide.
 */
import { join } from 'node:path';
import type { Drill, Round } from '../frame.ts';
import { KERNEL_TIMEOUT_S, KernelHost } from '../guest.ts';
import type { DrilledNode } from '../node.ts';
import { judge } from '../oracle.ts';
import { run } from '../process.ts';
import { Recorder } from '../recorder.ts';
import { answeredBy, readRequestLog } from '../request-log.ts';
import { nbdUri } from '../sockets.ts';
import { SIZE, Stage, VOLUME } from '../stage.ts';
import { takeOver } from '../takeover.ts';
import { judgeMove, judgeRecovery } from '../targets.ts';
import { countText } from '../timeline.ts';
import type { Writer } from '../writer.ts';

const ANSWERS = 15;
const CALM_FROM_ANSWERS = 5;

type MovedClient = KernelHost | Writer;

/** The part of the stage that writes come through now, and the other one. */
interface Sides {
  readonly primary: DrilledNode;
  readonly mirror: DrilledNode;
  /** How the mirror will reach the present primary. */
  readonly back: string;
}

async function startClient(stage: Stage): Promise<MovedClient> {
  const { round, beta, log } = stage;
  const path = join(round.directory, 'away.nbd');
  const away = await Recorder.start({ listen: `unix:${path}`, target: beta.nbdAddress, log });
  round.undo.add('close the other recorder', () => away.close());
  const { address } = stage.recorder;
  if (round.client === 'nbd') {
    return stage.wander([nbdUri(address, VOLUME), nbdUri(away.address, VOLUME)]);
  }
  const doors = [address, away.address].map((each) => each.slice('unix:'.length));
  const host = await KernelHost.boot(round, { doors, volume: VOLUME, fio: true });
  round.note(
    'a Linux kernel has the volume as /dev/nbd0: ext4, a ledger, sqlite and fio write to it',
  );
  return host;
}

/** What was answered up to an event of the record must be in an image. */
function consultOracle(stage: Stage, imagePath: string, untilEvent: number): void {
  const { round, log } = stage;
  log.commit();
  const record = answeredBy(readRequestLog(join(round.directory, 'requests')), untilEvent);
  const verdict = judge({ log: record, imagePath, sizeBytes: SIZE, mode: 'sync' });
  round.atLeast('lostWrites', verdict.writesLost);
  round.atLeast('lostMs', verdict.lossMs);
  round.note(
    `oracle: ${countText(verdict.writesLost)} of ${countText(verdict.writesAnswered)} answered writes lost, ` +
      `${countText(verdict.flushesAnswered)} flushes: ${verdict.ok ? 'sound' : 'VIOLATIONS'}`,
  );
  for (const { rule, text } of verdict.violations) round.violate(`oracle, rule "${rule}": ${text}`);
}

async function expectNothingLost(stage: Stage, node: DrilledNode, name: string): Promise<void> {
  const image = join(stage.round.directory, `${name}.raw`);
  const answered = stage.log.lastEvent;
  await node.command('snapshot', 'create', VOLUME, name);
  await run('nbdcopy', [node.uri(`${VOLUME}@${name}`), image]);
  consultOracle(stage, image, answered);
  await run('rm', ['-f', image]);
}

/** One move under load. */
async function move(stage: Stage, client: MovedClient, sides: Sides, count: number): Promise<void> {
  const { round } = stage;
  const { signal } = round;
  const { primary, mirror, back } = sides;
  await stage.waitMirror('the stream', ({ state }) => state === 'streaming', 60_000, primary);
  await client.progress(CALM_FROM_ANSWERS, signal);
  const calmFrom = Date.now();
  await client.progress(ANSWERS, signal);
  await round.pauseBetween(0, 800);
  round.atLeast('calmStallMs', client.longestWaitMs(calmFrom));
  const commanded = round.random.below(2) === 0 ? primary : mirror;
  const beganAt = Date.now();
  await commanded.command('switchover', VOLUME, '--back', nbdUri(back, VOLUME));
  const recoveryMs = Date.now() - beganAt;
  judgeRecovery(round, recoveryMs);
  await client.progress(ANSWERS, signal);
  const stallMs = client.longestWaitMs(beganAt);
  round.note(
    `${primary.name} to ${mirror.name}, by a command on ${commanded.name}: ${mirror.name} takes writes after ${recoveryMs} ms, ` +
      `the client waited ${Math.round(stallMs)} ms at most and goes on there`,
  );
  const resendMs = round.client === 'kernel' ? KERNEL_TIMEOUT_S * 1000 : 0;
  judgeMove(round, { stallMs, recoveryMs, resendMs });
  await expectNothingLost(stage, mirror, `moved-${count}`);
}

/** What a person finds on the disk at the end. */
async function expectContent(stage: Stage, client: MovedClient, image: string): Promise<void> {
  const { round } = stage;
  if (!(client instanceof KernelHost)) {
    const shown = await stage.state(stage.alpha.uri(VOLUME));
    return round.expect(shown === client.writes, `${shown} of ${client.writes} answered writes`);
  }
  try {
    const { files, ledgerLines, transactions } = await takeOver(image, round.directory);
    round.note(
      `filesystem: fsck clean, mounted, ${files} files read; ledger 1..${ledgerLines}, ${client.ledgerLines} were synced; ` +
        `sqlite integrity_check ok, ${transactions} transactions of ${client.transactions}`,
    );
    const whole = ledgerLines >= client.ledgerLines && transactions >= client.transactions;
    round.expect(whole, 'synced lines or transactions are missing');
  } catch (thrown) {
    round.violate(`the filesystem is not sound: ${String(thrown)}`);
  }
}

async function play(round: Round): Promise<void> {
  const stage = await Stage.create(round);
  const { alpha, beta, link, back } = stage;
  await stage.addMirror();
  await stage.settle();
  round.note(`alpha mirrors ${VOLUME} to beta, ${round.mode}: streaming`);
  const client = await startClient(stage);
  const there: Sides = { primary: alpha, mirror: beta, back: back.address };
  const home: Sides = { primary: beta, mirror: alpha, back: link.address };
  for (let trip = 1; trip <= round.pick(1, 3); trip++) {
    await move(stage, client, there, 2 * trip - 1);
    await move(stage, client, home, 2 * trip);
  }
  if (client instanceof KernelHost) await client.finish();
  else await client.stop();
  await stage.settle();
  await stage.expectEqual();
  const image = join(round.directory, 'end.raw');
  await run('nbdcopy', [beta.uri(VOLUME), image]);
  consultOracle(stage, image, stage.log.lastEvent);
  await expectContent(stage, client, image);
}

export const switchover: Drill = {
  name: 'switchover',
  about: 'the writes move to the mirror and home, the client stays attached',
  modes: ['async', 'sync'],
  clients: ['kernel', 'nbd'],
  play,
};
