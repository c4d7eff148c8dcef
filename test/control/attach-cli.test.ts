/*
 * `blockferry attach` at the command line, up to the point where the kernel comes in: where it finds the volume, what it would run,
 * and the one line that says what is missing. Real processes.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { attach as attachHere, type AttachFlags } from '../../src/cli/attach/attach-run.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { BLOCKFERRY_BIN } from '../support/root.ts';
import { Scope } from '../support/scope.ts';

const scope = new Scope();
let node: TestNode;

beforeAll(async () => {
  node = await startNode(scope, { name: 'alpha', nbd: ['127.0.0.1:0'] });
  await node.createVolume('demo', '4M');
  await node.cli(['snapshot', 'create', 'demo', 'monday']);
});
afterAll(() => scope.close());

const attach = (...words: string[]) => node.cli(['attach', ...words]);
/** The line that it ends with, and its exit code. */
async function refusal(...words: string[]): Promise<string> {
  const { code, stderr, stdout } = await node.cli(words, { allowFailure: true });
  return `${stdout}${String(code)} ${stderr}`;
}

describe('blockferry attach', () => {
  test('finds a volume and a snapshot at the nearest address of the node', async () => {
    const command = `nbd-client -unix ${node.nbdSocket} /dev/nbd7 -name`;
    expect((await attach('demo', '/dev/nbd7', '--print')).stdout).toBe(`${command} demo\n`);
    expect((await attach('demo@monday', 'nbd7', '--print')).stdout).toBe(
      `${command} demo@monday\n`,
    );
  });

  test('asks no node when it is told where the volume is', async () => {
    const words = [
      'attach',
      'demo',
      '/dev/nbd7',
      '--uri',
      'nbd://host2/demo',
      '--connections',
      '4',
      '--print',
    ];
    const nowhere = ['--control', `unix:${join(node.dir, 'nowhere')}`];
    const { stdout } = await run(process.execPath, [BLOCKFERRY_BIN, ...words, ...nowhere]);
    expect(stdout).toBe('nbd-client host2 10809 /dev/nbd7 -name demo -connections 4\n');
  });

  test.each([
    [['nope', '--print'], 'VOLUME_NOT_FOUND'],
    [['demo@friday', '--print'], 'SNAPSHOT_NOT_FOUND'],
    [['demo', '--print', '--uri', 'nbds://host2/demo'], 'ATTACH_TLS'],
  ])('%j is refused: %s', async (words, code) => {
    expect(await refusal('attach', ...words)).toMatch(
      new RegExp(`^1 blockferry: [^\\n]*\\[${code}\\]\\n$`),
    );
  });

  test('says that no node answers', async () => {
    const args = [
      BLOCKFERRY_BIN,
      'attach',
      'demo',
      '--control',
      `unix:${join(node.dir, 'nowhere')}`,
    ];
    const { stderr } = await run(process.execPath, args, { allowFailure: true });
    expect(stderr).toMatch(/^blockferry: no node answers at [^\n]*\[CONTROL_UNREACHABLE\]\n$/);
  });

  test.each<[string | undefined, string | undefined, AttachFlags]>([
    [undefined, undefined, {}],
    ['demo', '/dev/sda', {}],
    ['demo', undefined, { connections: '0' }],
    ['demo', undefined, { connections: '17' }],
    ['demo', undefined, { persist: true, timeout: '1.5' }],
    ['demo', undefined, { wait: '5' }],
    ['demo', undefined, { foreground: true }],
    ['demo', undefined, { uri: ['nbd://a/other'] }],
    ['demo', undefined, { uri: ['nbd://a/demo', 'nbd://b/demo'] }],
    ['demo', undefined, { uri: ['nbd://a/demo', 'nbd://b/demo'], persist: true, connections: '2' }],
    ['demo', undefined, { uri: Array.from({ length: 9 }, () => 'nbd://a/demo'), persist: true }],
    ['demo', undefined, { uri: ['nbd+unix:///demo?socket=relative.sock'] }],
  ])('of %j to %j with %j is wrong usage', async (volume, device, flags) => {
    await expect(attachHere(volume, device, flags)).rejects.toMatchObject({ code: 'USAGE' });
  });

  test('detaches nothing that is not attached', async () => {
    expect(await refusal('detach', 'no-such-volume')).toMatch(
      /^1 .*\[NBD_DEVICE_NOT_ATTACHED\]\n$/,
    );
  });
});
