/*
 * Volumes into and out of servers that nobody here wrote: nbdkit, qemu-nbd and nbd-server, with their block
 * status and without, with small payloads and large smallest blocks, from node to node; holes are told as such to a
 * target and space is given back; a copy to a server that was killed in the middle goes on where it was. A server
 * that would take a second connection for too many is used with one. Judges: nbdcopy, nbdinfo, cmp, st_blocks and
 * nbdkit's log of requests.
 */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { nbdkit, nbdServer } from '../nbd-client/support/real-servers.ts';
import { nbdinfoMap } from '../support/maps.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run, start } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import {
  homeOf,
  interrupt,
  makeImage,
  MIB,
  refusal,
  spaceOf,
  transferred,
  type Home,
} from '../support/transfer.ts';
import { waitUntil } from '../support/wait.ts';

const SIZE = 48 * MIB;
const DATA = 4 * MIB;

let scope: Scope;
let node: TestNode;
let home: Home;
let dir: string;
let image: string;
let back: string;

beforeEach(async (context) => {
  requireTools(context, 'nbdkit', 'nbdcopy', 'nbdinfo', 'qemu-nbd', 'nbd-server');
  scope = testScope();
  node = await startNode(scope, { name: 'alpha' });
  home = homeOf(scope);
  dir = scope.tempDir();
  [image, back] = [join(dir, 'image'), join(dir, 'back')];
  makeImage(image, SIZE, {
    data: [
      [0, MIB],
      [5 * MIB + 4096, MIB],
      [20 * MIB + 65536, MIB],
      [SIZE - MIB, MIB],
    ],
    zeroes: [[30 * MIB, 4 * MIB]],
  });
});

/** qemu-nbd as it is by default: one client, and it ends with that one. */
async function qemuOnce(file: string): Promise<string> {
  const socket = join(scope.tempDir('bf-qemu-'), 's');
  start(scope, 'qemu-nbd', ['--format=raw', '--discard=unmap', `--socket=${socket}`, file]);
  await waitUntil('qemu-nbd', () => existsSync(socket));
  return `nbd+unix:///?socket=${socket}`;
}

describe('a volume', () => {
  it.each<[string, readonly string[]]>([
    ['as nbdkit has it', []],
    ['without block status', ['--filter=noextents']],
    ['without structured replies', ['--no-sr']],
    ['with payloads of 64 KiB', ['--filter=blocksize-policy', 'blocksize-maximum=65536']],
    [
      'with blocks of 64 KiB',
      [
        '--filter=blocksize-policy',
        'blocksize-minimum=65536',
        'blocksize-preferred=65536',
        'blocksize-error-policy=error',
      ],
    ],
    ['without zeroing', ['--filter=nozero']],
  ])('goes to and comes from an export %s', async (_what, options) => {
    const filters = options.filter((option) => option.startsWith('-'));
    const parameters = options.filter((option) => !option.startsWith('-'));
    const from = await nbdkit(scope, filters, ['file', image, ...parameters]);
    const to = await nbdkit(scope, filters, ['memory', String(SIZE), ...parameters]);
    await transferred(node, home, ['import', 'disk', from.uri.text]);
    expect((await node.volume('disk')).allocated_bytes).toBeLessThanOrEqual(DATA + 5 * 65536);
    // A target that cannot tell may hold something.
    const force = filters.some((option) => /noext|no-sr/.test(option)) ? ['--force'] : [];
    if (force.length > 0) {
      expect(await refusal(node, home, ['export', 'disk', to.uri.text])).toBe('TARGET_NOT_EMPTY');
    }
    await transferred(node, home, ['export', 'disk', to.uri.text, ...force]);
    await run('nbdcopy', [to.uri.text, back]);
    await run('cmp', [image, back]);
    if (force.length > 0) return;
    const data = (await nbdinfoMap(to.uri.text)).filter(({ flags }) => flags === 0);
    const bytes = data.reduce((sum, { length }) => sum + length, 0);
    expect(bytes).toBeLessThanOrEqual(DATA + 5 * 65536);
  });

  it('goes over one connection to a server that takes no second one, and frees what was there', async () => {
    makeImage(back, SIZE, { data: [[0, SIZE]] });
    await transferred(node, home, ['import', 'disk', await qemuOnce(image)]);
    await transferred(node, home, ['export', 'disk', await qemuOnce(back), '--force']);
    await run('cmp', [image, back]);
    expect(spaceOf(back)).toBeLessThan(DATA + MIB);
  });

  it('goes to and comes from a server that knows no options', async () => {
    const empty = join(dir, 'empty');
    writeFileSync(empty, Buffer.alloc(SIZE));
    const from = await nbdServer(scope, image, 'from');
    const to = await nbdServer(scope, empty, 'to');
    await transferred(node, home, ['import', 'disk', from.uri.text]);
    await transferred(node, home, ['export', 'disk', to.uri.text, '--force']);
    await run('cmp', [image, empty]);
    expect((await node.volume('disk')).allocated_bytes).toBeLessThan(DATA + MIB);
  });

  it('goes from node to node, over TCP, into a volume that is larger', async () => {
    const beta = await startNode(scope, { name: 'beta', nbd: ['127.0.0.1:0'] });
    await beta.createVolume('copy', '64M');
    await transferred(node, home, ['import', 'disk', image]);
    const uri = `nbd://${await beta.tcpAddress()}/copy`;
    await transferred(node, home, ['export', 'disk', uri]);
    await transferred(beta, home, ['import', 'again', node.uri('disk')]);
    await transferred(beta, home, ['export', 'again', back]);
    await run('cmp', [image, back]);
    await transferred(beta, home, ['export', 'copy', back, '--force']);
    await run('cmp', ['-n', String(SIZE), image, back]);
    expect((await beta.volume('copy')).allocated_bytes).toBeLessThan(DATA + MIB);
  });
});

describe('a copy to a server', () => {
  it('that was killed goes on where it was, and reads what was copied no second time', async () => {
    makeImage(image, SIZE, { data: [[0, 40 * MIB]] });
    await transferred(node, home, ['import', 'disk', image]);
    const disk = join(dir, 'disk');
    makeImage(disk, SIZE, { data: [] });
    const slow = await nbdkit(scope, ['--filter=rate'], ['file', disk, 'rate=40M']);
    const state = join(home.env['XDG_STATE_HOME'] ?? '', 'blockferry', 'transfers');
    const bookmark = (): string | undefined => {
      const [name] = existsSync(state) ? readdirSync(state) : [];
      return name === undefined ? undefined : join(state, name);
    };
    const args = ['export', 'disk', slow.uri.text];
    const options = { bookmark, bytes: 8 * MIB, signal: 'SIGKILL' } as const;
    const { position } = await interrupt(scope, node, home, args, options);
    await slow.child.stop();
    if (slow.uri.address.kind !== 'unix') throw new Error('a unix socket');
    const socket = slow.uri.address.path;
    const log = join(dir, 'log');
    rmSync(socket);
    start(scope, 'nbdkit', [
      '--foreground',
      '--unix',
      socket,
      '--filter=log',
      'file',
      disk,
      `logfile=${log}`,
    ]);
    await waitUntil('nbdkit', () => existsSync(socket));
    const done = await transferred(node, home, args);
    expect(done).toMatchObject({ skipped_bytes: position });
    const written = [...readFileSync(log, 'utf8').matchAll(/ Write id=\d+ offset=(0x[0-9a-f]+)/g)];
    expect(written.length).toBeGreaterThan(0);
    expect(Math.min(...written.map(([, offset]) => Number(offset)))).toBe(position);
    await run('cmp', [image, disk]);
  });

  it('is refused when it cannot go there, before anything changes', async () => {
    await transferred(node, home, ['import', 'disk', image]);
    const small = await nbdkit(scope, [], ['memory', String(SIZE - 4096)]);
    const readOnly = await nbdkit(scope, ['--readonly'], ['memory', String(SIZE)]);
    const full = await nbdkit(scope, [], ['pattern', `size=${SIZE}`]);
    const beta = await startNode(scope, { name: 'beta' });
    await beta.createVolume('other', '48M');
    await transferred(beta, home, ['import', 'other', image, '--force']);
    const codes = [];
    for (const args of [
      ['export', 'disk', small.uri.text],
      ['export', 'disk', readOnly.uri.text],
      ['export', 'disk', full.uri.text],
      ['export', 'disk', beta.uri('other')],
      ['export', 'disk', beta.uri('none')],
      ['export', 'disk', node.uri('disk')],
      ['import', 'disk', node.uri('disk')],
      ['export', 'disk', 'nbd://127.0.0.1:1/x'],
      ['export', 'disk', 'nbds://127.0.0.1/x'],
      ['import', 'new', 'nbds+unix:///x?socket=/s'],
      ['import', 'new', 'nbd://127.0.0.1:1/x'],
    ]) {
      codes.push(await refusal(node, home, args));
    }
    expect(codes).toEqual([
      'TARGET_TOO_SMALL',
      'TARGET_READ_ONLY',
      'TARGET_READ_ONLY',
      'TARGET_NOT_EMPTY',
      'TRANSFER_PEER',
      'USAGE',
      'USAGE',
      'TRANSFER_PEER',
      'TRANSFER_PEER',
      'TRANSFER_PEER',
      'TRANSFER_PEER',
    ]);
    expect((await node.status()).volumes.map(({ name }) => name)).toEqual(['disk']);
  });

  it('that dies in the middle says so, and names no success', async () => {
    await transferred(node, home, ['import', 'disk', image]);
    const broken = await nbdkit(
      scope,
      ['--filter=error'],
      ['memory', String(SIZE), 'error-pwrite=ENOSPC', 'error-pwrite-rate=100%'],
    );
    expect(await refusal(node, home, ['export', 'disk', broken.uri.text])).toBe('TRANSFER_FAILED');
    const deaf = await nbdkit(
      scope,
      ['--filter=exitlast', '--filter=delay'],
      ['memory', String(SIZE), 'wdelay=10'],
    );
    const asked = refusal(node, home, ['export', 'disk', deaf.uri.text]);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await deaf.child.kill();
    expect(await asked).toBe('TRANSFER_FAILED');
  });
});

describe('a node that requires TLS', () => {
  it('is told apart, before a volume is made', async (context) => {
    requireTools(context, 'psktool');
    const keys = join(dir, 'keys');
    await run('psktool', ['-u', 'host', '-p', keys]);
    const gamma = await startNode(scope, {
      name: 'gamma',
      flags: ['--tls', 'required', '--tls-psk', keys],
    });
    expect(await refusal(gamma, home, ['import', 'disk', image])).toBe('TRANSFER_PEER');
    expect((await gamma.status()).volumes).toEqual([]);
    await gamma.createVolume('disk', '48M');
    expect(await refusal(gamma, home, ['export', 'disk', back])).toBe('TRANSFER_PEER');
    expect(existsSync(back)).toBe(false);
  });
});
