/**
 * The pool gives the same answers as this thread, gets only the work that pays, copies nothing, and its
 * failure costs time and never an answer. Method: the compiled task file for the answers; task files
 * written by the test, which answer in a way of their own, to see who did the work.
 */
import { randomFillSync } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';

import { BLOCK_BYTES, EXAMINER_DIGEST_BYTES_MIN, EXAMINER_GROUP_MAX } from '../../src/io/limits.ts';
import { inlineExaminer, type Examiner } from '../../src/workers/examiner.ts';
import {
  createExaminer,
  createPooledExaminer,
  type PooledExaminerOptions,
} from '../../src/workers/examiner-pool.ts';
import { DIGEST_BYTES } from '../../src/workers/kernels.ts';
import { builtModule } from '../io/built.ts';

const LENGTH = 64 * BLOCK_BYTES;
const realTask = new URL(builtModule('src/workers/examine-task.js'));

/** A task file that answers each batch with how many shared its message: no kernel does that. */
const COUNTING = `export default (tasks) => tasks.map((task) => {
  task.local[0] = 0x77;
  const count = Uint8Array.of(tasks.length);
  return task.kind === 'digest' ? count : { zero: count, differs: count };
});`;

function taskFile(source: string): URL {
  const directory = mkdtempSync(join(tmpdir(), 'blockferry-task-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  writeFileSync(join(directory, 'task.mjs'), source);
  return pathToFileURL(join(directory, 'task.mjs'));
}

function made(
  make: (options: PooledExaminerOptions) => Examiner,
  options: PooledExaminerOptions,
): Examiner {
  const examiner = make({ threads: 1, ...options });
  onTestFinished(() => examiner.close());
  return examiner;
}

/** A batch with data, zeroes and differences in it. */
function batch(examiner: Examiner, bytes = LENGTH): { local: Buffer; remote: Buffer } {
  const local = randomFillSync(examiner.allocate(bytes));
  local.fill(0, 3 * BLOCK_BYTES, 9 * BLOCK_BYTES);
  const remote = examiner.allocate(bytes);
  local.copy(remote);
  remote[5 * BLOCK_BYTES + 17]! ^= 1;
  remote[bytes - 1]! ^= 1;
  return { local, remote };
}

describe('the pool', () => {
  it('answers as this thread does', async () => {
    const examiner = made(createPooledExaminer, { taskFile: realTask, threads: 2 });
    const questions = Array.from({ length: 40 }, async () => {
      const { local, remote } = batch(examiner);
      expect(await examiner.examine(local, remote, LENGTH)).toEqual(
        await inlineExaminer.examine(local, remote, LENGTH),
      );
      expect(await examiner.examine(local, null, LENGTH)).toEqual(
        await inlineExaminer.examine(local, null, LENGTH),
      );
      const digest = await examiner.digest(local, LENGTH, BLOCK_BYTES);
      expect(digest).toBeInstanceOf(Buffer);
      expect(digest.equals(await inlineExaminer.digest(local, LENGTH, BLOCK_BYTES))).toBe(true);
    });
    await Promise.all(questions);
  });

  it('takes views into shared memory, and only their part of it', async () => {
    const examiner = made(createPooledExaminer, { taskFile: realTask });
    const local = examiner
      .allocate(4 * BLOCK_BYTES)
      .fill(1)
      .subarray(BLOCK_BYTES);
    local.fill(0, BLOCK_BYTES, 2 * BLOCK_BYTES);
    const { zero } = await examiner.examine(local, null, 3 * BLOCK_BYTES);
    expect([...zero]).toEqual([0b010]);
  });

  it('sees the memory of this thread itself', async () => {
    const examiner = made(createPooledExaminer, { taskFile: taskFile(COUNTING) });
    const { local } = batch(examiner);
    await examiner.examine(local, null, LENGTH);
    expect(local[0]).toBe(0x77);
  });

  it('puts the batches of one turn, and those that wait for a thread, into one message', async () => {
    const examiner = made(createPooledExaminer, { taskFile: taskFile(COUNTING) });
    const counts = await Promise.all(
      Array.from({ length: EXAMINER_GROUP_MAX + 3 }, async () => {
        const { local, remote } = batch(examiner);
        return (await examiner.examine(local, remote, LENGTH)).zero[0];
      }),
    );
    const first = Array<number>(EXAMINER_GROUP_MAX).fill(EXAMINER_GROUP_MAX);
    expect(counts).toEqual([...first, 3, 3, 3]);
  });

  it('examines what is not in shared memory on this thread', async () => {
    const examiner = made(createPooledExaminer, { taskFile: taskFile(COUNTING) });
    const { local, remote } = batch(inlineExaminer);
    expect(await examiner.examine(local, remote, LENGTH)).toEqual(
      await inlineExaminer.examine(local, remote, LENGTH),
    );
    expect((await examiner.digest(local, LENGTH, BLOCK_BYTES)).length).toBe(
      (LENGTH / BLOCK_BYTES) * DIGEST_BYTES,
    );
  });
});

describe('a pool that fails', () => {
  it.each([
    ['has no task file', () => new URL('file:///nonexistent/task.js')],
    ['does not load', () => taskFile('throw new Error("broken");')],
    ['throws', () => taskFile('export default () => { throw new Error("broken"); };')],
    ['ends', () => taskFile('export default () => process.exit(3);')],
  ])('leaves the work to this thread when it %s', async (_how, file) => {
    const examiner = made(createPooledExaminer, { taskFile: file() });
    for (let round = 0; round < 3; round += 1) {
      const { local, remote } = batch(examiner);
      const [first, second, digest] = await Promise.all([
        examiner.examine(local, remote, LENGTH),
        examiner.examine(local, null, LENGTH),
        examiner.digest(local, LENGTH, BLOCK_BYTES),
      ]);
      expect(first).toEqual(await inlineExaminer.examine(local, remote, LENGTH));
      expect(second).toEqual(await inlineExaminer.examine(local, null, LENGTH));
      expect(digest).toEqual(await inlineExaminer.digest(local, LENGTH, BLOCK_BYTES));
    }
  });

  it('shows a mistake in the batch to the caller', async () => {
    const examiner = made(createPooledExaminer, { taskFile: realTask });
    const { local } = batch(examiner);
    await expect(examiner.examine(local, null, 100)).rejects.toThrow('whole blocks');
  });
});

describe('close', () => {
  it('completes what is under way, and later calls still get an answer', async () => {
    const examiner = made(createPooledExaminer, { taskFile: realTask });
    const { local, remote } = batch(examiner);
    const early = Array.from({ length: 30 }, () => examiner.examine(local, remote, LENGTH));
    await new Promise((resolve) => setImmediate(resolve));
    const waiting = Array.from({ length: 3 }, () => examiner.examine(local, remote, LENGTH));
    await examiner.close();
    await examiner.close();
    const late = await examiner.examine(local, remote, LENGTH);
    const expected = await inlineExaminer.examine(local, remote, LENGTH);
    for (const answer of [...(await Promise.all([...early, ...waiting])), late]) {
      expect(answer).toEqual(expected);
    }
  });
});

const counting = (): Examiner => made(createExaminer, { taskFile: taskFile(COUNTING) });

it('starts no thread any more after close', async () => {
  const examiner = made(createPooledExaminer, { taskFile: taskFile(COUNTING) });
  const { local, remote } = batch(examiner);
  expect([...(await examiner.examine(local, remote, LENGTH)).zero]).toEqual([1]);
  await examiner.close();
  expect(await examiner.examine(local, remote, LENGTH)).toEqual(
    await inlineExaminer.examine(local, remote, LENGTH),
  );
});

describe('the examiner of a node', () => {
  it('compares a lone batch, and looks for zeroes, on this thread', async () => {
    const examiner = counting();
    const { local, remote } = batch(examiner);
    expect(await examiner.examine(local, remote, LENGTH)).toEqual(
      await inlineExaminer.examine(local, remote, LENGTH),
    );
    const scans = Array.from({ length: 5 }, () => examiner.examine(local, null, LENGTH));
    const expected = await inlineExaminer.examine(local, null, LENGTH);
    for (const scan of await Promise.all(scans)) expect(scan).toEqual(expected);
  });

  it('compares several batches on the pool', async () => {
    const examiner = counting();
    const { local, remote } = batch(examiner);
    const both = [1, 2].map(() => examiner.examine(local, remote, LENGTH));
    for (const { zero } of await Promise.all(both)) expect([...zero]).toEqual([2]);
  });

  it('digests large batches on the pool, small ones here', async () => {
    const examiner = counting();
    const large = batch(examiner, EXAMINER_DIGEST_BYTES_MIN);
    expect([
      ...(await examiner.digest(large.local, EXAMINER_DIGEST_BYTES_MIN, BLOCK_BYTES)),
    ]).toEqual([1]);
    const small = batch(examiner, 16 * BLOCK_BYTES);
    expect((await examiner.digest(small.local, 16 * BLOCK_BYTES, BLOCK_BYTES)).length).toBe(
      16 * DIGEST_BYTES,
    );
  });

  it('does everything here when there is no core to spare', () => {
    expect(createExaminer({ threads: 0 })).toBe(inlineExaminer);
  });
});
