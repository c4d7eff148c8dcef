/**
 * `mirror verify` under full load finds no difference where there is none. When the files of the mirror were changed behind
 * its back while it was down, it finds exactly that, and `--repair` mends it.
 */
import { closeSync, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { endLoad, FERRY_TEST, FerryRig, MIB, VOLUME } from './ferry-rig.ts';

const SIZE = 64 * MIB;
/** No load writes here. */
const QUIET_FROM = 48 * MIB;
const SPOILT_AT = 50 * MIB;
const SPOILT_BYTES = 8192;

/** Inverts bytes of the mirror in every file of its layers that has data there. */
function spoil(dataDirectory: string): void {
  const volumes = join(dataDirectory, 'volumes');
  let spoilt = 0;
  for (const id of readdirSync(volumes)) {
    for (const file of readdirSync(join(volumes, id))) {
      if (!file.endsWith('.data')) continue;
      const descriptor = openSync(join(volumes, id, file), 'r+');
      const bytes = Buffer.alloc(SPOILT_BYTES);
      readSync(descriptor, bytes, 0, SPOILT_BYTES, SPOILT_AT);
      if (bytes.some((byte) => byte !== 0)) {
        for (const [index, byte] of bytes.entries()) bytes[index] = byte ^ 0xff;
        writeSync(descriptor, bytes, 0, SPOILT_BYTES, SPOILT_AT);
        spoilt++;
      }
      closeSync(descriptor);
    }
  }
  expect(spoilt).toBeGreaterThan(0);
}

test('no false alarm under load, and a true one', FERRY_TEST, async (context) => {
  requireTools(context, 'fio', 'nbdcopy');
  const rig = await FerryRig.inStep(testScope(), { sizeBytes: SIZE, lanes: 4 });
  await rig.fill(0, SIZE);
  await rig.settle();
  const load = rig.load([`--size=${QUIET_FROM}`, '--rate_iops=0', '--iodepth=32']);
  for (let round = 0; round < 2; round++) {
    const { code, stdout } = await rig.alpha.attempt(['mirror', 'verify', VOLUME]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: '64.0 MiB compared, no difference\n' });
  }

  await rig.beta.stop();
  spoil(rig.beta.dataDirectory);
  await rig.beta.start();
  await rig.waitMirror('streaming', ({ state }) => state === 'streaming');
  const repair = await rig.alpha.attempt(['mirror', 'verify', VOLUME, '--repair']);
  expect(repair.code).toBe(1);
  expect(repair.stdout).toBe(
    `64.0 MiB compared, 8.0 KiB differ; they are sent again\n  ${SPOILT_BYTES} bytes from byte ${SPOILT_AT} on\n`,
  );
  await endLoad(load);
  await rig.settle();
  const { code } = await rig.alpha.attempt(['mirror', 'verify', VOLUME]);
  expect(code).toBe(0);
  await rig.expectEqual();
});
