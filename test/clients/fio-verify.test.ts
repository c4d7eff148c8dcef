/*
 * Random writes of mixed sizes, deep in flight, read back by checksum: at once, and again after the
 * node was stopped and started. Judge: fio's own NBD client and its crc32c verification.
 */
import { expect, it } from 'vitest';
import { fio } from '../support/fio.ts';
import { startNode } from '../support/node.ts';
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

it('returns what fio wrote, before and after a restart', async (context) => {
  requireTools(context, 'fio');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  const job = { uri: node.uri('disk'), name: 'verify', timeoutMs: 60_000 };

  const written = await fio({ ...job, options: [...OPTIONS, 'fsync=32', 'do_verify=1'] });
  expect(written.write.total_ios).toBeGreaterThan(100);
  expect(written.read.total_ios).toBeGreaterThan(100);

  await node.stop();
  await node.start();
  const reread = await fio({ ...job, options: [...OPTIONS, 'verify_only=1'] });
  expect(reread.read.total_ios).toBeGreaterThan(100);
});
