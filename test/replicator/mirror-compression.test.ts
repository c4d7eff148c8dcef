/**
 * Whether a mirror may be sent compressed payloads: chosen when it is added, or later, in force at once and over a restart.
 * Method: the real replicator, and a mirror on another node over real sockets; nothing is slow, so nothing is compressed.
 */
import { expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';

const SIZE = 8 * MIB;

it('is as it was chosen, and stays so', async () => {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: SIZE });
  const far = await PeerMirror.start(scope, { sizeBytes: SIZE });
  const { uri } = far;
  const policy = { compress: 'off' as const };
  await rig.device.addMirror({ uri, mode: 'async', stallPolicy: 'degrade', policy });
  expect(rig.status().compression).toEqual({
    mode: 'off',
    active: false,
    ratio: null,
    bytes_in: 0,
    bytes_out: 0,
  });
  await rig.device.setMirror(uri, { lagLimitMs: 5000 });
  const next = await rig.restart();
  expect(next.status().compression.mode).toBe('off');
  await next.device.setMirror(uri, { compress: 'auto' });
  expect(next.status()).toMatchObject({ compression: { mode: 'auto' }, lag_limit_seconds: 5 });
  await next.write(0, stamped(MIB, 3));
  await next.until(
    'in step',
    ({ state, lag_seconds }) => state === 'streaming' && lag_seconds === 0,
  );
  const last = await next.restart();
  expect(last.status()).toMatchObject({ compression: { mode: 'auto' }, lag_limit_seconds: 5 });
  expect(await far.differences(last.expected)).toEqual([]);
});
