/**
 * An older build and this one are one pair, as while nodes are upgraded one after the other: the mirror first, then the primary, or
 * the other way round. They stay or come in step under load, and what the older build left on its disk is taken over.
 *
 * The older build is made from the history of the checkout: the commit that set the present version. BLOCKFERRY_OLD_BIN names
 * another one, as the path of its bin/blockferry.cjs.
 */
import { existsSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Drill, NotHere, type Round } from '../frame.ts';
import { blockferryBin } from '../node.ts';
import { run } from '../process.ts';
import { Stage, VOLUME } from '../stage.ts';
import { convergeAfter } from '../steps.ts';
import { judgeStall } from '../targets.ts';

/** As scripts/bootstrap.mjs builds, with the packages of this checkout. */
const BUILD =
  'cd "$1" && node node_modules/typescript/bin/tsc -p tsconfig.json && exec node scripts/bundle.mjs';
const BUILD_MS_MAX = 180_000;

const ORDERS = [
  ['beta', 'alpha'],
  ['alpha', 'beta'],
] as const;

/** The commit that last changed the version, and was not the last one. */
async function oldCommit(root: string): Promise<string> {
  const git = async (...args: readonly string[]): Promise<string> => {
    const { code, stdout } = await run('git', ['-C', root, ...args], { accept: [0, 1, 128] });
    return code === 0 ? stdout.trim() : '';
  };
  const [latest = ''] = (
    await git('log', '--format=%H', '-G"version":', '--', 'package.json')
  ).split('\n');
  const head = await git('rev-parse', 'HEAD');
  if (latest === '' || latest === head) {
    throw new NotHere('no history with an older version here; BLOCKFERRY_OLD_BIN can name a build');
  }
  return latest;
}

/** Path of the bin/blockferry.cjs of an older build. */
async function olderBuild(round: Round): Promise<string> {
  const given = process.env['BLOCKFERRY_OLD_BIN'];
  if (given !== undefined) return given;
  const root = dirname(dirname(blockferryBin()));
  if (!existsSync(join(root, '.git')))
    throw new NotHere('no git history here: this is no checkout');
  const commit = await oldCommit(root);
  const directory = join(round.directory, 'older');
  await run('git', ['clone', '--quiet', '--shared', '--no-checkout', root, directory]);
  await run('git', ['-C', directory, 'checkout', '--quiet', commit]);
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
  await run('sh', ['-c', BUILD, 'sh', directory], { timeoutMs: BUILD_MS_MAX });
  round.note(`older build: ${commit.slice(0, 12)}`);
  return join(directory, 'bin', 'blockferry.cjs');
}

export const upgrade: Drill = {
  name: 'upgrade',
  about: 'an older build on either side, and both upgraded one after the other under load',
  modes: ['async'],
  async play(round) {
    const bin = await olderBuild(round);
    const order = ORDERS[round.random.below(2)] ?? ORDERS[0];
    const stage = await Stage.inStep(round, { alpha: { bin }, beta: { bin } });
    for (const name of order) {
      const writer = stage.write();
      await writer.progress(40, round.signal);
      round.figures.calmStallMs = writer.longestWaitMs(0);
      const stoppedAt = Date.now();
      await stage[name].stop();
      stage[name].bin = blockferryBin();
      await stage[name].start(round.signal);
      round.note(
        `${name} runs this build, the other one ${name === order[0] ? 'the older' : 'too'}`,
      );
      if (name === 'beta') {
        await writer.progress(40, round.signal);
        judgeStall(round, writer.longestWaitMs(stoppedAt));
      }
      await stage.waitMirror('the stream', ({ state }) => state === 'streaming', 60_000);
      await writer.stop();
      await convergeAfter(stage, writer);
    }
    const { code, stdout } = await stage.alpha.attempt(['check', VOLUME]);
    round.expect(code === 0, `check: ${stdout}`);
  },
};
