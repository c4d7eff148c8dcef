/*
 * A file system of this machine's own kernel lives on a volume, is written, synced, trimmed and tidied all the time, and
 * snapshots are taken meanwhile. Each of them is the image of a crash: copied out, its journal replays, then it
 * checks clean, and it holds every file whose fsync had returned before the snapshot was asked for. They are the same
 * after some of them were deleted under the load. Judges: ext4 and XFS of the kernel, e2fsck, debugfs, xfs_repair,
 * nbdcopy, cmp; the way there is nbdfuse and a loop device.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { open, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { LoopDisk } from '../support/loop-mount.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { copyOut, deleteSnapshot, snapshotUri, takeSnapshot } from '../support/snapshots.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { sleep } from '../support/wait.ts';

const CONTENT = randomBytes(1 << 20);
const SNAPSHOTS = ['s1', 's2', 's3', 's4'] as const;
const TOOLS = ['nbdfuse', 'fusermount3', 'losetup', 'fstrim', 'nbdcopy'];

const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** Works on a mounted file system until it is told to stop. */
class Load {
  /** Files whose fsync, and that of their directory, has returned: name and digest. They stay as they are. */
  readonly synced = new Map<string, string>();
  readonly #dir: string;
  #stopping = false;
  #done: Promise<unknown> = Promise.resolve();

  constructor(dir: string) {
    this.#dir = dir;
    for (const name of ['kept', 'churn']) mkdirSync(join(dir, name));
    this.#done = Promise.all([this.#keep(), this.#churn(), this.#trim()]);
    this.#done.catch(() => undefined); // told by `stop`
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  async #keep(): Promise<void> {
    const kept = join(this.#dir, 'kept');
    for (let i = 0; !this.#stopping && i < 400; i++) {
      const bytes = CONTENT.subarray(i * 13, i * 13 + 1 + ((i * 7919) % 100_000));
      const file = await open(join(kept, `f${i}`), 'w');
      await file.write(bytes);
      await file.sync();
      await file.close();
      const directory = await open(kept, 'r');
      await directory.sync();
      await directory.close();
      this.synced.set(`f${i}`, digest(bytes));
    }
  }

  /** Names and blocks that come and go; what is on the disk of them is up to the kernel, but for a sync now and then. */
  async #churn(): Promise<void> {
    const at = (i: number): string => join(this.#dir, 'churn', `d${i % 12}`);
    for (let i = 0; !this.#stopping; i++) {
      await rm(at(i), { recursive: true, force: true });
      await rm(`${at(i)}.old`, { recursive: true, force: true });
      await mkdir(at(i));
      for (let j = 0; j < 8; j++) {
        await writeFile(join(at(i), `${j}`), CONTENT.subarray(0, 1 + ((i * j * 4099) % 100_000)), {
          flush: j === i % 8,
        });
      }
      if (i % 3 === 0) await rename(at(i), `${at(i)}.old`);
    }
  }

  async #trim(): Promise<void> {
    while (!this.#stopping) {
      await sleep(400);
      await run('fstrim', [this.#dir]);
    }
  }
}

function expectFiles(dir: string, expected: ReadonlyMap<string, string>): void {
  expect(expected.size).toBeGreaterThan(3);
  const there = new Set(readdirSync(dir));
  for (const [name, sum] of expected) {
    expect([name, there.has(name)]).toEqual([name, true]);
    expect([name, digest(readFileSync(join(dir, name)))]).toEqual([name, sum]);
  }
}

interface Taken {
  readonly name: string;
  /** Copied out while the load went on. */
  readonly image: string;
  /** What was synced before it was asked for. */
  readonly synced: ReadonlyMap<string, string>;
}

/** Makes the file system with `mkfs`, loads it, and takes the snapshots. */
async function snapshotsUnderLoad(
  scope: Scope,
  node: TestNode,
  mkfs: readonly string[],
): Promise<Taken[]> {
  const disk = await LoopDisk.attach(scope, node.uri('disk'));
  const [command = '', ...words] = mkfs;
  await run(command, [...words, disk.device]);
  const load = new Load(await disk.mount(scope));
  const dir = scope.tempDir();
  const taken: Taken[] = [];
  for (const name of SNAPSHOTS) {
    await sleep(500);
    const synced = new Map(load.synced);
    await takeSnapshot(node, 'disk', name);
    taken.push({ name, synced, image: await copyOut(node, 'disk', name, dir) });
  }
  const [gone, ...kept] = taken;
  for (const { name } of [gone, taken[2]].filter((each) => each !== undefined)) {
    await deleteSnapshot(node, 'disk', name);
  }
  await sleep(200);
  await load.stop();
  await disk.detach();
  for (const { name, image } of kept.filter((each) => each !== taken[2])) {
    const again = join(dir, 'again');
    await run('nbdcopy', [snapshotUri(node, 'disk', name), again]);
    await run('cmp', [image, again]);
  }
  return taken;
}

it('finds a clean ext4 in each snapshot that was taken under load', async (context) => {
  requireTools(context, ...TOOLS, 'mkfs.ext4', 'e2fsck');
  requireRoot(context, 'mount');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '128M');
  const taken = await snapshotsUnderLoad(scope, node, [
    'mkfs.ext4',
    '-q',
    '-b',
    '1024',
    '-J',
    'size=1',
  ]);
  for (const { image, synced } of taken) {
    const replay = await run('e2fsck', ['-fy', image], { allowFailure: true });
    expect([replay.code, replay.stdout]).toEqual([expect.toBeOneOf([0, 1]), replay.stdout]);
    expect(replay.stdout).toContain('recovering journal'); // it was not unmounted
    await run('e2fsck', ['-fn', image]);
    const files = scope.tempDir();
    await run('debugfs', ['-R', `rdump /kept ${files}`, image]);
    expectFiles(join(files, 'kept'), synced);
  }
}, 180_000);

it('finds a clean XFS in each snapshot that was taken under load', async (context) => {
  requireTools(context, ...TOOLS, 'mkfs.xfs', 'xfs_repair');
  requireRoot(context, 'mount');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '320M'); // XFS wants 300 MiB at least
  const taken = await snapshotsUnderLoad(scope, node, ['mkfs.xfs', '-q']);
  for (const { image, synced } of taken) {
    const dir = scope.tempDir();
    await run('mount', ['-o', 'loop,nouuid', image, dir]); // replays the log
    scope.defer(`unmount ${dir}`, async () => {
      await run('umount', [dir], { allowFailure: true });
    });
    expectFiles(join(dir, 'kept'), synced);
    await run('umount', [dir]);
    await run('xfs_repair', ['-n', image]);
  }
}, 180_000);
