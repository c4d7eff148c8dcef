/*
 * What the kernel shows of its network block devices, read from a copy of /sys and /proc: attached or not, to what, and who
 * uses them.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  isAttached,
  mountsByDevice,
  processName,
  readKernelDevices,
} from '../../src/io/kernel/kernel-devices.ts';
import { testScope } from '../support/tools.ts';

function tree(files: Readonly<Record<string, string>>): string {
  const root = testScope().tempDir();
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

const FREE = {
  'sys/block/nbd1/size': '0\n',
  'sys/block/nbd1/ro': '0\n',
  'sys/block/nbd1/dev': '43:32\n',
};
const ATTACHED = {
  'sys/block/nbd0/size': '131072\n',
  'sys/block/nbd0/ro': '0\n',
  'sys/block/nbd0/dev': '43:0\n',
  'sys/block/nbd0/pid': '746\n',
  'sys/block/nbd0/backend': 'nbd://host1:10809/demo\n',
};

describe('the devices of the kernel', () => {
  test('are free, or attached to what they were told', () => {
    const view = readKernelDevices(tree({ ...ATTACHED, ...FREE, 'sys/block/loop0/size': '1\n' }));
    expect(view).toEqual({
      driver: true,
      devices: [
        {
          index: 0,
          attached: true,
          sizeBytes: 64 * 2 ** 20,
          readOnly: false,
          backend: 'nbd://host1:10809/demo',
          pid: 746,
          users: [],
        },
        {
          index: 1,
          attached: false,
          sizeBytes: 0,
          readOnly: false,
          backend: null,
          pid: null,
          users: [],
        },
      ],
    });
  });

  test('are used by mounts, swap and other devices, their partitions too', () => {
    const root = tree({
      ...ATTACHED,
      'sys/block/nbd0/nbd0p1/dev': '43:1\n',
      'sys/block/nbd0/nbd0p2/dev': '43:2\n',
      'sys/block/nbd0/nbd0p2/holders/dm-0/dev': '253:0\n',
      'proc/self/mountinfo': '36 35 43:1 / /srv/my\\040data rw - ext4 /dev/nbd0p1 rw\n',
      'proc/swaps': 'Filename\tType\tSize\n/dev/nbd0 partition 65532\n',
    });
    expect(readKernelDevices(root).devices[0]?.users).toEqual([
      'swap',
      'mounted at /srv/my data',
      'part of dm-0',
    ]);
  });

  test('are none where there is no driver', () => {
    expect(readKernelDevices(tree({ 'sys/block/sda/size': '8\n' }))).toEqual({
      driver: false,
      devices: [],
    });
    expect(readKernelDevices(tree({ 'sys/module/nbd/refcnt': '0\n' })).driver).toBe(true);
    expect(readKernelDevices(join(tree({}), 'nowhere'))).toEqual({ driver: false, devices: [] });
  });

  test('say that they are attached while they have a pid', () => {
    const root = tree({ ...ATTACHED, ...FREE, 'proc/746/comm': 'node\n' });
    expect([isAttached(0, root), isAttached(1, root), isAttached(2, root)]).toEqual([
      true,
      false,
      false,
    ]);
    expect([processName(746, root), processName(747, root)]).toEqual(['node', null]);
  });

  test('are mounted at several places', () => {
    const lines = '1 0 43:0 / /a rw - ext4 x rw\n2 0 43:0 /sub /b rw - ext4 x rw\nnonsense\n';
    expect(mountsByDevice(lines)).toEqual(new Map([['43:0', ['/a', '/b']]]));
  });
});
