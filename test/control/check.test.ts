/**
 * `blockferry check` on real files: offline in a directory that a node left, online against a node. The pages name every
 * finding. Method: a node in this process, its directory damaged by this test; the verb is run as the command line runs it.
 */
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { createProgram } from '../../src/cli/main.ts';
import type { VolumeCheckStatus } from '../../src/control/api/check-status.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import { FINDINGS } from '../../src/volume/check/check-finding.ts';
import { ROOT } from '../support/root.ts';
import { Scope } from '../support/scope.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

interface Report {
  readonly findings: { code: string; repair: string | null }[];
  readonly volumes: VolumeCheckStatus[];
  readonly repairs: { code: string; error: string | null }[];
  readonly faults: number;
}

let scope: Scope;
let local: LocalNode;
beforeEach(async () => {
  scope = new Scope();
  local = await startLocalNode(scope);
  await local.client.call('POST', '/v1/volumes', { name: 'demo', size: '8M' });
});
afterEach(() => scope.close());

/** Runs the verb; gives its output and the code of its error. */
async function check(...args: string[]): Promise<{ text: string; code: string | null }> {
  let text = '';
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    text += String(chunk);
    return true;
  });
  try {
    await createProgram().parseAsync(['node', 'blockferry', 'check', ...args]);
    return { text, code: null };
  } catch (error) {
    if (error instanceof BlockferryError) return { text, code: error.code };
    throw error;
  } finally {
    write.mockRestore();
  }
}

function control(): string[] {
  return [
    '--control',
    local.config.control.kind === 'unix' ? `unix:${local.config.control.path}` : '',
  ];
}

function offline(...args: string[]): Promise<{ text: string; code: string | null }> {
  return check('--data', local.config.data, ...args);
}

function volumeDirectory(): string {
  const volumes = join(local.config.data, 'volumes');
  const [id = ''] = readdirSync(volumes).filter((name) => name.length === 32);
  return join(volumes, id);
}

describe('check against a node', () => {
  test('finds nothing, by name and for all', async () => {
    expect(await check('demo', ...control())).toEqual({
      text: 'volume demo: no faults\n',
      code: null,
    });
    const { text } = await check('--all', '--json', ...control());
    const report = JSON.parse(text) as Report;
    expect(report.volumes.map(({ name, faults }) => [name, faults])).toEqual([['demo', 0]]);
  });

  test('names what is damaged, and ends with a code', async () => {
    const log = join(volumeDirectory(), 'metadata.log');
    const bytes = readFileSync(log);
    bytes[120]! ^= 1;
    writeFileSync(log, bytes);
    const { text, code } = await check('demo', ...control());
    expect(code).toBe('CHECK_FOUND_FAULTS');
    expect(text).toMatch(
      /volume demo: 1 fault\n {2}fault log-corrupt at .*metadata\.log, bytes \d+ to/,
    );
    bytes[120]! ^= 1;
    writeFileSync(log, bytes);
  });

  test('refuses what it does not know', async () => {
    expect((await check('other', ...control())).code).toBe('VOLUME_NOT_FOUND');
    expect(await codeOf(local.client.call('POST', '/v1/volumes/demo/check', { deep: true }))).toBe(
      'REQUEST_INVALID',
    );
    expect((await check(...control())).code).toBe('USAGE');
    expect((await check('demo', '--all', ...control())).code).toBe('USAGE');
    expect((await check('demo', '--repair', ...control())).code).toBe('USAGE');
  });
});

describe('check of a directory', () => {
  test('waits for no node', async () => {
    expect((await offline('--all')).code).toBe('DATA_DIR_IN_USE');
    await local.node.stop();
    expect(await offline('--all')).toEqual({ text: 'volume demo: no faults\n', code: null });
    expect((await check('--data', '/nowhere', '--all')).code).toBe('DATA_DIR_UNUSABLE');
  });

  test('repairs when asked, says so, and finds nothing afterwards', async () => {
    await local.node.stop();
    const leftover = join(local.config.data, 'volumes', `creating-${'ab'.repeat(16)}`);
    mkdirSync(leftover);
    const before = await offline('--all', '--json');
    expect((JSON.parse(before.text) as Report).findings).toMatchObject([
      { code: 'volume-leftover', severity: 'info', repair: 'remove it' },
    ]);
    const { text, code } = await offline('--all', '--repair');
    expect(code).toBeNull();
    expect(text).toBe(
      `repaired volume-leftover at ${leftover}: remove it\nvolume demo: no faults\n`,
    );
    const after = await offline('--all', '--repair', '--json');
    expect(JSON.parse(after.text)).toMatchObject({ findings: [], repairs: [], faults: 0 });
  });

  test('leaves a fault that nothing mends, and says so', async () => {
    await local.node.stop();
    const log = join(volumeDirectory(), 'metadata.log');
    const bytes = readFileSync(log);
    bytes[120]! ^= 1;
    writeFileSync(log, bytes);
    const { text, code } = await offline('--all', '--repair', '--json');
    expect(code).toBe('CHECK_FOUND_FAULTS');
    const report = JSON.parse(text) as Report;
    expect(report.repairs).toEqual([]);
    expect(report.volumes[0]).toMatchObject({ name: null, faults: 1 });
    expect(readFileSync(log)).toEqual(bytes);
  });
});

test('the page has every finding with its severity, and no other', () => {
  const page = readFileSync(join(ROOT, 'docs', 'operating', 'check.md'), 'utf8');
  const rows = new Map<string, string>();
  for (const [, code = '', severity = ''] of page.matchAll(/^\| `([a-z-]+)` +\| (\w+) +\|/gm)) {
    rows.set(code, severity);
  }
  expect(Object.fromEntries(rows)).toEqual(FINDINGS);
});
