/**
 * The tables of the configuration: listeners with rights, TLS, limits, exports. What they mean, and one exact
 * line for whatever is wrong in them. Pure: files are text.
 */
import { describe, expect, test } from 'vitest';
import {
  resolveConfig,
  type ConfigFlags,
  type NodeConfig,
} from '../../src/control/config/config.ts';
import { EXPORT_POLICY_DEFAULT } from '../../src/control/exports/export-rules.ts';
import { uriAt } from '../../src/control/config/replication-config.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import { NBD_LIMITS_DEFAULT } from '../../src/nbd/server/server-limits.ts';

const FILES: Readonly<Record<string, string>> = {
  '/etc/passwd': 'root:x:0:0::/root:/bin/sh\nann:x:1001:1002::/home/ann:/bin/sh\n',
  '/etc/group': 'root:x:0:\ndisk:x:6:ann\n',
};

function read(text: string, flags: ConfigFlags = {}): NodeConfig {
  return resolveConfig(
    { config: '/etc/bf/node.toml', ...flags },
    {
      environment: {},
      home: '/home/ann',
      hostname: 'host1',
      isRoot: false,
      readFile: (path) => Buffer.from(FILES[path] ?? text),
    },
  );
}

function refusal(text: string, flags: ConfigFlags = {}): string {
  try {
    read(text, flags);
  } catch (error) {
    if (error instanceof BlockferryError) return error.line;
    throw error;
  }
  return 'accepted';
}

describe('listeners', () => {
  test('of unix sockets have mode, owner and group, by name or number', () => {
    const { nbd } = read(`nbd = [
      "127.0.0.1:1",
      { address = "unix:a.sock", mode = "0660", owner = "ann", group = "disk" },
      { address = "unix:/run/b.sock", mode = "600", owner = 7, group = "8" },
      { address = "127.0.0.1:2" },
    ]`);
    expect(nbd).toEqual([
      { address: { kind: 'tcp', host: '127.0.0.1', port: 1 }, rights: {} },
      {
        address: { kind: 'unix', path: '/etc/bf/a.sock' },
        rights: { mode: 0o660, uid: 1001, gid: 6 },
      },
      { address: { kind: 'unix', path: '/run/b.sock' }, rights: { mode: 0o600, uid: 7, gid: 8 } },
      { address: { kind: 'tcp', host: '127.0.0.1', port: 2 }, rights: {} },
    ]);
  });

  test.each([
    [
      'rights of a TCP address',
      '{ address = "127.0.0.1:1", mode = "0600" }',
      /nbd\[0\]: only a unix/,
    ],
    ['a mode that is a number', '{ address = "unix:a", mode = 660 }', /nbd\[0\]\.mode: .*string/],
    ['a mode with more bits', '{ address = "unix:a", mode = "4755" }', /nbd\[0\]\.mode: .*octal/],
    ['no octal digits', '{ address = "unix:a", mode = "0698" }', /nbd\[0\]\.mode: .*octal/],
    [
      'an unknown user',
      '{ address = "unix:a", owner = "eve" }',
      /nbd\[0\]\.owner: .*"eve".*passwd/,
    ],
    [
      'an unknown group',
      '{ address = "unix:a", group = "eve" }',
      /nbd\[0\]\.group: .*"eve".*group/,
    ],
    [
      'an id too large',
      '{ address = "unix:a", owner = 4294967295 }',
      /nbd\[0\]\.owner: .*no user id/,
    ],
    [
      'an unknown key',
      '{ address = "unix:a", rights = "x" }',
      /key "rights" in nbd\[0\]; known are address, /,
    ],
    ['no address', '{ mode = "0600" }', /nbd\[0\]\.address: /],
    [
      'a wrong address',
      '{ address = "here" }',
      /nbd\[0\]: bad address "here".*\[ADDRESS_INVALID\]/,
    ],
  ])('are refused with %s', (_what, entry, line) => {
    const text = refusal(`name = "a"\nnbd = [${entry}]\n`);
    expect(text).toMatch(/^\/etc\/bf\/node\.toml:2: /);
    expect(text).toMatch(line);
  });
});

const PAIR = 'certificate = "c.pem"\nkey = "/k.pem"\n';
const PAIR_FLAGS: ConfigFlags = { tlsCertificate: 'c', tlsKey: 'k' };

describe('TLS', () => {
  test('is off, or allowed where there is something to do it with, or as told', () => {
    expect(read('').tls.mode).toBe('off');
    expect(read(`[tls]\n${PAIR}`).tls).toEqual({
      mode: 'allowed',
      files: { certificate: '/etc/bf/c.pem', key: '/k.pem' },
    });
    expect(read('[tls]\npsk_file = "p"\nmode = "required"\n').tls).toEqual({
      mode: 'required',
      files: { pskFile: '/etc/bf/p' },
    });
    expect(read(`[tls]\nmode = "off"\n${PAIR}`).tls.mode).toBe('off');
  });

  test('toward mirrors has files of its own, and none of the server', () => {
    expect(read(`[tls]\n${PAIR}`).tlsClient).toBeNull();
    const text = `[tls_client]\nca = "ca.pem"\n${PAIR}psk_file = "/p"\n`;
    expect(read(text).tlsClient).toEqual({
      ca: '/etc/bf/ca.pem',
      certificate: '/etc/bf/c.pem',
      key: '/k.pem',
      pskFile: '/p',
    });
    expect(read(text).tls).toEqual({ mode: 'off', files: {} });
    expect(refusal('[tls_client]\nkey = "k"\n')).toMatch(/toml:1: tls_client: a key needs its/);
    expect(refusal('[tls_client]\ncertificate = "c"\n')).toMatch(/a certificate needs its key/);
    expect(refusal('[tls_client]\nmode = "off"\n')).toMatch(
      /toml:2: unknown key "mode" in tls_client; known are ca, certificate, key, psk_file;/,
    );
  });

  test('flags override the file, one by one, and their paths are taken as they are', () => {
    const flags: ConfigFlags = { tls: 'required', tlsKey: 'new.pem', tlsClientCa: 'ca.pem' };
    expect(read(`[tls]\nmode = "off"\n${PAIR}`, flags).tls).toEqual({
      mode: 'required',
      files: { certificate: '/etc/bf/c.pem', key: 'new.pem', clientCa: 'ca.pem' },
    });
  });

  test('lets strangers reach the NBD addresses if it is required, and never the control address', () => {
    const nbd = ['0.0.0.0:10809', '[::]:10809'];
    expect(refusal('', { nbd, ...PAIR_FLAGS })).toMatch(
      /TLS is not required.*\[INSECURE_ADDRESS\]/,
    );
    expect(refusal('', { nbd, ...PAIR_FLAGS, tls: 'required' })).toBe('accepted');
    const control = '0.0.0.0:1';
    expect(refusal('', { control, ...PAIR_FLAGS, tls: 'required' })).toMatch(
      /control address.*\[INSECURE_ADDRESS\]/,
    );
  });

  test.each<[string, string, RegExp]>([
    [
      'a certificate without key',
      '[tls]\ncertificate = "c"\n',
      /:1: tls: a certificate needs its key/,
    ],
    [
      'a key without certificate',
      'name = "a"\n[tls]\nkey = "k"\n',
      /:2: tls: a key needs its cert/,
    ],
    [
      'a CA without certificate',
      '[tls]\nclient_ca = "k"\npsk_file = "p"\n',
      /:1: tls: clients show/,
    ],
    ['nothing to do it with', '[tls]\nmode = "required"\n', /:1: tls: mode "required" needs/],
    ['an unknown mode', '[tls]\nmode = "forced"\n', /:2: tls\.mode: .*"required"/],
    [
      'an unknown key',
      `[tls]\n${PAIR}cert = "x"\n`,
      /:4: unknown key "cert" in tls; known are mode, /,
    ],
    ['an empty path', '[tls]\npsk_file = ""\n', /:2: tls\.psk_file: must name a file/],
  ])('is refused with %s', (_what, text, line) => {
    expect(refusal(text)).toMatch(line);
    expect(refusal(text)).toMatch(/\[CONFIG_INVALID\]$/);
  });

  test.each<[string, ConfigFlags]>([
    ['--tls alone', { tls: 'allowed' }],
    ['--tls-certificate alone', { tlsCertificate: 'c' }],
    ['--tls-key alone', { tlsKey: 'k' }],
    ['--tls-client-ca alone', { tlsClientCa: 'k' }],
    ['an unknown --tls', { tls: 'forced', tlsPsk: 'p' }],
  ])('is usage with %s', (_what, flags) => {
    expect(refusal('', flags)).toMatch(/\[USAGE\]$/);
  });
});

describe('limits', () => {
  test('override the defaults one by one, in the units of their names', () => {
    const text = '[limits]\nconnections = 5\nhandshake_seconds = 2\nin_flight_mib = 8\n';
    expect(read(text).limits).toEqual({
      ...NBD_LIMITS_DEFAULT,
      connections: 5,
      handshakeMs: 2000,
      inFlightBytes: 8 * 2 ** 20,
    });
    const rest =
      '[limits]\nconnections_per_client = 1\nhandshakes = 2\noptions = 3\nin_flight_total_mib = 4\n';
    expect(read(rest).limits).toEqual({
      ...NBD_LIMITS_DEFAULT,
      connectionsPerClient: 1,
      handshakes: 2,
      options: 3,
      inFlightBytesTotal: 4 * 2 ** 20,
    });
  });

  test.each([
    'connections = 0',
    'connections_per_client = -1',
    'handshakes = 1.5',
    'handshake_seconds = "10"',
    'handshake_seconds = 1000000',
    'options = 0',
    'in_flight_mib = 0',
    'in_flight_total_mib = 1e99',
  ])('refuse %s', (line) => {
    const [key = ''] = line.split(' ');
    expect(refusal(`\n[limits]\n${line}\n`)).toMatch(new RegExp(`toml:3: limits\\.${key}: `));
  });
});

describe('exports', () => {
  const TLS = `[tls]\n${PAIR}client_ca = "ca"\npsk_file = "p"\n`;

  test('have a rule by name, and one for all others', () => {
    const { exports } = read(`${TLS}
[export."*"]
hidden = true
[export."my disk.1"]
read_only = true
allow = ["10.0.0.0/8", "::1", "unix"]
tls = "required"
subjects = ["CN=host1,O=x", "psk:ann"]
[export.constructor]
[export.__proto__]
read_only = true
`);
    expect(exports.list).toBe(true);
    expect(exports.others).toMatchObject({ hidden: true, readOnly: false });
    expect([...exports.named.keys()]).toEqual(['my disk.1', 'constructor', '__proto__']);
    expect(exports.named.get('my disk.1')).toMatchObject({ readOnly: true, hidden: false });
    expect(exports.named.get('__proto__')).toMatchObject({ readOnly: true });
    expect(exports.named.get('constructor')).toEqual(EXPORT_POLICY_DEFAULT);
  });

  test('are listed unless file or flag say no', () => {
    expect(read('list = false\n').exports.list).toBe(false);
    expect(read('list = false\n', { list: true }).exports.list).toBe(false);
    expect(read('list = true\n', { list: false }).exports.list).toBe(false);
  });

  test.each<[string, string, RegExp]>([
    ['a name no volume can have', '[export."a/b"]\n', /:1: export\."a\/b": .*holds a \//],
    ['an empty name', '[export.""]\n', /:1: export\.""/],
    [
      'an unknown key',
      '[export.a]\nreadonly = true\n',
      /:2: unknown key "readonly" in export\.a; known are read_only,/,
    ],
    ['a wrong type', '[export.a]\nhidden = "no"\n', /:2: export\.a\.hidden: .*boolean/],
    ['no table', 'export = 7\n', /:1: export: must hold tables/],
    ['a table that is none', '[export]\na = 7\n', /:2: export\.a: .*object/],
    [
      'a wrong network',
      '[export.a]\nallow = ["10.0.0.0/8",\n "10.0.0.0/33"]\n',
      /:2: export\.a\.allow\[1\]: .*10\.0\.0\.0\/33/,
    ],
    [
      'a network by name',
      '[export.a]\nallow = ["localhost"]\n',
      /:2: export\.a\.allow\[0\]: .*localhost/,
    ],
    ['nobody allowed', '[export.a]\nallow = []\n', /:2: export\.a\.allow: must name/],
    ['nobody named', '[export.a]\nsubjects = []\n', /:2: export\.a\.subjects: must name/],
    ['another word for TLS', '[export.a]\ntls = "on"\n', /:2: export\.a\.tls: must be "required"/],
    ['TLS where it is off', '[export.a]\ntls = "required"\n', /:2: export\.a\.tls: TLS is off/],
    [
      'subjects where TLS is off',
      '[export."*"]\nsubjects = ["CN=a"]\n',
      /:2: export\."\*"\.subjects: TLS is off/,
    ],
    [
      'subjects without a CA',
      `[export.a]\nsubjects = ["CN=a"]\n[tls]\n${PAIR}`,
      /:2: export\.a\.subjects: "CN=a": clients are not asked/,
    ],
    [
      'keys without a file',
      `[export.a]\nsubjects = ["psk:a"]\n[tls]\n${PAIR}`,
      /:2: export\.a\.subjects: "psk:a": there are no pre/,
    ],
  ])('are refused with %s', (_what, text, line) => {
    const found = refusal(text);
    expect(found).toMatch(line);
    expect(found).toMatch(/^\/etc\/bf\/node\.toml:/);
    expect(found).toMatch(/\[CONFIG_INVALID\]$/);
  });
});

describe('replication', () => {
  const GIB = 2 ** 30;

  test('is set by the file, and on disk by a flag too', () => {
    expect(read('').replication.stagingDiskBytes).toBeNull();
    const text = `[replication]
      address = "nbds://alpha.example"
      bandwidth_limit = "100M"
      staging_memory = "512M"
      staging_disk = "8GiB"
      grace_seconds = 0`;
    const expected = {
      address: 'nbds://alpha.example',
      bandwidthLimit: 100 * 2 ** 20,
      stagingMemoryBytes: GIB / 2,
      stagingDiskBytes: 8 * GIB,
      graceMs: 0,
    };
    expect(read(text).replication).toEqual(expected);
    expect(read(text, { stagingDisk: '64M' }).replication).toEqual({
      ...expected,
      stagingDiskBytes: GIB / 16,
    });
  });

  test.each([
    ['a size that is none', 'staging_disk = "much"', /:2: replication\.staging_disk: must be 64M/],
    ['too little disk', 'staging_disk = "63M"', /:2: replication\.staging_disk: .* to 64G/],
    ['too much disk', 'staging_disk = "65G"', /:2: replication\.staging_disk: must be/],
    ['too narrow', 'bandwidth_limit = "1K"', /:2: replication\.bandwidth_limit: .* 64K to 1T/],
    ['too little memory', 'staging_memory = "1M"', /:2: replication\.staging_memory: .* to 4G/],
    ['too long a grace', 'grace_seconds = 3601', /:2: replication\.grace_seconds: /],
    ['an address that is none', 'address = "alpha"', /:2: replication\.address: /],
    [
      'an address with an export',
      'address = "nbd://a/v"',
      /:2: replication\.address: must name no/,
    ],
    ['another key', 'staging = "1G"', /:2: unknown key "staging" in replication; known are/],
  ])('is refused with %s', (_what, line, expected) => {
    expect(refusal(`[replication]\n${line}\n`)).toMatch(expected);
  });

  test.each([
    ['nbds://alpha.example', 'nbds://alpha.example:10809/a%20b'],
    ['nbd://[fd00::1]:9/', 'nbd://[fd00::1]:9/a%20b'],
    ['nbd+unix:///?socket=/run/b.sock', 'nbd+unix:///a%20b?socket=/run/b.sock'],
  ])('makes the address %s that of a volume', (address, expected) => {
    expect(read(`[replication]\naddress = "${address}"\n`).replication.address).toBe(address);
    expect(uriAt(address, 'a b')).toBe(expected);
  });

  test('is refused with a flag that is no size', () => {
    expect(refusal('', { stagingDisk: '1' })).toMatch(/--staging-disk "1" must be .*\[USAGE\]$/);
  });
});
