/**
 * The life of a node's process: what it keeps over a restart, how it ends, and what it leaves behind.
 * Real processes, real signals.
 */
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { DOUBLE_SIGNAL_MS } from '../../src/io/limits.ts';
import { startNode } from '../support/node.ts';
import { run, start } from '../support/process.ts';
import { BLOCKFERRY_BIN } from '../support/root.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep, waitUntil } from '../support/wait.ts';

describe('a node', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)('stops cleanly on %s', async (signal) => {
    const node = await startNode(testScope(), { name: 'alpha' });
    node.process.signal(signal);
    expect(await node.process.waitForExit(10_000)).toBe(true);
    expect(node.process.exitCode).toBe(0);
    expect(node.log).toContain('"kind":"node-stopped"');
    expect([node.nbdSocket, node.controlSocket].filter((path) => existsSync(path))).toEqual([]);
  });

  test('reloads on SIGHUP and when told to, and says when it cannot', async () => {
    const scope = testScope();
    const file = join(scope.tempDir('bf-conf-'), 'node.toml');
    writeFileSync(file, '');
    const node = await startNode(scope, { name: 'alpha', flags: ['--config', file] });
    await node.createVolume('demo', '4M');
    const readOnly = async (): Promise<boolean> => (await node.volume('demo')).access.read_only;
    writeFileSync(file, '[export.demo]\nread_only = true\n');
    node.process.signal('SIGHUP');
    await waitUntil('the new rule', readOnly);
    writeFileSync(file, '[limits]\nconnections = 9\n[replication]\nbandwidth_limit = "1M"\n');
    const { stdout } = await node.cli(['reload']);
    expect(stdout).toMatch(/^reloaded: .*\n.*restart.*: limits\n$/);
    expect(await readOnly()).toBe(false);
    const json = await node.cli(['reload', '--json']);
    expect(JSON.parse(json.stdout)).toEqual({ reloaded: true, restart_needed: ['limits'] });
    writeFileSync(file, 'nonsense = 1\n');
    const refused = await node.cli(['reload'], { allowFailure: true });
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/node\.toml:1: unknown key "nonsense".*\[CONFIG_INVALID\]\n$/);
    node.process.signal('SIGHUP');
    await waitUntil(
      'a failed reload by signal',
      () => node.log.split('"reload-failed"').length > 2,
    );
    expect(node.process.running).toBe(true);
  });

  test('takes a signal that arrives twice for one', async () => {
    const node = await startNode(testScope(), { name: 'alpha' });
    node.process.signal('SIGINT');
    node.process.signal('SIGTERM');
    node.process.signal('SIGINT');
    expect(await node.process.waitForExit(10_000)).toBe(true);
    expect(node.process.exitCode).toBe(0);
  });

  test('ships the rest before it ends, and ends at once on a second signal', async (context) => {
    requireTools(context, 'qemu-io');
    const scope = testScope();
    const beta = await startNode(scope, { name: 'beta' });
    await beta.createVolume('demo', '4M');
    const alpha = await startNode(scope, { name: 'alpha' });
    await alpha.createVolume('demo', '4M');
    await alpha.addMirror('demo', beta.uri('demo'));
    await alpha.waitInSync('demo');
    beta.process.signal('SIGSTOP');
    scope.defer('let beta go on', () => beta.process.signal('SIGCONT'));
    await run('qemu-io', ['-f', 'raw', '-c', 'write 0 1M', alpha.uri('demo')]);
    alpha.process.signal('SIGTERM');
    expect(await alpha.process.waitForExit(DOUBLE_SIGNAL_MS + 200)).toBe(false);
    alpha.process.signal('SIGTERM');
    expect(await alpha.process.waitForExit(1_000)).toBe(true);
    expect(alpha.process.exitCode).toBe(1);
    beta.process.signal('SIGCONT');
    await alpha.start();
    await alpha.waitInSync('demo');
  });

  test('keeps volumes and mirrors over a restart, and over a kill', async () => {
    const scope = testScope();
    const beta = await startNode(scope, { name: 'beta' });
    await beta.createVolume('demo', '4M');
    const alpha = await startNode(scope, { name: 'alpha' });
    await alpha.createVolume('demo', '4M');
    await alpha.addMirror('demo', beta.uri('demo'), 'sync');
    const { id } = await alpha.waitInSync('demo');
    for (const end of [() => alpha.stop(), () => alpha.kill()]) {
      await end();
      await alpha.start();
      const { id: found, mirrors } = await alpha.waitInSync('demo');
      expect([found, mirrors.length, mirrors[0]?.mode]).toEqual([id, 1, 'sync']);
    }
  });

  test('opens what it makes to nobody else', async () => {
    const node = await startNode(testScope(), { name: 'alpha' });
    await node.createVolume('demo', '4M');
    for (const path of [node.data, node.nbdSocket, node.controlSocket]) {
      expect(statSync(path).mode & 0o007).toBe(0);
    }
    for (const entry of readdirSync(node.data, { recursive: true, encoding: 'utf8' })) {
      expect(statSync(join(node.data, entry)).mode & 0o007).toBe(0);
    }
  });

  test('reports a damaged volume, leaves it alone and serves the others', async () => {
    const node = await startNode(testScope(), { name: 'alpha' });
    const { id } = await node.createVolume('hurt', '4M');
    await node.createVolume('fine', '4M');
    await node.stop();
    const directory = join(node.data, 'volumes', id);
    const log = readdirSync(directory).find((name) => name.includes('metadata')) ?? 'metadata';
    writeFileSync(join(directory, log), Buffer.alloc(512, 7));
    await node.start();
    const { volumes, damaged } = await node.status();
    expect(volumes.map(({ name }) => name)).toEqual(['fine']);
    expect(damaged).toEqual([{ id, reason: expect.stringMatching(/./) as string }]);
    expect((await node.cli(['status'])).stdout).toContain(`damaged volume ${id}`);
    expect((await node.cli(['events'])).stdout).toContain('volume-damaged');
  });

  test('logs connections and changes as JSON lines, and no requests', async () => {
    const node = await startNode(testScope(), { name: 'alpha' });
    await node.createVolume('demo', '4M');
    const client = connect(node.nbdSocket);
    client.on('error', () => undefined);
    await waitUntil('the greeting', () => client.read() as Buffer | null);
    client.destroy();
    for (let index = 0; index < 20; index += 1) await node.status();
    await node.stop();
    const lines = node.log.trimEnd().split('\n');
    for (const line of lines) {
      expect(JSON.parse(line)).toMatchObject({
        node: 'alpha',
        level: expect.any(String) as string,
      });
    }
    expect(lines.length).toBeLessThan(10);
  });

  test('survives the reader of its log', async () => {
    const scope = testScope();
    const dir = scope.tempDir('bf-log-');
    const control = `unix:${join(dir, 'control.sock')}`;
    const serve = [BLOCKFERRY_BIN, 'serve', '--data', join(dir, 'data'), '--control', control];
    const command = [process.execPath, ...serve, '--nbd', `unix:${join(dir, 'nbd.sock')}`];
    const pidFile = join(dir, 'pid');
    // The shell writes the node's pid; `true` reads nothing of its log and is gone at once.
    const script = `{ echo $$ > ${pidFile}; exec ${command.join(' ')}; } 2>&1 >/dev/null | true`;
    const shell = start(scope, 'bash', ['-c', script], { group: true });
    const cli = (...args: string[]) =>
      run(process.execPath, [BLOCKFERRY_BIN, ...args, '--control', control]);
    await waitUntil('the node to answer', async () => (await cli('status')).stdout !== '');
    for (const name of ['a', 'b', 'c']) await cli('volume', 'create', name, '1M');
    await sleep(100);
    expect((await cli('volume', 'list')).stdout).toContain('c ');
    await shell.stop();
  });

  test('ends on a signal when the reader of its log is gone', async () => {
    const scope = testScope();
    const dir = scope.tempDir('bf-log-');
    const command = [process.execPath, BLOCKFERRY_BIN, 'serve', '--data', join(dir, 'data')];
    const pidFile = join(dir, 'pid');
    const readerFile = join(dir, 'reader');
    // `head` leaves after the line that says that the node is up.
    const node = `{ echo $BASHPID > ${pidFile}; exec ${command.join(' ')} --nbd unix:${join(dir, 'nbd')}; }`;
    const script = `${node} 2>&1 >/dev/null | { head -n 1; echo gone > ${readerFile}; }`;
    const shell = start(scope, 'bash', ['-c', script], { group: true });
    await waitUntil('the reader to leave', () => existsSync(readerFile));
    const pid = Number(readFileSync(pidFile, 'utf8'));
    process.kill(pid, 'SIGTERM');
    await waitUntil('the node to end', () => !existsSync(`/proc/${pid}`));
    await shell.stop();
  });
});
