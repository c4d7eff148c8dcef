/*
 * A real Linux kernel uses a volume as a disk, and the mirror ends up with the same bytes.
 *
 * The user-mode Linux kernel attaches the volume with nbd-client, over one connection and over four,
 * makes an ext4 file system, writes under fio with checksums, trims, unmounts, checks, detaches,
 * attaches again and reads everything back through another device. What it trimmed takes no space.
 * Judges: the kernel, fio, e2fsck; then nbdcopy and cmp for the mirror. Everything happens in a network
 * namespace of the test's own.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectContent, expectEqualExports } from '../support/compare.ts';
import { tapNamespace, type TapNamespace } from '../support/namespace.ts';
import { startNode } from '../support/node.ts';
import { ROOT } from '../support/root.ts';
import type { Scope } from '../support/scope.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { runGuest } from '../support/uml.ts';

const PORT = 10809;
const MIB = 1024 * 1024;
const SIZE_BYTES = 256 * MIB;
const FIO_MIB = 32;

async function useFromKernel(scope: Scope, namespace: TapNamespace, connections: number) {
  const dir = scope.tempDir('bf-uml-');
  const result = await runGuest(scope, {
    namespace,
    init: join(ROOT, 'test', 'clients', 'uml', 'guest.sh'),
    dir,
    timeoutMs: 120_000,
    parameters: {
      BF_DIR: dir,
      BF_GUEST: namespace.guest,
      BF_PREFIX: namespace.prefixLength,
      BF_HOST: namespace.host,
      BF_PORT: PORT,
      BF_EXPORT: 'disk',
      BF_CONNECTIONS: connections,
      BF_FIO_MIB: FIO_MIB,
    },
  });
  const read = (file: string): string => readFileSync(join(dir, file), 'utf8');
  return { result, size: Number(read('size')), queue: read('queue') };
}

describe('the Linux kernel client', () => {
  it.for([1, 4])(
    'keeps a file system on a mirrored volume over %i connection(s)',
    { timeout: 240_000 },
    async (connections, context) => {
      requireTools(
        context,
        'linux.uml',
        'nbd-client',
        'insmod',
        'ip',
        'fio',
        'mkfs.ext4',
        'e2fsck',
      );
      requireTools(context, 'nbdcopy');
      requireRoot(context, 'network namespaces');
      const scope = testScope();
      const namespace = await tapNamespace(scope);
      const beta = await startNode(scope, { name: 'beta' });
      const alpha = await startNode(scope, {
        name: 'alpha',
        nbd: [`${namespace.host}:${PORT}`],
        flags: ['--insecure'], // the address is reachable from inside the namespace alone
        prefix: namespace.prefix,
      });
      await beta.createVolume('disk', String(SIZE_BYTES));
      await alpha.createVolume('disk', String(SIZE_BYTES));
      await alpha.addMirror('disk', beta.uri('disk'));

      const { result, size, queue } = await useFromKernel(scope, namespace, connections);
      expect(result).toBe('passed');
      expect(size).toBe(SIZE_BYTES);
      expect(queue).toContain('queue/write_cache write back'); // so the kernel does send FLUSH
      expect(queue).toContain('queue/fua 1');
      // One file of two is left, and what the other one took was trimmed by mount option and fstrim.
      const { allocated_bytes: allocated } = await alpha.volume('disk');
      expect(allocated).toBeGreaterThan(FIO_MIB * MIB);
      expect(allocated).toBeLessThan(2 * FIO_MIB * MIB);

      await alpha.waitInSync('disk');
      await expectContent(scope, beta.uri('disk'), FIO_MIB * MIB);
      await expectEqualExports(scope, alpha.uri('disk'), beta.uri('disk'));
    },
  );
});
