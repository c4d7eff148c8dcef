/*
 * Volumes on a file, and on exports of a qemu-nbd with a raw and with a qcow2 image: what is there is the content and what is
 * written gets there, snapshots, restore and clones lie above it, kill -9 of the node loses nothing; a qemu-nbd that is killed
 * with qcow2 tables in its memory and started again gives back every write that was answered, flushed or not, in the
 * middle of a load too. What cannot hold a volume is refused, and a deleted volume leaves all behind. Judges: fio's own NBD
 * client, nbdcopy, cmp, and qemu-img, which reads the images without any server.
 */
import {
  existsSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, type TestContext } from 'vitest';
import type { VolumeStatus } from '../../src/control/status.ts';
import { qemuNbd } from '../nbd-client/support/real-servers.ts';
import { expectEqualExports } from '../support/compare.ts';
import { fio } from '../support/fio.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run, start, type ManagedProcess } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import type { Scope } from '../support/scope.ts';
import { restoreSnapshot, snapshotUri, takeSnapshot } from '../support/snapshots.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const MIB = 2 ** 20;
const SIZE = 40 * MIB;

/** An image, and what serves it, if anything does. */
class Store {
  readonly image: string;
  readonly location: string;
  private readonly scope: Scope;
  private readonly format: string | null;
  private readonly socket: string;
  private server: ManagedProcess | null = null;

  constructor(scope: Scope, kind: 'file' | 'raw' | 'qcow2') {
    const dir = scope.tempDir('bf-container-');
    this.scope = scope;
    this.image = join(dir, 'image');
    this.socket = join(dir, 's');
    this.format = kind === 'file' ? null : kind;
    this.location = kind === 'file' ? this.image : `nbd+unix:///disk?socket=${this.socket}`;
  }

  static async make(scope: Scope, kind: 'file' | 'raw' | 'qcow2'): Promise<Store> {
    const store = new Store(scope, kind);
    await run('qemu-img', ['create', '-q', '-f', store.format ?? 'raw', store.image, String(SIZE)]);
    await store.serve();
    return store;
  }

  /** As qemu does by default: write-back, in the page cache, qcow2 tables in its own memory. */
  async serve(): Promise<void> {
    if (this.format === null) return;
    const { socket } = this;
    rmSync(socket, { force: true });
    const words = ['--persistent', '--discard=unmap', '--detect-zeroes=off', '--export-name=disk'];
    const child = start(this.scope, 'qemu-nbd', [
      ...words,
      `--format=${this.format}`,
      `--socket=${socket}`,
      this.image,
    ]);
    this.server = child;
    await waitUntil('qemu-nbd', () => existsSync(socket), { onTimeout: () => child.output });
  }

  async kill(): Promise<void> {
    await this.server?.kill();
  }

  async stop(): Promise<void> {
    await this.server?.stop();
  }

  /** The content, read by qemu-img from the image itself. */
  async read(): Promise<Buffer> {
    const raw = join(this.scope.tempDir('bf-read-'), 'raw');
    await run('qemu-img', ['convert', '-f', this.format ?? 'raw', '-O', 'raw', this.image, raw]);
    return readFileSync(raw);
  }
}

const on = (node: TestNode, name: string, location: string, size = '40M'): Promise<VolumeStatus> =>
  node.request<VolumeStatus>('POST', '/v1/volumes', { name, size, on: location });

async function copyOf(scope: Scope, uri: string): Promise<Buffer> {
  const file = join(scope.tempDir('bf-copy-'), 'copy');
  await run('nbdcopy', [uri, file]);
  return readFileSync(file);
}

const SPLIT = 'bssplit=1k/20:4k/40:12k/20:64k/15:512k/5';

/** Each block is full of its generation and its place; the third of the volume that is not written stays. */
async function load(uri: string, seed: number, ...more: readonly string[]): Promise<void> {
  const job = ['rw=randwrite', 'iodepth=16', 'size=24m', 'offset=4m', SPLIT, 'verify=pattern'];
  const own = [`randseed=${seed}`, `verify_pattern="generation ${seed}"%o`, 'verify_fatal=1'];
  await fio({ uri, name: `load-${seed}`, options: [...job, ...own, ...more], timeoutMs: 90_000 });
}

const write = (uri: string, seed: number, ...more: readonly string[]): Promise<void> =>
  load(uri, seed, 'do_verify=0', ...more);
const verify = (uri: string, seed: number): Promise<void> => load(uri, seed, 'verify_only=1');

async function begin(
  context: TestContext,
  kind: 'file' | 'raw' | 'qcow2',
): Promise<{ scope: Scope; node: TestNode; store: Store }> {
  requireTools(context, 'fio', 'nbdcopy', 'qemu-nbd', 'qemu-img', 'qemu-io');
  const scope = testScope();
  const store = await Store.make(scope, kind);
  const node = await startNode(scope, { name: 'alpha' });
  return { scope, node, store };
}

describe.each(['file', 'raw', 'qcow2'] as const)('a volume on a %s', (kind) => {
  it('has the content that is there, and what it is written is there in the end', async (context) => {
    const { scope, node, store } = await begin(context, kind);
    await store.stop();
    const format = kind === 'qcow2' ? 'qcow2' : 'raw';
    await run('qemu-io', ['-f', format, '-c', 'write -P 0x5a 1M 2M', store.image]);
    await store.serve();
    const status = await on(node, 'disk', store.location);
    expect(status.on?.location).toBe(store.location);
    expect(status.allocated_bytes).toBe(0);
    const disk = node.uri('disk');
    await qemuIo(disk, ['read -P 0x5a 1M 2M', 'read -P 0 3M 1M'], ['-r']);
    await write(disk, 1, 'fsync=64');
    await verify(disk, 1);
    // Edges inside of a block too.
    await qemuIo(disk, ['discard 36M 2M', 'write -P 7 39845376 512', 'write -z 1M 64k', 'flush']);
    await node.kill();
    await node.start();
    await verify(disk, 1);
    await qemuIo(
      disk,
      ['read -P 0 1M 64k', 'read -P 0x5a 1114112 64k', 'read -P 7 39845376 512'],
      ['-r'],
    );
    const seen = await copyOf(scope, disk);
    await node.request('DELETE', '/v1/volumes/disk');
    await node.stop();
    await store.stop();
    expect(seen.equals(await store.read())).toBe(true);
  }, 120_000);

  it('carries snapshots, restores and clones, through kills of the node', async (context) => {
    const { scope, node, store } = await begin(context, kind);
    await on(node, 'disk', store.location);
    const [disk, first] = [node.uri('disk'), snapshotUri(node, 'disk', 'first')];
    await write(disk, 1, 'end_fsync=1');
    await takeSnapshot(node, 'disk', 'first');
    const before = await copyOf(scope, disk);
    await write(disk, 2, 'end_fsync=1');
    await node.cli(['snapshot', 'clone', 'disk@first', 'other']);
    await write(node.uri('other'), 3, 'end_fsync=1');
    await node.kill();
    await node.start();
    await verify(disk, 2);
    await verify(first, 1);
    await verify(node.uri('other'), 3);
    await restoreSnapshot(node, 'disk', 'first');
    await verify(disk, 1);
    expect(before.equals(await copyOf(scope, disk))).toBe(true);
    await node.request('DELETE', '/v1/volumes/other');
    await node.stop();
    await store.stop();
    // The snapshot is what the container holds.
    expect(before.equals(await store.read())).toBe(true);
  }, 120_000);
});

describe('a qemu-nbd that is killed', () => {
  it('gets again what it was told and had not flushed', async (context) => {
    const { node, store } = await begin(context, 'qcow2');
    await on(node, 'disk', store.location);
    const disk = node.uri('disk');
    await write(disk, 1);
    await store.kill();
    await waitUntil('the node to notice', async () => (await node.volume('disk')).on?.trouble);
    await store.serve();
    await verify(disk, 1);
    await qemuIo(disk, ['flush']);
    // What was flushed is not there because it is told again.
    await node.kill();
    await store.kill();
    await store.serve();
    await node.start();
    await verify(disk, 1);
  }, 120_000);
});

describe.each(['raw', 'qcow2'] as const)('a qemu-nbd with a %s', (kind) => {
  it('that is killed in the middle of a load is waited for', async (context) => {
    const { scope, node, store } = await begin(context, kind);
    await on(node, 'disk', store.location);
    const disk = node.uri('disk');
    const loaded = write(disk, 1, 'fsync=64', 'thinktime=4ms', 'thinktime_blocks=16');
    for (let kills = 0; kills < 2; kills += 1) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      await store.kill();
      await new Promise((resolve) => setTimeout(resolve, 100));
      await store.serve();
    }
    await loaded;
    await verify(disk, 1);
    const { stdout } = await node.cli(['events']);
    expect(stdout).toContain('container-lost');
    expect(stdout).toContain('container-back');
    expect((await node.volume('disk')).failure).toBeNull();
    const seen = await copyOf(scope, disk);
    await qemuIo(disk, ['flush']);
    await node.stop();
    await store.stop();
    expect(seen.equals(await store.read())).toBe(true);
  }, 60_000);
});

describe('what cannot be', () => {
  it('is refused before anything is made', async (context) => {
    const { scope, node, store } = await begin(context, 'raw');
    const file = await Store.make(scope, 'file');
    const link = join(scope.tempDir(), 'link');
    symlinkSync(file.image, link);
    const small = join(scope.tempDir(), 'small');
    writeFileSync(small, Buffer.alloc(4096));
    await on(node, 'disk', store.location);
    await on(node, 'file', file.location);
    const other = await startNode(scope, { name: 'beta' });
    const refused = async (by: TestNode, location: string): Promise<string> => {
      const error: unknown = await on(by, 'no', location).then(
        () => 'it was made',
        (thrown: unknown) => thrown,
      );
      expect((await by.status()).volumes.some(({ name }) => name === 'no')).toBe(false);
      return (error as { code?: string }).code ?? String(error);
    };
    expect(await refused(node, store.location)).toBe('CONTAINER_IN_USE');
    expect(await refused(node, file.location)).toBe('CONTAINER_IN_USE');
    expect(await refused(node, link)).toBe('CONTAINER_IN_USE');
    expect(await refused(other, file.location)).toBe('CONTAINER_IN_USE');
    expect(await refused(node, small)).toBe('CONTAINER_TOO_SMALL');
    expect(await refused(node, `${small}-none`)).toBe('CONTAINER_UNUSABLE');
    expect(await refused(node, '/dev/null')).toBe('CONTAINER_UNUSABLE');
    expect(await refused(node, 'image')).toBe('CONTAINER_INVALID');
    expect(await refused(node, join(node.data, 'format'))).toBe('CONTAINER_INVALID');
    expect(await refused(node, node.uri('file'))).toBe('CONTAINER_INVALID');
    expect(await refused(node, 'nbd://192.0.2.1/x')).toBe('CONTAINER_INSECURE');
    expect(await refused(node, `${store.location}-none`)).toBe('CONTAINER_UNREACHABLE');
    const readOnly = await qemuNbd(scope, SIZE, 'ro', ['--read-only']);
    expect(await refused(node, readOnly.uri.text)).toBe('CONTAINER_UNUSABLE');
    const mirror = await qemuNbd(scope, SIZE, 'mirror');
    const toMirror = node.addMirror('disk', mirror.uri.text);
    await expect(toMirror).rejects.toMatchObject({ code: 'CONTAINER_REMOTE' });
  }, 60_000);
});

describe('a volume on a file', () => {
  it('can have a mirror', async (context) => {
    const { scope, node, store } = await begin(context, 'file');
    await on(node, 'disk', store.location);
    const mirror = await qemuNbd(scope, SIZE, 'mirror');
    await write(node.uri('disk'), 1);
    await node.addMirror('disk', mirror.uri.text);
    await write(node.uri('disk'), 2);
    await node.waitInSync('disk');
    await expectEqualExports(scope, node.uri('disk'), mirror.uri.text);
  }, 60_000);

  it('grows as far as the file reaches, and what grew is zeroes', async (context) => {
    const { node, store } = await begin(context, 'file');
    writeFileSync(store.image, Buffer.alloc(SIZE, 0xee));
    await on(node, 'disk', store.location, '8M');
    const resize = (size: string, force = false): Promise<VolumeStatus> =>
      node.request('POST', '/v1/volumes/disk/resize', { size, force });
    await expect(resize('41M')).rejects.toMatchObject({ code: 'CONTAINER_TOO_SMALL' });
    await resize('16M');
    await qemuIo(node.uri('disk'), ['read -P 0xee 0 8M', 'read -P 0 8M 8M', 'write -P 1 12M 4M']);
    await waitUntil('no client', async () => (await node.volume('disk')).connections === 0);
    await resize('4M', true);
    await resize('16M');
    await node.kill();
    await node.start();
    await qemuIo(node.uri('disk'), ['read -P 0xee 0 4M', 'read -P 0 4M 12M'], ['-r']);
    // With a snapshot it is the file above that grows; the container bounds it all the same.
    await takeSnapshot(node, 'disk', 'one');
    await expect(resize('41M')).rejects.toMatchObject({ code: 'CONTAINER_TOO_SMALL' });
    expect(
      readFileSync(store.image)
        .subarray(16 * MIB)
        .every((byte) => byte === 0xee),
    ).toBe(true);
  }, 60_000);

  it('is checked for what can be known, and closed while the file is not right', async (context) => {
    const { node, store } = await begin(context, 'file');
    await on(node, 'disk', store.location);
    expect((await node.cli(['check', 'disk'])).stdout).toContain('container-not-compared');
    await node.stop();
    const offline = (): Promise<{ code: number | null; stdout: string }> =>
      node.cli(['check', 'disk', '--data', node.data], { allowFailure: true });
    expect(await offline()).toMatchObject({ code: 0 });
    truncateSync(store.image, MIB);
    const found = await offline();
    expect([found.code, found.stdout]).toEqual([1, expect.stringContaining('container-short')]);
    await node.start();
    const [damaged] = (await node.status()).damaged;
    expect(damaged?.reason).toContain('CONTAINER_TOO_SMALL');
    await node.stop();
    rmSync(store.image);
    expect((await offline()).stdout).toContain('container-unusable');
  }, 60_000);
});
