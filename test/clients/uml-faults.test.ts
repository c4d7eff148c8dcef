/*
 * A Linux kernel with four connections keeps its load going without one error while two of them are
 * reset in mid-load, one after another, and the server is stopped for longer than a second. The kernel
 * sends the requests of a dead connection again on another one; what it wrote then reads back with the
 * right checksums, in the guest and once more from outside. Judges: the kernel's own log, and fio.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { fio } from '../support/fio.ts';
import { tapNamespace } from '../support/namespace.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { start, type ManagedProcess } from '../support/process.ts';
import { ROOT } from '../support/root.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { runGuest } from '../support/uml.ts';
import { sleep, waitUntil } from '../support/wait.ts';

const PORT = 10809;
const SIZE_BYTES = 256 * 1024 * 1024;
const FIO_MIB = 28;
const REREAD = [
  'rw=randwrite',
  `size=${FIO_MIB}m`,
  'bssplit=4k/60:16k/20:64k/15:256k/5',
  'iodepth=32',
  'verify=crc32c',
  'verify_fatal=1',
  'verify_only=1',
];
const SCRIPTS = join(ROOT, 'test', 'clients', 'uml');
const STALL_MS = 1500;

async function disturb(dir: string, proxy: ManagedProcess, node: TestNode): Promise<void> {
  const stage = join(dir, 'stage');
  const begun = (): boolean => existsSync(stage) || existsSync(join(dir, 'result'));
  await waitUntil('the load to begin', begun, { timeoutMs: 30_000 });
  for (const left of [3, 2]) {
    await sleep(500);
    // What comes while the server stands still is unanswered: the cut takes a connection with requests.
    node.process.signal('SIGSTOP');
    proxy.signal('SIGUSR1');
    await waitUntil('the cut', () => proxy.stdout.includes(`cut, left ${left}`), { everyMs: 10 });
    node.process.signal('SIGCONT');
  }
  await sleep(500);
  node.process.signal('SIGSTOP');
  await sleep(STALL_MS);
  node.process.signal('SIGCONT');
  expect(readFileSync(stage, 'utf8').trim()).toBe('loading'); // all of it hit the load
}

it('loses no request of a kernel whose connections are cut, and delays in a stall', async (context) => {
  requireTools(context, 'linux.uml', 'nbd-client', 'insmod', 'ip', 'fio');
  requireRoot(context, 'network namespaces');
  const scope = testScope();
  const namespace = await tapNamespace(scope);
  const node = await startNode(scope, {
    name: 'alpha',
    nbd: [`127.0.0.1:${PORT}`],
    prefix: namespace.prefix,
  });
  await node.createVolume('disk', String(SIZE_BYTES));
  const [command = '', ...prefix] = namespace.prefix;
  const script = join(SCRIPTS, 'cut_proxy.py');
  const ports = [namespace.host, String(PORT), '127.0.0.1', String(PORT)];
  const proxy = start(scope, command, [...prefix, '/usr/bin/python3', '-B', script, ...ports]);
  await waitUntil('the proxy', () => proxy.stdout.includes('ready'));

  const dir = scope.tempDir('bf-uml-');
  const guest = runGuest(scope, {
    namespace,
    init: join(SCRIPTS, 'guest-faults.sh'),
    dir,
    timeoutMs: 90_000,
    parameters: {
      BF_DIR: dir,
      BF_GUEST: namespace.guest,
      BF_PREFIX: namespace.prefixLength,
      BF_HOST: namespace.host,
      BF_PORT: PORT,
      BF_EXPORT: 'disk',
      BF_CONNECTIONS: 4,
      BF_TIMEOUT: 4,
      BF_FIO_MIB: FIO_MIB,
    },
  });
  const [result] = await Promise.all([guest, disturb(dir, proxy, node)]);
  const log = readFileSync(join(dir, 'guest-dmesg.log'), 'utf8');
  expect(result).toBe('passed');
  expect(log).toMatch(/timed out, retrying \([23]\/4 alive\)/); // it did send requests again
  expect(log).not.toMatch(/I\/O error/i);
  expect(Number(readFileSync(join(dir, 'size'), 'utf8'))).toBe(SIZE_BYTES);

  const reread = await fio({
    uri: node.uri('disk'),
    name: 'load',
    timeoutMs: 60_000,
    options: REREAD,
  });
  expect(reread.read.total_ios).toBeGreaterThan(100);
}, 150_000);
