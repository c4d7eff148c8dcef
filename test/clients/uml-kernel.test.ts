/*
 * A real Linux kernel uses a volume as a disk, and the mirror ends up with the same bytes.
 *
 * The user-mode Linux kernel attaches the volume with nbd-client, over one connection with TLS and over
 * four without, makes an ext4 file system, writes under fio with checksums, trims, unmounts, checks,
 * detaches, attaches again and reads everything back through another device. What it trimmed takes no
 * space. Judges: the kernel, fio, e2fsck; then nbdcopy and cmp for the mirror. Everything happens in a
 * network namespace of the test's own.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeCertificates, type Certificates } from '../support/certificates.ts';
import { expectContent, expectEqualExports } from '../support/compare.ts';
import { tapNamespace, type TapNamespace } from '../support/namespace.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { ROOT } from '../support/root.ts';
import type { Scope } from '../support/scope.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { runGuest } from '../support/uml.ts';

const PORT = 10809;
const MIB = 1024 * 1024;
const SIZE_BYTES = 256 * MIB;
const FIO_MIB = 32;

async function useFromKernel(
  scope: Scope,
  namespace: TapNamespace,
  connections: number,
  ca: Certificates | null,
) {
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
      ...(ca === null ? {} : { BF_CA: ca.ca }),
    },
  });
  const read = (file: string): string => readFileSync(join(dir, file), 'utf8');
  return { result, size: Number(read('size')), queue: read('queue') };
}

const TOOLS = ['linux.uml', 'nbd-client', 'insmod', 'ip', 'fio', 'mkfs.ext4', 'e2fsck', 'nbdcopy'];

describe('the Linux kernel client', () => {
  it.for([
    ['one connection with TLS', 1, true],
    ['four connections', 4, false],
  ] as const)(
    'keeps a file system on a mirrored volume over %s',
    { timeout: 240_000 },
    async ([, connections, encrypted], context) => {
      requireTools(context, ...TOOLS, 'openssl');
      requireRoot(context, 'network namespaces');
      const scope = testScope();
      const namespace = await tapNamespace(scope);
      const ca = encrypted ? makeCertificates(join(scope.tempDir(), 'ca')) : null;
      const beta = await startNode(scope, { name: 'beta' });
      const alpha = await startNode(scope, {
        name: 'alpha',
        nbd: [`${namespace.host}:${PORT}`],
        flags: securityFlags(ca),
        prefix: namespace.prefix,
      });
      await beta.createVolume('disk', String(SIZE_BYTES));
      await alpha.createVolume('disk', String(SIZE_BYTES));
      await alpha.addMirror('disk', beta.uri('disk'));

      const { result, size, queue } = await useFromKernel(scope, namespace, connections, ca);
      expect(result).toBe('passed');
      expect(size).toBe(SIZE_BYTES);
      expect(queue).toContain('queue/write_cache write back'); // so the kernel does send FLUSH
      expect(queue).toContain('queue/fua 1');
      // One file of two is left, and what the other one took was trimmed.
      const { allocated_bytes: allocated } = await alpha.volume('disk');
      expect(allocated).toBeGreaterThan(FIO_MIB * MIB);
      expect(allocated).toBeLessThan(2 * FIO_MIB * MIB);

      await alpha.waitInSync('disk');
      await expectContent(scope, beta.uri('disk'), FIO_MIB * MIB);
      const own = ca === null ? alpha.uri('disk') : encryptedUri(alpha, ca);
      await expectEqualExports(scope, own, beta.uri('disk'));
    },
  );
});

function encryptedUri(node: TestNode, ca: Certificates): string {
  return `${node.uri('disk').replace('nbd+', 'nbds+')}&tls-certificates=${ca.anonymous}`;
}

function securityFlags(ca: Certificates | null): string[] {
  // Without TLS: the address is reachable from inside the namespace alone.
  if (ca === null) return ['--insecure'];
  return ['--tls', 'required', '--tls-certificate', ca.certificate, '--tls-key', ca.key];
}
