/** The servers that are compared, each with a disk of its own that is fully written beforehand. */
import { join } from 'node:path';
import { expectAlive, run, start } from '../../test/support/process.ts';
import { inSync, startNode } from '../../test/support/node.ts';
import type { Scope } from '../../test/support/scope.ts';
import { waitUntil } from '../../test/support/wait.ts';
import { QmpClient } from './qmp.ts';

const COPY_MS_MAX = 300_000;
const VOLUME = 'disk';

export interface Contender {
  readonly name: string;
  readonly uri: string;
  /** Everything it stores lies here. */
  readonly dir: string;
  /** Bytes that the mirror still lacks; absent when there is no mirror. */
  readonly behind?: () => Promise<number>;
  /** One line about what happened beside the speed, or null. */
  readonly remark?: () => Promise<string | null>;
}

/** Where a contender lives, how large its disk is, and the image that every disk starts from. */
export interface Ground {
  readonly scope: Scope;
  readonly dir: string;
  readonly sizeBytes: number;
  readonly image: string;
}

const unixUri = (socket: string): string => `nbd+unix:///${VOLUME}?socket=${socket}`;

async function copyOfImage(ground: Ground, name: string): Promise<{ dir: string; file: string }> {
  const dir = join(ground.dir, name);
  await run('mkdir', ['-p', dir]);
  const file = join(dir, 'disk.img');
  await run('cp', ['--reflink=never', '--sparse=never', ground.image, file], {
    timeoutMs: COPY_MS_MAX,
  });
  return { dir, file };
}

async function answering(uri: string): Promise<void> {
  await waitUntil(
    `${uri} to answer`,
    async () => (await run('nbdinfo', ['--size', uri])).code === 0,
  );
}

export async function nbdkit(ground: Ground): Promise<Contender> {
  const { dir, file } = await copyOfImage(ground, 'nbdkit');
  const socket = join(dir, 'nbd.sock');
  start(ground.scope, 'nbdkit', ['-f', '-U', socket, '-e', VOLUME, 'file', file]);
  await answering(unixUri(socket));
  return { name: 'nbdkit', uri: unixUri(socket), dir };
}

async function serveWithQemu(
  ground: Ground,
  name: string,
): Promise<{ dir: string; socket: string }> {
  const { dir, file } = await copyOfImage(ground, name);
  const socket = join(dir, 'nbd.sock');
  const flags = ['-t', '-e', '8', '-f', 'raw', '--cache=writeback', '-x', VOLUME, '-k', socket];
  start(ground.scope, 'qemu-nbd', [...flags, file]);
  await answering(unixUri(socket));
  return { dir, socket };
}

export async function qemuNbd(ground: Ground): Promise<Contender> {
  const { dir, socket } = await serveWithQemu(ground, 'qemu-nbd');
  return { name: 'qemu-nbd', uri: unixUri(socket), dir };
}

async function blockferryNode(ground: Ground, name: string) {
  const node = await startNode(ground.scope, { name, dir: join(ground.dir, name) });
  await node.createVolume(VOLUME, String(ground.sizeBytes));
  return node;
}

async function fill(ground: Ground, uri: string): Promise<void> {
  await run('nbdcopy', ['--flush', ground.image, uri], { timeoutMs: COPY_MS_MAX });
}

export async function blockferry(ground: Ground): Promise<Contender> {
  const node = await blockferryNode(ground, 'blockferry');
  await fill(ground, node.uri(VOLUME));
  return { name: 'blockferry', uri: node.uri(VOLUME), dir: node.dir };
}

/** Two nodes; the mirror is attached to the written volume, so the initial copy is measured by no one. */
export async function blockferryMirrored(ground: Ground): Promise<Contender> {
  const beta = await blockferryNode(ground, 'beta');
  const alpha = await blockferryNode(ground, 'alpha');
  await fill(ground, alpha.uri(VOLUME));
  await alpha.addMirror(VOLUME, beta.uri(VOLUME), 'async');
  await alpha.waitInSync(VOLUME, COPY_MS_MAX);
  let deltaBefore = (await alpha.mirror(VOLUME)).delta_bytes_sent;
  return {
    name: 'blockferry',
    uri: alpha.uri(VOLUME),
    dir: alpha.dir,
    async behind() {
      const mirror = await alpha.mirror(VOLUME);
      if (inSync(mirror)) return 0;
      return Math.max(1, mirror.staged_bytes + mirror.dirty_bytes + mirror.suspect_bytes);
    },
    async remark() {
      const delta = (await alpha.mirror(VOLUME)).delta_bytes_sent;
      const grown = delta - deltaBefore;
      deltaBefore = delta;
      return grown > 0
        ? `left stream: ${(grown / 2 ** 20).toFixed(0)} MiB went in delta runs`
        : null;
    },
  };
}

interface BlockJob {
  readonly ready: boolean;
  readonly len: number;
  readonly offset: number;
}

/** qemu-storage-daemon with blockdev-mirror, copy-mode background, to a qemu-nbd of its own. */
export async function qemuMirrored(ground: Ground): Promise<Contender> {
  const target = await serveWithQemu(ground, 'qsd-target');
  const { dir, file } = await copyOfImage(ground, 'qsd');
  const [socket, control] = [join(dir, 'nbd.sock'), join(dir, 'qmp.sock')];
  const daemon = start(
    ground.scope,
    'qemu-storage-daemon',
    [
      ['--blockdev', `driver=file,node-name=file,filename=${file}`],
      ['--blockdev', 'driver=raw,node-name=source,file=file'],
      [
        '--blockdev',
        `driver=nbd,node-name=target,server.type=unix,server.path=${target.socket},export=${VOLUME}`,
      ],
      ['--chardev', `socket,id=qmp,path=${control},server=on,wait=off`],
      ['--monitor', 'chardev=qmp'],
      ['--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=0`],
      ['--export', `type=nbd,id=export,node-name=source,name=${VOLUME},writable=on`],
    ].flat(),
  );
  await expectAlive(daemon, 300);
  await answering(unixUri(socket));
  const qmp = await QmpClient.connect(control);
  ground.scope.defer('close QMP', () => qmp.close());
  await qmp.command('blockdev-mirror', {
    'job-id': 'mirror',
    device: 'source',
    target: 'target',
    sync: 'full',
    'copy-mode': 'background',
  });
  const job = async (): Promise<BlockJob> => {
    const [found] = await qmp.command<BlockJob[]>('query-block-jobs');
    if (found === undefined) throw new Error(`the mirror job of qemu ended:\n${daemon.output}`);
    return found;
  };
  await waitUntil('qemu to mirror', async () => (await job()).ready, { timeoutMs: COPY_MS_MAX });
  return {
    name: 'qemu mirror',
    uri: unixUri(socket),
    dir,
    async behind() {
      const { len, offset } = await job();
      return len - offset;
    },
  };
}
