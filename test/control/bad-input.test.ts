/**
 * Whatever is wrong is refused in one line on stderr, with the right exit code, and changes nothing. Real
 * processes: one node per file, the command line against it, status and events before and after compared.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ControlClient } from '../../src/cli/client.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run, start, type RunResult } from '../support/process.ts';
import { BLOCKFERRY_BIN } from '../support/root.ts';
import { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const scope = new Scope();
let alpha: TestNode;
let beta: TestNode;
let uris: { readonly small: string; readonly absent: string; readonly self: string };

beforeAll(async () => {
  alpha = await startNode(scope, { name: 'alpha' });
  beta = await startNode(scope, { name: 'beta' });
  await alpha.createVolume('demo', '8M');
  await alpha.createVolume('taken', '8M');
  await beta.createVolume('small', '4M');
  await beta.createVolume('demo', '8M');
  await alpha.addMirror('taken', beta.uri('demo'));
  await alpha.waitInSync('taken');
  uris = { small: beta.uri('small'), absent: beta.uri('nothing'), self: alpha.uri('taken') };
});

afterAll(() => scope.close());

async function blockferry(args: readonly string[]): Promise<RunResult> {
  return await run(process.execPath, [BLOCKFERRY_BIN, ...args], { allowFailure: true });
}

function expectRefused(result: RunResult, code: number, line: RegExp): void {
  expect(result.stdout).toBe('');
  expect(result.stderr).toMatch(line);
  expect(result.stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(result.stderr).toMatch(/^blockferry: /);
  expect(result.code).toBe(code);
}

async function everything(): Promise<unknown> {
  const events: string[] = [];
  const client = new ControlClient({ kind: 'unix', path: alpha.controlSocket });
  await client.stream('/v1/events', (line) => events.push(line));
  // How much room there is on the disk is not ours alone.
  const { space: _, ...status } = await alpha.status();
  return [status, events];
}

const NAME = /\[VOLUME_NAME_INVALID\]/;
const SIZE = /\[SIZE_INVALID\]/;
const URI = /\[URI_INVALID\]/;
const UNKNOWN = /there is no volume "gone".*\[VOLUME_NOT_FOUND\]/;

test.each<[string, () => readonly string[], RegExp]>([
  ['a name with a separator', () => ['volume', 'create', 'a/b', '1M'], NAME],
  ['a name with an @', () => ['volume', 'create', 'a@b', '1M'], NAME],
  ['an empty name', () => ['volume', 'create', '', '1M'], NAME],
  ['a parent directory', () => ['volume', 'create', '..', '1M'], NAME],
  ['a control character', () => ['volume', 'create', 'a\nb', '1M'], NAME],
  ['an escape sequence', () => ['volume', 'create', 'a\u001b[2J', '1M'], NAME],
  ['256 bytes of name', () => ['volume', 'create', 'x'.repeat(256), '1M'], NAME],
  ['256 bytes in 128 characters', () => ['volume', 'create', 'ö'.repeat(128), '1M'], NAME],
  ['a name that is taken', () => ['volume', 'create', 'demo', '1M'], /\[VOLUME_EXISTS\]/],
  ['no size', () => ['volume', 'create', 'new', 'big'], SIZE],
  ['an empty size', () => ['volume', 'create', 'new', ''], SIZE],
  ['size zero', () => ['volume', 'create', 'new', '0'], SIZE],
  ['a negative size', () => ['volume', 'create', 'new', '--', '-4096'], SIZE],
  ['half a block', () => ['volume', 'create', 'new', '2K'], SIZE],
  ['a fraction', () => ['volume', 'create', 'new', '1.5G'], SIZE],
  ['an exponent', () => ['volume', 'create', 'new', '1e9'], SIZE],
  ['more than there can be', () => ['volume', 'create', 'new', '9999999P'], SIZE],
  ['resize to nonsense', () => ['volume', 'resize', 'demo', '7'], SIZE],
  ['shrinking', () => ['volume', 'resize', 'demo', '4M'], /\[SHRINK_NEEDS_FORCE\]/],
  ['growing past a mirror', () => ['volume', 'resize', 'taken', '16M'], /\[MIRROR_TOO_SMALL\]/],
  ['an unknown volume, show', () => ['volume', 'show', 'gone'], UNKNOWN],
  ['an unknown volume, resize', () => ['volume', 'resize', 'gone', '8M'], UNKNOWN],
  ['an unknown volume, delete', () => ['volume', 'delete', 'gone', '--force'], UNKNOWN],
  ['an unknown volume, status', () => ['status', 'gone'], UNKNOWN],
  ['an unknown volume, mirror', () => ['mirror', 'add', 'gone', uris.small], UNKNOWN],
  ['deleting with mirrors', () => ['volume', 'delete', 'taken'], /\[VOLUME_HAS_MIRRORS\]/],
  ['no URI', () => ['mirror', 'add', 'demo', 'beta'], URI],
  ['another scheme', () => ['mirror', 'add', 'demo', 'http://127.0.0.1/demo'], URI],
  [
    'TLS that verifies nobody',
    () => ['mirror', 'add', 'demo', 'nbds://127.0.0.1/demo?tls-verify-peer=0'],
    URI,
  ],
  [
    'another machine in clear',
    () => ['mirror', 'add', 'demo', 'nbd://192.0.2.1/demo'],
    /192\.0\.2\.1.* in clear.*\[MIRROR_INSECURE\]/,
  ],
  ['a port that is none', () => ['mirror', 'add', 'demo', 'nbd://127.0.0.1:99999/demo'], URI],
  ['a mirror that is smaller', () => ['mirror', 'add', 'demo', uris.small], /\[MIRROR_TOO_SMALL\]/],
  ['a mirror that refuses', () => ['mirror', 'add', 'demo', uris.absent], /\[MIRROR_REFUSED\]/],
  [
    'a mirror that is not there',
    () => ['mirror', 'add', 'demo', 'nbd://127.0.0.1:1/demo'],
    /\[MIRROR_UNREACHABLE\]/,
  ],
  ['the volume itself as mirror', () => ['mirror', 'add', 'demo', uris.self], /\[MIRROR_SELF\]/],
  [
    'a mirror it has already',
    () => ['mirror', 'add', 'taken', beta.uri('demo')],
    /\[MIRROR_EXISTS\]/,
  ],
  ['a mirror it has not', () => ['mirror', 'pause', 'demo'], /\[MIRROR_NOT_FOUND\]/],
])('%s', async (_what, args, line) => {
  const before = await everything();
  const control = ['--control', `unix:${alpha.controlSocket}`];
  const [room = '', verb = '', ...rest] = args();
  expectRefused(await blockferry([room, verb, ...control, ...rest]), 1, line);
  expect(await everything()).toEqual(before);
});

test.each<[string, readonly string[], RegExp]>([
  ['an unknown verb', ['frobnicate'], /unknown command 'frobnicate'/],
  ['a missing argument', ['volume', 'create', 'demo'], /missing required argument 'size'/],
  ['an argument too many', ['volume', 'list', 'x'], /too many arguments/],
  ['an unknown flag', ['status', '--loud'], /unknown option '--loud'/],
  ['an unknown mode', ['mirror', 'add', 'a', 'b', '--mode', 'fast'], /Allowed choices are async/],
  ['an unknown log level', ['serve', '--log-level', 'loud'], /Allowed choices are trace/],
  ['a node name with spaces', ['serve', '--name', 'a b'], /\[USAGE\]/],
  [
    'an unknown TLS mode',
    ['serve', '--tls', 'forced'],
    /Allowed choices are off, allowed, required/,
  ],
  [
    'TLS without certificate or keys',
    ['serve', '--tls', 'required'],
    /needs a certificate.*\[USAGE\]/,
  ],
  ['a certificate without key', ['serve', '--tls-certificate', 'c'], /needs its key.*\[USAGE\]/],
  ['a key without certificate', ['serve', '--tls-key', 'k'], /needs its certificate.*\[USAGE\]/],
  ['a CA without certificate', ['serve', '--tls-client-ca', 'c'], /are missing.*\[USAGE\]/],
  ['a value for --no-list', ['serve', '--no-list=yes'], /unknown option|argument/],
  ['an argument to reload', ['reload', 'tls'], /too many arguments/],
])('usage: %s', async (_what, args, line) => {
  expectRefused(await blockferry(args), 2, line);
});

test('a mirror that is read-only', async (context) => {
  requireTools(context, 'nbdkit');
  const own = testScope();
  const socket = join(own.tempDir('bf-ro-'), 'ro.sock');
  start(own, 'nbdkit', ['-f', '-r', '-U', socket, 'memory', '8M']);
  await waitUntil('nbdkit to listen', () => existsSync(socket));
  const before = await everything();
  const add = ['mirror', 'add', 'demo', `nbd+unix:///?socket=${socket}`];
  const control = ['--control', `unix:${alpha.controlSocket}`];
  expectRefused(await blockferry([...add, ...control]), 1, /\[MIRROR_READ_ONLY\]/);
  expect(await everything()).toEqual(before);
});

const NEWER = 'blockferry 999\n';

test.each<[string, (dir: string) => readonly string[], RegExp]>([
  [
    'a data directory in use',
    () => ['--data', alpha.data],
    /is in use by another process.*\[DATA_DIR_IN_USE\]/,
  ],
  [
    'a data directory of a newer format',
    (dir) => {
      mkdirSync(join(dir, 'data'));
      writeFileSync(join(dir, 'data', 'format'), NEWER);
      return ['--data', join(dir, 'data')];
    },
    /\[DATA_DIR_FORMAT_NEWER\]/,
  ],
  [
    'a data directory that is a file',
    (dir) => {
      writeFileSync(join(dir, 'data'), '');
      return ['--data', join(dir, 'data')];
    },
    /\[DATA_DIR_UNUSABLE\]/,
  ],
  [
    'a socket in use',
    (dir) => ['--data', join(dir, 'data'), '--nbd', `unix:${alpha.nbdSocket}`],
    /cannot listen on .*\[ADDRESS_IN_USE\]/,
  ],
  [
    'a control socket in use',
    (dir) => ['--data', join(dir, 'data'), '--control', `unix:${alpha.controlSocket}`],
    /cannot listen on .*\[ADDRESS_IN_USE\]/,
  ],
  [
    'a file in the place of a socket',
    (dir) => {
      writeFileSync(join(dir, 'nbd.sock'), 'precious');
      return ['--data', join(dir, 'data'), '--nbd', `unix:${join(dir, 'nbd.sock')}`];
    },
    /\[ADDRESS_UNAVAILABLE\]/,
  ],
  [
    'an address of another host',
    (dir) => ['--data', join(dir, 'data'), '--nbd', '192.0.2.1:10809', '--insecure'],
    /\[ADDRESS_UNAVAILABLE\]/,
  ],
  [
    'an address for strangers',
    (dir) => ['--data', join(dir, 'data'), '--nbd', '0.0.0.0:0'],
    /\[INSECURE_ADDRESS\]/,
  ],
  ['no address', (dir) => ['--data', join(dir, 'data'), '--nbd', '10809'], /\[ADDRESS_INVALID\]/],
  [
    'an unknown key in the configuration',
    (dir) => {
      writeFileSync(join(dir, 'bf.toml'), '# mine\ncompression = true\n');
      return ['--config', join(dir, 'bf.toml')];
    },
    /bf\.toml:2: unknown key "compression".*\[CONFIG_INVALID\]/,
  ],
  [
    'a wrong value in a table of the configuration',
    (dir) => {
      writeFileSync(join(dir, 'bf.toml'), '[export.demo]\nallow = ["10.0.0.1/8"]\n');
      return ['--config', join(dir, 'bf.toml')];
    },
    /bf\.toml:2: export\.demo\.allow\[0\]: .*10\.0\.0\.0\/8.*\[CONFIG_INVALID\]/,
  ],
  [
    'a socket for a user who is not there',
    (dir) => {
      const nbd = `nbd = [{ address = "unix:n.sock", owner = "nobody-of-that-name" }]\n`;
      writeFileSync(join(dir, 'bf.toml'), nbd);
      return ['--config', join(dir, 'bf.toml'), '--data', join(dir, 'data')];
    },
    /bf\.toml:1: nbd\[0\]\.owner: there is no user "nobody-of-that-name".*\[CONFIG_INVALID\]/,
  ],
  [
    'a certificate that is not there',
    (dir) => ['--data', join(dir, 'data'), '--tls-certificate', join(dir, 'c'), '--tls-key', 'k'],
    /cannot use .*: there is no such file.*\[TLS_INVALID\]/,
  ],
  [
    'a file of keys that is none',
    (dir) => {
      writeFileSync(join(dir, 'psk'), 'ann=c0ffee\n');
      return ['--data', join(dir, 'data'), '--tls-psk', join(dir, 'psk')];
    },
    /cannot use .*psk for TLS: .*\[TLS_INVALID\]/,
  ],
  [
    'an address for strangers where TLS is only allowed',
    (dir) => {
      writeFileSync(join(dir, 'psk'), `ann:${'c0ffee'.repeat(8)}\n`);
      return ['--data', join(dir, 'data'), '--tls-psk', join(dir, 'psk'), '--nbd', '0.0.0.0:0'];
    },
    /TLS is not required there.*\[INSECURE_ADDRESS\]/,
  ],
  [
    'a configuration that is not there',
    (dir) => ['--config', join(dir, 'gone.toml')],
    /\[CONFIG_INVALID\]/,
  ],
])('serve: %s', async (_what, flags, line) => {
  const before = await everything();
  const own = new Scope();
  try {
    const dir = own.tempDir('bf-bad-');
    const given = flags(dir);
    const sockets = given.includes('--nbd') ? [] : ['--nbd', `unix:${join(dir, 'own.sock')}`];
    expectRefused(await blockferry(['serve', ...sockets, ...given]), 1, line);
  } finally {
    await own.close();
  }
  expect(await everything()).toEqual(before);
});

test('a node that is not there', async () => {
  const gone = join(scope.tempDir('bf-gone-'), 'control.sock');
  const args = ['status', '--control', `unix:${gone}`];
  expectRefused(await blockferry(args), 1, /\[CONTROL_UNREACHABLE\]/);
});
