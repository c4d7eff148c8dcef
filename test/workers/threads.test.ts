/**
 * Worker threads come when they are needed and go when they are not, and never keep a process alive; the
 * memory that is shared with them serves files and sockets too. Method: a process of its own counts its
 * threads; bytes travel through a real file and a real socket.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { createNodeDisk } from '../../src/io/node-disk.ts';
import { createPooledExaminer } from '../../src/workers/examiner-pool.ts';
import { builtModule } from '../io/built.ts';
import { called, pattern } from '../io/files.ts';
import { connectRecording, listenRecording, temporaryDirectory, until } from '../io/wire.ts';

const pool = JSON.stringify(builtModule('src/workers/examiner-pool.js'));

function run(body: string): { lines: string[]; seconds: number; status: number | null } {
  const script = `
    import { readdirSync } from 'node:fs';
    const { createPooledExaminer } = await import(${pool});
    const threads = () => readdirSync('/proc/self/task').length;
    const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    ${body}`;
  const before = performance.now();
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    timeout: 20_000,
    encoding: 'utf8',
  });
  expect(child.stderr).toBe('');
  const seconds = (performance.now() - before) / 1000;
  return { lines: child.stdout.trim().split('\n'), seconds, status: child.status };
}

describe('worker threads', () => {
  it('start with the first batch and end when idle', () => {
    const { lines, status } = run(`
      const before = threads();
      const examiner = createPooledExaminer({ threads: 1, idleMs: 50 });
      const buffer = examiner.allocate(65536);
      console.log(threads() - before);
      const answer = examiner.examine(buffer, null, 65536);
      await answer;
      console.log(threads() - before > 0);
      for (let round = 0; round < 200 && threads() > before; round += 1) await wait(20);
      console.log(threads() - before);
      console.log((await examiner.examine(buffer, null, 65536)).zero.length);`);
    expect(lines).toEqual(['0', 'true', '0', '2']);
    expect(status).toBe(0);
  });

  it('do not keep the process alive', () => {
    const { lines, seconds, status } = run(`
      const examiner = createPooledExaminer({ threads: 1, idleMs: 15_000 });
      await examiner.examine(examiner.allocate(65536), null, 65536);
      console.log('done');`);
    expect(lines).toEqual(['done']);
    expect(seconds).toBeLessThan(10);
    expect(status).toBe(0);
  });
});

describe('shared memory', () => {
  it('serves files and sockets as any other memory does', async () => {
    const examiner = createPooledExaminer();
    const { listener, accepted } = await listenRecording();
    const { connection } = await connectRecording(listener);
    const data = pattern(200_000);
    for (const disk of [createNodeDisk(), createNodeDisk({ syscalls: null })]) {
      const file = disk.open(join(temporaryDirectory(), 'file'), { create: true });
      const buffer = examiner.allocate(200_000);
      data.copy(buffer);
      await called((callback) => file.write(buffer, 0, 200_000, 0, callback));
      buffer.fill(0);
      await called((callback) => file.read(buffer, 0, 200_000, 0, callback));
      expect(buffer.equals(data)).toBe(true);
      file.closeNow();
      connection.cork();
      connection.send(buffer.subarray(0, 1000), () => {});
      connection.send(buffer.subarray(1000), () => {});
      connection.uncork();
    }
    await until(() => accepted[0]!.heard.receivedBytes === 400_000, 'the bytes');
    expect(Buffer.concat(accepted[0]!.heard.chunks).equals(Buffer.concat([data, data]))).toBe(true);
    await examiner.close();
  });
});
