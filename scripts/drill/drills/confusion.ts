/**
 * People and their backups: the mirror comes back with an old state of its disk, or a mirror of something else stands where
 * it should be. The one is noticed and mended without a command, the other is refused, and harms nothing.
 */
import { join } from 'node:path';
import { fill } from '../block-load.ts';
import type { Drill } from '../frame.ts';
import { DrilledNode, inStep } from '../node.ts';
import { run } from '../process.ts';
import { nbdUri } from '../sockets.ts';
import { MIB, SIZE, Stage, VOLUME } from '../stage.ts';
import { convergeAfter, expectRefusal } from '../steps.ts';
import { sizeText } from '../timeline.ts';

export const oldBackup: Drill = {
  name: 'old-backup',
  about: 'the data directory of the mirror is set back to an old copy of it',
  modes: ['async', 'sync'],
  async play(round) {
    const stage = await Stage.inStep(round);
    const { alpha, beta } = stage;
    const backup = join(round.directory, 'backup');
    await beta.stop();
    await run('cp', ['-a', '--sparse=always', beta.dataDirectory, backup]);
    await beta.start(round.signal);
    await stage.settle();
    round.note('the data directory of beta is copied aside; life goes on');
    const writer = stage.write();
    const load = stage.load();
    await writer.progress(round.pick(150, 1000), round.signal);
    await load.end();
    // The writer goes on: there is always something on its way.
    const before = await stage.waitMirror('the stream to go on', inStep);
    await beta.kill();
    await run('rm', ['-rf', beta.dataDirectory]);
    await run('cp', ['-a', '--sparse=always', backup, beta.dataDirectory]);
    await beta.start(round.signal);
    round.note('beta starts with the old copy');
    await writer.progress(50, round.signal);
    await writer.stop();
    const after = await stage.settle();
    const compared = after.bytes_compared - before.bytes_compared;
    const sent = after.delta_bytes_sent - before.delta_bytes_sent;
    round.note(`noticed: ${sizeText(compared)} compared, ${sizeText(sent)} sent`);
    round.expect(compared >= SIZE, 'a disk that was set back is to be compared whole');
    await convergeAfter(stage, writer);
    const { code, stdout } = await alpha.attempt(['mirror', 'verify', VOLUME]);
    round.expect(code === 0, `mirror verify: ${stdout}`);
  },
};

export const wrongMirror: Drill = {
  name: 'wrong-mirror',
  about:
    'what is no mirror of the volume is taken for it: another volume, another node of its name',
  modes: ['async'],
  async play(round) {
    const stage = await Stage.inStep(round);
    const { alpha, beta } = stage;
    const uri = nbdUri(stage.link.address, VOLUME);
    const writer = stage.write();
    await alpha.command('volume', 'create', 'other', String(SIZE));
    await fill(alpha.uri('other'), { from: 0, to: 8 * MIB });
    const said = await expectRefusal(round, alpha, ['mirror', 'add', 'other', uri]);
    round.note(`alpha's other volume is refused: ${said}`);

    const directory = join(round.directory, 'impostor');
    await run('mkdir', [directory]);
    const impostor = new DrilledNode({ name: 'alpha', directory });
    round.undo.add('end the impostor', () => impostor.kill());
    await impostor.start(round.signal);
    await impostor.command('volume', 'create', VOLUME, String(SIZE));
    await fill(impostor.uri(VOLUME), { from: 0, to: 8 * MIB });
    round.note(
      `another node alpha is refused: ${await expectRefusal(round, impostor, ['mirror', 'add', VOLUME, uri])}`,
    );
    await writer.progress(20, round.signal);
    await writer.stop();
    await stage.settle();
    await alpha.kill();
    await stage.quiet();
    round.note(
      `and while alpha is away: ${await expectRefusal(round, impostor, ['mirror', 'add', VOLUME, uri])}`,
    );
    const shown = await stage.state(beta.uri(VOLUME));
    round.expect(shown >= writer.writes, 'the mirror was changed');
    await alpha.start(round.signal);
    await convergeAfter(stage, writer);
  },
};
