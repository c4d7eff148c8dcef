/*
 * Devices that `blockferry attach --persist` keeps attached go through a restart of their server and through a failover
 * under load, without one error: one over an address that moves to the promoted mirror, with a mounted file system, one that is told
 * both servers by name. The mirror is synchronous: what the kernel was told is written is on both sides, as it must be for
 * a device that goes on elsewhere. Judges: fio's checksums, e2fsck, a ledger with a line for each sync, and the log of the kernel.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { tapNamespace, type TapNamespace } from '../support/namespace.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { start } from '../support/process.ts';
import { BLOCKFERRY_BIN, ROOT } from '../support/root.ts';
import type { Scope } from '../support/scope.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { runGuest } from '../support/uml.ts';
import { waitUntil } from '../support/wait.ts';

const MOVING_PORT = 10809;
const FIRST_PORT = 10810;
const SECOND_PORT = 10811;
const VOLUMES = ['moving', 'named'] as const;
const SIZE_BYTES = 32 * 1024 * 1024;
const SCRIPTS = join(ROOT, 'test', 'clients', 'uml');
const GUEST_MS_MAX = 240_000;

interface Stage {
  readonly dir: string;
  readonly alpha: TestNode;
  readonly beta: TestNode;
  readonly moveAddress: () => Promise<void>;
}

/** How far the loads are: lines of the ledger, rounds of fio. */
function progress(dir: string): { lines: number; rounds: number } {
  const count = (file: string): number => {
    const path = join(dir, file);
    return existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0;
  };
  return { lines: count('lines'), rounds: count('rounds') };
}

/** Both loads did something that began after now. */
async function waitForProgress(what: string, dir: string): Promise<void> {
  const before = progress(dir);
  const after = (): boolean => {
    const now = progress(dir);
    const moved = now.lines >= before.lines + 3 && now.rounds > before.rounds + 1;
    return moved || existsSync(join(dir, 'result'));
  };
  await waitUntil(`the loads to go on ${what}`, after, { timeoutMs: 120_000 });
  expect(existsSync(join(dir, 'result')), 'a load ended').toBe(false);
}

async function drill({ dir, alpha, beta, moveAddress }: Stage): Promise<void> {
  await waitUntil(
    'the loads to begin',
    () => existsSync(join(dir, 'stage')) || existsSync(join(dir, 'result')),
    { timeoutMs: 120_000 },
  );
  await waitForProgress('at first', dir);
  await alpha.kill();
  await alpha.start();
  await waitForProgress('after a restart', dir);
  for (const volume of VOLUMES) await alpha.waitInSync(volume);
  await alpha.kill();
  for (const volume of VOLUMES) await beta.cli(['promote', volume]);
  await moveAddress();
  await waitForProgress('after a failover', dir);
  writeFileSync(join(dir, 'finish'), '');
}

async function startPair(scope: Scope, { host, prefix }: TapNamespace) {
  const flags = ['--insecure'];
  const at = (port: number): string[] => [`${host}:${port}`];
  const alpha = await startNode(scope, { name: 'alpha', nbd: at(FIRST_PORT), flags, prefix });
  const beta = await startNode(scope, { name: 'beta', nbd: at(SECOND_PORT), flags, prefix });
  for (const name of VOLUMES) {
    await alpha.createVolume(name, String(SIZE_BYTES));
    await beta.request('POST', '/v1/volumes', {
      name,
      size: String(SIZE_BYTES),
      mirror_of: 'alpha',
    });
    await alpha.addMirror(name, beta.uri(name), 'sync');
    await alpha.waitInSync(name);
  }
  return { alpha, beta };
}

it('keeps devices in use through a restart and a failover of their server', async (context) => {
  requireTools(context, 'linux.uml', 'nbd-client', 'insmod', 'ip', 'fio', 'mkfs.ext4', 'e2fsck');
  requireRoot(context, 'network namespaces');
  const scope = testScope();
  const namespace = await tapNamespace(scope);
  const { host } = namespace;
  const { alpha, beta } = await startPair(scope, namespace);
  const [command = '', ...prefix] = namespace.prefix;
  const script = ['/usr/bin/python3', '-B', join(SCRIPTS, 'switch_proxy.py')];
  const ports = [MOVING_PORT, host, FIRST_PORT, SECOND_PORT].map(String);
  const proxy = start(scope, command, [...prefix, ...script, host, ...ports]);
  await waitUntil('the proxy', () => proxy.stdout.includes('ready'));
  const moveAddress = async (): Promise<void> => {
    proxy.signal('SIGUSR1');
    await waitUntil('the address to move', () => proxy.stdout.includes('switched'));
  };

  const dir = scope.tempDir('bf-uml-');
  const guest = runGuest(scope, {
    namespace,
    init: join(SCRIPTS, 'guest-attach.sh'),
    dir,
    timeoutMs: GUEST_MS_MAX,
    parameters: {
      BF_DIR: dir,
      BF_GUEST: namespace.guest,
      BF_PREFIX: namespace.prefixLength,
      BF_HOST: host,
      BF_NODE: process.execPath,
      BF_BIN: BLOCKFERRY_BIN,
      BF_MOVING: MOVING_PORT,
      BF_FIRST: FIRST_PORT,
      BF_SECOND: SECOND_PORT,
    },
  });
  const [result] = await Promise.all([guest, drill({ dir, alpha, beta, moveAddress })]);
  const kernel = readFileSync(join(dir, 'guest-dmesg.log'), 'utf8');
  const said = readFileSync(join(dir, 'guest.log'), 'utf8');
  expect(result).toBe('passed');
  expect(kernel).not.toMatch(/I\/O error|EXT4-fs error/i);
  // What was synced is there, line for line: those before the failover, too.
  const { lines } = progress(dir);
  expect(Number(readFileSync(join(dir, 'written'), 'utf8'))).toBe(lines);
  // The mirror that was not promoted yet was passed over.
  expect(said).toContain(
    `:${SECOND_PORT}/named is read-only: it is a mirror that was not promoted`,
  );
  expect(said).toContain(`/dev/nbd1 has a new connection to nbd://${host}:${SECOND_PORT}/named`);
  expect(said).toContain(`/dev/nbd0 is attached to nbd://${host}:${MOVING_PORT}/moving\n`);
  const { devices } = JSON.parse(readFileSync(join(dir, 'list.json'), 'utf8')) as {
    devices: unknown;
  };
  const facts = { size_bytes: SIZE_BYTES, read_only: false, users: [] };
  expect(devices).toEqual([
    { device: '/dev/nbd0', uri: `nbd://${host}:${MOVING_PORT}/moving`, ...facts },
    { device: '/dev/nbd1', uri: `nbd://${host}:${FIRST_PORT}/named`, ...facts },
  ]);
}, 300_000);
