/**
 * The volume `v` of nodes in this process, as tests of failover see it: pieces of it are written with qemu-io and its content is read
 * with nbdcopy, which are not ours.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { VolumeStatus } from '../../src/control/status.ts';
import { run } from '../support/process.ts';
import { waitUntil } from '../support/wait.ts';
import type { LocalNode } from './fixture.ts';

export const PIECE: number = 64 * 1024;

export function showOf({ client }: LocalNode): Promise<VolumeStatus> {
  return client.call<VolumeStatus>('GET', '/v1/volumes/v');
}

/** Fills one piece of the volume with a byte, and flushes. */
export async function write(node: LocalNode, piece: number, byte: number): Promise<void> {
  const command = `write -P ${byte} ${piece * PIECE} ${PIECE}`;
  await run('qemu-io', ['-f', 'raw', '-c', command, '-c', 'flush', node.uri('v')]);
}

/** `dir`: where it may put a file. `name`: of an export. */
export async function contentOf(node: LocalNode, dir: string, name = 'v'): Promise<Buffer> {
  await run('nbdcopy', [node.uri(name), join(dir, 'out')]);
  return readFileSync(join(dir, 'out'));
}

/** Resolves when so many mirrors of the node's volume have everything, and the others do not. */
export async function inStep(node: LocalNode, count = 1): Promise<void> {
  await waitUntil('the mirrors to have everything', async () => {
    const { mirrors } = await showOf(node);
    const whole = mirrors.filter(
      ({ state, dirty_bytes, suspect_bytes, staged_bytes }) =>
        state === 'streaming' && dirty_bytes + suspect_bytes + staged_bytes === 0,
    );
    return whole.length === count;
  });
}
