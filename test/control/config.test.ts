/**
 * Configuration: defaults, file, flags, and one exact line for whatever is wrong. Pure: the file is text.
 */
import { describe, expect, test } from 'vitest';
import {
  resolveConfig,
  type ConfigFlags,
  type Surroundings,
} from '../../src/control/config/config.ts';
import { EXPORT_POLICY_DEFAULT } from '../../src/control/exports/export-rules.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import { NBD_LIMITS_DEFAULT } from '../../src/nbd/server/server-limits.ts';

function surroundings(text = '', more: Partial<Surroundings> = {}): Surroundings {
  return {
    environment: {},
    home: '/home/ann',
    hostname: 'host1.example.org',
    isRoot: false,
    readFile: () => Buffer.from(text),
    ...more,
  };
}

function readFile(): Buffer {
  throw new Error('ENOENT: no such file');
}

function fromFile(text: string, flags: ConfigFlags = {}) {
  return resolveConfig({ config: '/etc/bf/node.toml', ...flags }, surroundings(text));
}

function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof BlockferryError) return error.line;
    throw error;
  }
  return 'accepted';
}

describe('configuration', () => {
  test('has a default for everything', () => {
    expect(resolveConfig({}, surroundings())).toEqual({
      name: 'host1',
      data: '/home/ann/.local/share/blockferry',
      nbd: [
        { address: { kind: 'tcp', host: '127.0.0.1', port: 10809 }, rights: {} },
        {
          address: { kind: 'unix', path: '/home/ann/.local/share/blockferry/nbd.sock' },
          rights: {},
        },
      ],
      nbdIsDefault: true,
      control: { kind: 'unix', path: '/home/ann/.local/share/blockferry/control.sock' },
      http: null,
      insecure: false,
      logLevel: 'info',
      tls: { mode: 'off', files: {} },
      tlsClient: null,
      limits: NBD_LIMITS_DEFAULT,
      diskWarnPercent: 10,
      exports: { list: true, named: new Map(), others: EXPORT_POLICY_DEFAULT },
      replication: {
        stagingMemoryBytes: 256 * 2 ** 20,
        stagingDiskBytes: null,
        graceMs: 10_000,
        bandwidthLimit: null,
        address: null,
      },
    });
    expect(resolveConfig({}, surroundings('', { isRoot: true })).data).toBe('/var/lib/blockferry');
    const moved = surroundings('', { environment: { XDG_DATA_HOME: '/srv/ann' } });
    expect(resolveConfig({}, moved).data).toBe('/srv/ann/blockferry');
  });

  test('takes paths of the file relative to the file, and lets flags override', () => {
    const text = 'name = "alpha"\ndata = "vols"\nnbd = ["unix:n.sock", "127.0.0.1:1"]\n';
    expect(fromFile(text, { name: 'beta' })).toMatchObject({
      name: 'beta',
      data: '/etc/bf/vols',
      nbd: [
        { address: { kind: 'unix', path: '/etc/bf/n.sock' } },
        { address: { kind: 'tcp', host: '127.0.0.1', port: 1 } },
      ],
      nbdIsDefault: false,
      control: { kind: 'unix', path: '/etc/bf/vols/control.sock' },
    });
    expect(fromFile(text, { data: 'mine', nbd: ['127.0.0.1:2'] })).toMatchObject({
      data: 'mine',
      nbd: [{ address: { kind: 'tcp', host: '127.0.0.1', port: 2 } }],
      control: { kind: 'unix', path: 'mine/control.sock' },
    });
  });

  test.each([
    ['an unknown key', 'name = "a"\n\ncolour = "red"\n', /node\.toml:3: unknown key "colour"/],
    ['an unknown table', 'name = "a"\n[web]\nport = 1\n', /node\.toml:2: unknown key "web"/],
    ['a wrong type', 'data = "d"\ninsecure = "yes"\n', /node\.toml:2: insecure: .*boolean/],
    [
      'a wrong entry',
      'nbd = ["127.0.0.1:1", 7]\n',
      /node\.toml:1: nbd\[1\]: must be a string ADDR/,
    ],
    ['a wrong level', 'log_level = "loud"\n', /node\.toml:1: log_level: .*"trace"/],
    ['a wrong name', 'name = "a b"\n', /node\.toml:1: name: must be/],
    ['an empty list', 'nbd = []\n', /node\.toml:1: nbd: /],
    ['no TOML', 'name = "a"\nnbd = [\n', /node\.toml:\d+:\d+: /],
    [
      'a wrong address',
      'name = "a"\ncontrol = "nowhere"\n',
      /node\.toml:2: control: bad address "nowhere"/,
    ],
  ])('names file, line and key of %s', (_what, text, line) => {
    const text1 = refusal(() => fromFile(text));
    expect(text1).toMatch(line);
    expect(text1).not.toContain('\n');
  });

  test('says when the file cannot be read', () => {
    const flags = { config: 'gone.toml' };
    expect(refusal(() => resolveConfig(flags, surroundings('', { readFile })))).toMatch(
      /cannot read gone\.toml: ENOENT.*\[CONFIG_INVALID\]/,
    );
  });

  test.each([
    ['nbd', { nbd: ['0.0.0.0:10809'] }],
    ['nbd on v6', { nbd: ['127.0.0.1:1', '[::]:10809'] }],
    ['control', { control: '192.0.2.1:9' }],
    ['a name', { control: 'example.org:9' }],
  ])('refuses to listen for strangers, unless told that it is fine: %s', (_what, flags) => {
    expect(refusal(() => resolveConfig(flags, surroundings()))).toMatch(/\[INSECURE_ADDRESS\]$/);
    expect(refusal(() => resolveConfig({ ...flags, insecure: true }, surroundings()))).toBe(
      'accepted',
    );
  });

  test.each([
    ['--name', { name: 'no spaces' }],
    ['--data', { data: '' }],
    ['--nbd', { nbd: Array.from({ length: 17 }, (_, index) => `127.0.0.1:${index}`) }],
  ])('calls a wrong flag usage: %s', (flag, flags) => {
    const line = refusal(() => resolveConfig(flags, surroundings()));
    expect(line).toMatch(/\[USAGE\]$/);
    expect(line).toContain(flag);
  });
});
