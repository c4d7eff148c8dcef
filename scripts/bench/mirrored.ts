/** The servers that keep a mirror while they serve; both sides of each begin equal. */
import { join } from 'node:path';
import { inSync } from '../../test/support/node.ts';
import { expectAlive, start, type ManagedProcess } from '../../test/support/process.ts';
import { waitUntil } from '../../test/support/wait.ts';
import {
  answering,
  blockferryNode,
  copyOfImage,
  COPY_MS_MAX,
  fill,
  serveWithQemu,
  unixUri,
  VOLUME,
  type Contender,
  type Ground,
} from './contenders.ts';
import { QmpClient } from './qmp.ts';
import type { Runtime } from './runtimes.ts';

/** Two nodes; the mirror is attached to the written volume, so the initial copy is measured by no one. */
export async function blockferryMirrored(ground: Ground, runtime: Runtime): Promise<Contender> {
  const [beta, alpha] = [
    await blockferryNode(ground.scope, runtime, join(ground.dir, 'beta')),
    await blockferryNode(ground.scope, runtime, join(ground.dir, 'alpha')),
  ];
  for (const node of [beta, alpha]) await node.createVolume(VOLUME, String(ground.sizeBytes));
  await fill(ground, alpha.uri(VOLUME));
  await alpha.addMirror(VOLUME, beta.uri(VOLUME), 'async');
  await alpha.waitInSync(VOLUME, COPY_MS_MAX);
  let deltaBefore = (await alpha.mirror(VOLUME)).delta_bytes_sent;
  return {
    name: runtime.name,
    uri: () => alpha.uri(VOLUME),
    dir: alpha.dir,
    pid: alpha.pid,
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

function startStorageDaemon(
  ground: Ground,
  file: string,
  sockets: { readonly nbd: string; readonly control: string; readonly target: string },
): ManagedProcess {
  const target = `server.type=unix,server.path=${sockets.target},export=${VOLUME}`;
  const words = [
    ['--blockdev', `driver=file,node-name=file,filename=${file}`],
    ['--blockdev', 'driver=raw,node-name=source,file=file'],
    ['--blockdev', `driver=nbd,node-name=target,${target}`],
    ['--chardev', `socket,id=qmp,path=${sockets.control},server=on,wait=off`],
    ['--monitor', 'chardev=qmp'],
    ['--nbd-server', `addr.type=unix,addr.path=${sockets.nbd},max-connections=0`],
    ['--export', `type=nbd,id=export,node-name=source,name=${VOLUME},writable=on`],
  ];
  return start(ground.scope, 'qemu-storage-daemon', words.flat());
}

/**
 * qemu-storage-daemon with blockdev-mirror to a qemu-nbd of its own. `write-blocking` answers a write when the mirror did,
 * which has not flushed it.
 */
export async function qemuMirrored(
  ground: Ground,
  copyMode: 'background' | 'write-blocking' = 'background',
): Promise<Contender> {
  const target = await serveWithQemu(ground, `qsd-${copyMode}-target`);
  const { dir, file } = await copyOfImage(ground, `qsd-${copyMode}`);
  const [nbd, control] = [join(dir, 'nbd.sock'), join(dir, 'qmp.sock')];
  const daemon = startStorageDaemon(ground, file, { nbd, control, target: target.socket });
  await expectAlive(daemon, 300);
  await answering(unixUri(nbd));
  const qmp = await QmpClient.connect(control);
  ground.scope.defer('close QMP', () => qmp.close());
  await qmp.command('blockdev-mirror', {
    'job-id': 'mirror',
    device: 'source',
    target: 'target',
    sync: 'full',
    'copy-mode': copyMode,
  });
  const job = async (): Promise<BlockJob> => {
    const [found] = await qmp.command<BlockJob[]>('query-block-jobs');
    if (found === undefined) throw new Error(`the mirror job of qemu ended:\n${daemon.output}`);
    return found;
  };
  await waitUntil('qemu to mirror', async () => (await job()).ready, { timeoutMs: COPY_MS_MAX });
  return {
    name: copyMode === 'background' ? 'qemu mirror' : `qemu ${copyMode}`,
    uri: () => unixUri(nbd),
    dir,
    async behind() {
      const { len, offset } = await job();
      return len - offset;
    },
  };
}
