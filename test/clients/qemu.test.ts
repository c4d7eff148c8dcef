/*
 * QEMU's tools use a volume: patterns at odd offsets and lengths, zeroes and discards read back as they
 * must, also deep in flight and from several clients at once; images converted in and out compare equal;
 * the map that QEMU sees is what was written, and so is its list; its benchmark ends. Judges: qemu-io's
 * pattern check, qemu-img compare, map, bench and check, qemu-nbd.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { nbdinfoMap, qemuMap } from '../support/maps.ts';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import { requireTools, testScope } from '../support/tools.ts';

const MIB = 1024 * 1024;

const PATTERNS = [
  'write -P 0x11 0 64k',
  'write -P 0x22 512 512', // inside a block
  'write -P 0x33 4095 2', // across two blocks, bytewise
  'write -f -P 0x44 1M 3M', // forced unit access
  'write -z 2M 64k', // zeroes, space kept
  'write -z -u 2560k 64k', // zeroes, space may go
  'discard 3M 64k',
  'flush',
  'read -P 0x11 0 512',
  'read -P 0x22 512 512',
  'read -P 0x11 1024 3071',
  'read -P 0x33 4095 2',
  'read -P 0x11 4097 61439',
  'read -P 0x44 1M 1M',
  'read -P 0 2M 64k',
  'read -P 0x44 2112k 448k',
  'read -P 0 2560k 64k',
  'read -P 0x44 3136k 960k',
  'read -P 0 4M 12M', // never written
];

it('reads back the patterns that qemu-io wrote', async (context) => {
  requireTools(context, 'qemu-io');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '16M');
  await qemuIo(node.uri('disk'), PATTERNS);
});

it('does not let a wrong pattern pass', async (context) => {
  requireTools(context, 'qemu-io');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '16M');
  const commands = ['write -P 0x11 0 64k', 'read -P 0x12 0 64k'];
  await expect(qemuIo(node.uri('disk'), commands)).rejects.toThrow(/verification failed/i);
});

/** Requests that are all in flight together, then the same bytes read back in flight together. */
function inFlight(client: number): string[] {
  const base = client * 16;
  const at = (i: number): string => `${base * 1024 + i * 256}k`;
  const every = Array.from({ length: 32 }, (_, i) => i);
  const pattern = (i: number): number => 1 + ((client * 32 + i) % 255);
  return [
    ...every.map((i) => `aio_write -P ${pattern(i)} ${at(i)} 256k`),
    'aio_flush',
    ...every.filter((i) => i % 4 === 1).map((i) => `aio_write -z -u ${at(i)} 128k`),
    ...every.filter((i) => i % 4 === 2).map((i) => `aio_write -z ${at(i)} 64k`),
    ...every.filter((i) => i % 4 === 3).map((i) => `discard ${at(i)} 256k`),
    'aio_flush',
    ...every.filter((i) => i % 4 === 0).map((i) => `aio_read -P ${pattern(i)} ${at(i)} 256k`),
    ...every.filter((i) => i % 4 === 1).map((i) => `aio_read -P 0 ${at(i)} 128k`),
    ...every.filter((i) => i % 4 === 2).map((i) => `aio_read -P 0 ${at(i)} 64k`),
    ...every.filter((i) => i % 4 === 3).map((i) => `aio_read -P 0 ${at(i)} 256k`),
    'aio_flush',
    'flush',
  ];
}

it('serves four clients deep in flight at once', async (context) => {
  requireTools(context, 'qemu-io');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  const clients = [0, 1, 2, 3].map((client) => qemuIo(node.uri('disk'), inFlight(client)));
  await Promise.all(clients);
});

it('zeroes fast or says at once that it cannot, with nothing changed', async (context) => {
  requireTools(context, 'qemu-io');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '16M');
  await qemuIo(node.uri('disk'), ['write -P 7 0 8M']);
  for (const [flags, at] of [
    ['-z -u -n', 0],
    ['-z -n', 4],
  ] as const) {
    let zeroed = true;
    try {
      await qemuIo(node.uri('disk'), [`write ${flags} ${at}M 1M`]);
    } catch (thrown) {
      zeroed = false;
      expect(String(thrown)).toContain('not supported');
    }
    await qemuIo(node.uri('disk'), [`read -P ${zeroed ? 0 : 7} ${at}M 1M`]);
  }
});

it('holds images that qemu-img converts in and out', async (context) => {
  requireTools(context, 'qemu-img', 'fallocate');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '32M');
  const dir = scope.tempDir();
  const [raw, qcow, out] = [join(dir, 'raw'), join(dir, 'qcow2'), join(dir, 'out.qcow2')];
  writeFileSync(
    raw,
    Buffer.concat([randomBytes(3 * MIB), Buffer.alloc(26 * MIB), randomBytes(3 * MIB)]),
  );
  await run('fallocate', ['--dig-holes', raw]); // so that a strict comparison looks at holes too
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, qcow]);
  // Out of order and eight at once, over a connection that asks for what is allocated.
  const fast = ['convert', '-W', '-m', '8'];
  await run('qemu-img', [...fast, '-n', '-f', 'qcow2', '-O', 'raw', qcow, node.uri('disk')]);
  await run('qemu-img', ['compare', '-s', '-f', 'raw', '-F', 'raw', raw, node.uri('disk')]);
  expect((await node.volume('disk')).allocated_bytes).toBeLessThan(7 * MIB);

  // -S 0: zeroes are found by block status or not at all.
  await run('qemu-img', [...fast, '-S', '0', '-f', 'raw', '-O', 'qcow2', node.uri('disk'), out]);
  await run('qemu-img', ['check', '-f', 'qcow2', out]);
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', raw, out]);
});

it('tells QEMU and libnbd the same map, which is what was written', async (context) => {
  requireTools(context, 'qemu-io', 'qemu-img', 'nbdinfo');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '8G');
  const uri = node.uri('disk');
  await qemuIo(uri, [
    'write -P 1 1M 64k',
    'write -P 2 4095M 2M', // across 4 GiB
    'write -P 3 8188M 4M',
    'discard 8190M 1M',
    'discard 4096M 512k',
  ]);
  const wanted = [
    [0, 1 * MIB, 3],
    [1 * MIB, 65_536, 0],
    [1 * MIB + 65_536, 4094 * MIB - 65_536, 3],
    [4095 * MIB, MIB, 0],
    [4096 * MIB, MIB / 2, 3],
    [4096.5 * MIB, MIB / 2, 0],
    [4097 * MIB, 4091 * MIB, 3],
    [8188 * MIB, 2 * MIB, 0],
    [8190 * MIB, MIB, 3],
    [8191 * MIB, MIB, 0],
  ].map(([start, length, flags]) => ({ start, length, flags }));
  expect(await nbdinfoMap(uri)).toEqual(wanted);
  expect(await qemuMap(uri)).toEqual(wanted);
});

it('lists its exports to qemu-nbd with their abilities and contexts', async (context) => {
  requireTools(context, 'qemu-nbd');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  await node.createVolume('other', '8M');
  const { stdout } = await run('qemu-nbd', ['--list', '-k', node.nbdSocket]);
  expect(stdout).toContain('exports available: 2');
  const [, disk = ''] = stdout.split("export: 'disk'");
  const [described = ''] = disk.split("export: 'other'");
  const lines = described.split('\n').map((line) => line.trim());
  expect(lines).toEqual(
    expect.arrayContaining([
      'size:  67108864',
      'min block: 1',
      'opt block: 4096',
      'max block: 33554432',
      'available meta contexts: 1',
      'base:allocation',
    ]),
  );
  const flags = lines.find((line) => line.startsWith('flags:')) ?? '';
  for (const flag of ['flush', 'fua', 'trim', 'zeroes', 'df', 'multi', 'cache', 'fast-zero']) {
    expect(flags.split(' ')).toContain(flag);
  }
  expect(flags).not.toMatch(/readonly|rotational|resize/);
});

it('goes through the benchmark of qemu-img with flushes between the writes', async (context) => {
  requireTools(context, 'qemu-img');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  const common = ['bench', '-f', 'raw', '-t', 'none', '-d', '32'];
  const uri = node.uri('disk');
  await run('qemu-img', [...common, '-c', '3000', '-s', '4096', '-w', uri]);
  const flushing = ['-w', '--flush-interval=32', '--pattern=90', '--no-drain'];
  await run('qemu-img', [...common, '-c', '300', '-s', '65536', ...flushing, uri]);
  await run('qemu-img', [...common, '-c', '3000', '-s', '4096', uri]);
  await qemuIo(uri, ['read -P 90 0 16M']);
  await node.stop();
});
