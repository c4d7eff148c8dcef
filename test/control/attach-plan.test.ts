/*
 * What `blockferry attach` would do, without doing it: which device it takes, which command of nbd-client, and what it makes of
 * that program's words. The words are those of nbd-client 3.24.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { attachedDevices, renderAttached } from '../../src/cli/attach/attach-list.ts';
import {
  canPersist,
  chooseDevice,
  explainNbdClient,
  nbdClientArguments,
  nbdClientVersion,
  parseDevice,
  shellWords,
  type AttachWishes,
} from '../../src/cli/attach/attach-plan.ts';
import { AttachRecords } from '../../src/io/kernel/attach-records.ts';
import { BlockferryError, type ErrorCode } from '../../src/io/errors.ts';
import type { KernelDevice } from '../../src/io/kernel/kernel-devices.ts';
import { parseNbdUri } from '../../src/nbd/uri/uri.ts';
import { testScope } from '../support/tools.ts';

const FREE: KernelDevice = {
  index: 0,
  attached: false,
  sizeBytes: 0,
  readOnly: false,
  backend: null,
  pid: null,
  users: [],
};
const taken = (index: number, more: Partial<KernelDevice> = {}): KernelDevice => ({
  ...FREE,
  index,
  attached: true,
  sizeBytes: 2 ** 30,
  pid: 700 + index,
  ...more,
});
const PLAIN: AttachWishes = {
  connections: 1,
  timeoutSeconds: null,
  persist: false,
  deadSeconds: 60,
};
const command = (uri: string, wishes: Partial<AttachWishes> = {}) =>
  shellWords(nbdClientArguments(parseNbdUri(uri), '/dev/nbd0', { ...PLAIN, ...wishes }));

const view = (...devices: KernelDevice[]) => ({ driver: true, devices });
const persists = (version: string): boolean =>
  canPersist(nbdClientVersion(`This is nbd-client, from nbd ${version}`));

function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof BlockferryError) return error.line;
    throw error;
  }
  return 'no refusal';
}

describe('a device', () => {
  test('has one name, with or without its directory', () => {
    expect(
      ['/dev/nbd0', 'nbd12', 'nbd', '/dev/sda', 'nbd01', '/dev/nbd9999'].map(parseDevice),
    ).toEqual([0, 12, null, null, null, null]);
  });

  test('is the first that is free, and may not be there yet', () => {
    expect(chooseDevice(view(taken(0), { ...FREE, index: 1 }), null)).toBe(1);
    expect(chooseDevice(view(taken(0), taken(1)), null)).toBe(2);
    expect(chooseDevice(view(), 7)).toBe(7);
  });

  test('that is in use is refused with who uses it', () => {
    const devices = [
      taken(0, { backend: 'nbd://a:10809/v', users: ['mounted at /srv'] }),
      taken(1),
    ];
    expect(refusal(() => chooseDevice({ driver: true, devices }, 0))).toContain(
      '/dev/nbd0 is in use: attached to nbd://a:10809/v, mounted at /srv',
    );
    expect(refusal(() => chooseDevice({ driver: true, devices }, 1))).toMatch(
      /a server that process 701 knows.*\[NBD_DEVICE_BUSY\]$/,
    );
  });

  test('needs a driver', () => {
    expect(refusal(() => chooseDevice({ driver: false, devices: [] }, null))).toMatch(
      /modprobe nbd.*\[NBD_MODULE_MISSING\]$/,
    );
  });
});

describe('the command of nbd-client', () => {
  test('names the server, the device and the export', () => {
    expect(command('nbd://host2/demo')).toBe('host2 10809 /dev/nbd0 -name demo');
    expect(command("nbd://[::1]:99/it's%20mine@monday")).toBe(
      String.raw`::1 99 /dev/nbd0 -name 'it'\''s mine@monday'`,
    );
    expect(command('nbd+unix:///demo?socket=/run/nbd.sock')).toBe(
      '-unix /run/nbd.sock /dev/nbd0 -name demo',
    );
  });

  test('has what was wished for', () => {
    expect(command('nbd://h/v', { connections: 4, timeoutSeconds: 20 })).toBe(
      'h 10809 /dev/nbd0 -name v -connections 4 -timeout 20',
    );
    expect(command('nbd://h/v', { persist: true })).toBe(
      'h 10809 /dev/nbd0 -name v -persist -dead-timeout 60',
    );
  });

  test('shows a certificate where there is one', () => {
    const dir = testScope().tempDir();
    const uri = `nbds://h/v?tls-certificates=${dir}`;
    const trust = `h 10809 /dev/nbd0 -name v -enable-tls -cacertfile ${dir}/ca-cert.pem`;
    expect(command(uri)).toBe(`${trust} -tlshostname h`);
    mkdirSync(dir, { recursive: true });
    for (const name of ['client-cert.pem', 'client-key.pem']) writeFileSync(join(dir, name), '');
    expect(command(uri)).toBe(
      `${trust} -certfile ${dir}/client-cert.pem -keyfile ${dir}/client-key.pem -tlshostname h`,
    );
  });

  test('knows no pre-shared keys, and nobody to trust by itself', () => {
    expect(refusal(() => command('nbds://u@h/v?tls-psk-file=/k'))).toContain('[ATTACH_TLS]');
    expect(refusal(() => command('nbds://h/v'))).toContain('does not say whom to trust');
  });

  test('can wait for servers since 3.27', () => {
    expect(['3.24', '3.26.1', '3.27.0', '3.28', '4.0', 'new'].map(persists)).toEqual([
      false,
      false,
      true,
      true,
      true,
      false,
    ]);
  });
});

describe('the words of nbd-client', () => {
  test.each<[string, ErrorCode]>([
    ['Error: Socket failed: Connection refused', 'ATTACH_SERVER'],
    ['Error: CONNECT failed', 'ATTACH_SERVER'],
    ['getaddrinfo failed: Name or service not known\nExiting.', 'ATTACH_SERVER'],
    [
      'Negotiation: ..Error: Unknown error returned by server. Server said: no export "nope"\nExiting.',
      'ATTACH_SERVER',
    ],
    ['Negotiation: ..Error: TLS handshake failed: The certificate is NOT trusted', 'ATTACH_TLS'],
    [
      "Error: Couldn't resolve the nbd netlink family, make sure the nbd module is loaded and your nbd driver supports the netlink interface.\n\nExiting.",
      'NBD_MODULE_MISSING',
    ],
    [
      'Negotiation: ..size = 64MB\nError: Failed to setup device, check dmesg\n\nExiting.',
      'ATTACH_FAILED',
    ],
    ['', 'ATTACH_FAILED'],
  ])('%j is %s', (output, code) => {
    const error = explainNbdClient(output, parseNbdUri('nbd://h/v'), '/dev/nbd0');
    expect(error.code).toBe(code);
    expect(error.message).not.toContain('Exiting');
    expect(error.message).not.toContain('\n');
  });
});

describe('the list of what is attached', () => {
  test('has what the kernel keeps, and what was written down for this attachment', () => {
    const records = new AttachRecords(join(testScope().tempDir(), 'attached'));
    records.write(1, 701, 'nbd://b:10809/two');
    records.write(2, 1, 'nbd://c:10809/of-before');
    const devices = [
      taken(0, { backend: 'nbd://a:10809/one', users: ['swap'] }),
      taken(1, { readOnly: true }),
      taken(2),
      { ...FREE, index: 3 },
    ];
    expect(renderAttached(attachedDevices(devices, records))).toBe(
      [
        'DEVICE     SIZE     ACCESS      USED  ATTACHED TO',
        '/dev/nbd0  1.0 GiB  read-write  swap  nbd://a:10809/one',
        '/dev/nbd1  1.0 GiB  read-only   -     nbd://b:10809/two',
        '/dev/nbd2  1.0 GiB  read-write  -     -',
        '',
      ].join('\n'),
    );
    records.forget(1);
    expect(records.uriOf(taken(1))).toBeNull();
    expect(renderAttached([])).toContain('nothing is attached');
  });
});
