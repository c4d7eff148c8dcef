/**
 * What a mirror does not let its primary do, as operators meet it: set when the mirror is made and changed later, shown on both nodes,
 * in force over a restart; what is refused says what to do, and that works. Real processes and the real command line.
 */
import { expect, test } from 'vitest';
import { startNode, type TestNode } from '../support/node.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const TIMEOUT_MS = 60_000;

async function refused(node: TestNode, args: readonly string[]): Promise<string> {
  const { code, stderr } = await node.cli(args, { allowFailure: true });
  expect(code).toBe(1);
  return stderr;
}

const listed = async (node: TestNode): Promise<string> =>
  (await node.cli(['snapshot', 'list', 'v'])).stdout;

test(
  'a mirror keeps its snapshots and its role from its primary',
  { timeout: TIMEOUT_MS },
  async () => {
    const scope = testScope();
    const [alpha, beta] = await Promise.all(
      ['alpha', 'beta'].map((name) => startNode(scope, { name })),
    );
    if (alpha === undefined || beta === undefined) throw new Error('there are two nodes');
    const alone = ['volume', 'create', 'v', '8M', '--refuse', 'snapshot-delete'];
    expect(await refused(alpha, alone)).toContain('[REQUEST_INVALID]');
    await alpha.createVolume('v', '8M');
    await beta.cli([...alone, '--mirror-of', 'alpha']);
    await alpha.addMirror('v', beta.uri('v'));
    await alpha.waitInSync('v');

    await alpha.cli(['snapshot', 'create', 'v', 'monday']);
    await alpha.cli(['snapshot', 'delete', 'v@monday']);
    const told = await waitUntil('the refusal', async () => (await alpha.mirror('v')).last_refusal);
    expect(told).toContain('blockferry snapshot delete v@monday');
    const shown = (await alpha.cli(['status', 'v'])).stdout;
    expect(shown).toContain('refuses: snapshot-delete');
    expect(shown).toContain('last refusal: ');
    expect((await beta.cli(['volume', 'show', 'v'])).stdout).toContain(
      'refuses its primary: snapshot-delete',
    );

    expect(await refused(beta, ['volume', 'set', 'v', '--refuse', 'restore'])).toContain(
      '[REQUEST_INVALID]',
    );
    await beta.cli(['volume', 'set', 'v', '--refuse', 'snapshot-delete,handover']);
    await beta.kill();
    await beta.start();
    expect((await beta.volume('v')).refuses).toEqual(['snapshot-delete', 'handover']);
    expect(await listed(beta)).toContain('monday');
    await alpha.waitInSync('v');
    // It is told behind the beginning of the link.
    await waitUntil('alpha to know', async () => (await alpha.mirror('v')).refuses.length === 2);

    const { generation } = await alpha.volume('v');
    for (const verb of ['switchover', 'split']) {
      expect(await refused(alpha, [verb, 'v'])).toContain(`there: blockferry ${verb} v`);
    }
    expect(await alpha.volume('v')).toMatchObject({ role: 'primary', generation });
    await alpha.waitInSync('v');
    await beta.cli(['switchover', 'v', '--back', alpha.uri('v')]);
    expect(await beta.volume('v')).toMatchObject({ role: 'primary', source: null });
    await beta.waitInSync('v');
    // What it refuses stays with the volume, for when it is a mirror again.
    expect((await beta.cli(['volume', 'show', 'v'])).stdout).toContain('as a mirror refuses');
    await beta.cli(['snapshot', 'delete', 'v@monday']);
    await beta.cli(['volume', 'set', 'v', '--refuse', 'none']);
    expect((await beta.volume('v')).refuses).toEqual([]);
  },
);
