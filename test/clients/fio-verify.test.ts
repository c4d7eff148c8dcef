/*
 * Random writes of mixed sizes, deep in flight, read back by checksum: at once, and again after the
 * node was stopped and started; over one connection, and over four that each write a region of their own
 * while a fifth copies the volume. Judge: fio's own NBD client and its crc32c verification.
 */
import { expect, it } from 'vitest';
import { fio } from '../support/fio.ts';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';

const OPTIONS = [
  'rw=randwrite',
  'size=32m',
  'bssplit=4k/50:12k/20:64k/20:512k/10',
  'iodepth=32',
  'verify=crc32c',
  'verify_fatal=1',
  'randseed=4711',
];
const FOUR = ['numjobs=4', 'offset_increment=32m'];

it.for([
  ['one connection', []],
  ['four connections', FOUR],
] as const)(
  'returns what fio wrote over %s, before and after a restart',
  async ([, more], context) => {
    requireTools(context, 'fio', 'nbdcopy');
    const node = await startNode(testScope(), { name: 'alpha' });
    await node.createVolume('disk', '130M');
    const options = [...OPTIONS, ...more];
    const job = { uri: node.uri('disk'), name: 'verify', timeoutMs: 60_000 };

    const writing = fio({ ...job, options: [...options, 'fsync=32', 'do_verify=1'] });
    const copying = run('nbdcopy', ['--connections=2', node.uri('disk'), 'null:']);
    const [written] = await Promise.all([writing, copying]);
    expect(written.write.total_ios).toBeGreaterThan(100);
    expect(written.read.total_ios).toBeGreaterThan(100);

    await node.stop();
    await node.start();
    const reread = await fio({ ...job, options: [...options, 'verify_only=1'] });
    expect(reread.read.total_ios).toBeGreaterThan(100);
  },
);
