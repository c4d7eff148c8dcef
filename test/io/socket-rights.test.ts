/**
 * The file of a unix socket has the rights that were asked for from the first moment that anybody can connect,
 * also in the place of a stale one, and the process' own mask is as before. Method: stat, and a stranger who
 * tries without end while sockets come and go.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';

import type { SocketRights } from '../../src/io/network.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { requireRoot } from '../support/tools.ts';
import { connectRecording, temporaryDirectory, until } from './wire.ts';

/** `nobody`, as on every Linux. */
const STRANGER = 65_534;

async function listenAt(
  path: string,
  rights?: SocketRights,
): ReturnType<typeof nodeNetwork.listen> {
  const listener = await nodeNetwork.listen(
    { kind: 'unix', path },
    (peer) => peer.destroy(),
    rights,
  );
  onTestFinished(() => listener.close());
  return listener;
}

const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8);

describe('a unix socket', () => {
  it.each(['600', '660', '666', '777', '0'])('has mode %s', async (octal) => {
    const path = join(temporaryDirectory(), 's');
    const mask = process.umask();
    await listenAt(path, { mode: Number.parseInt(octal, 8) });
    expect(modeOf(path)).toBe(octal);
    expect(process.umask()).toBe(mask);
  });

  it('keeps what was not asked for as the system makes it', async (context) => {
    requireRoot(context, 'giving files away');
    const directory = temporaryDirectory();
    await listenAt(join(directory, 'plain'));
    await listenAt(join(directory, 'none'), {});
    await listenAt(join(directory, 'group'), { gid: STRANGER });
    await listenAt(join(directory, 'owner'), { uid: STRANGER, mode: 0o600 });
    const usual = (0o777 & ~process.umask()).toString(8);
    const facts = ['plain', 'none', 'group', 'owner'].map((name) => {
      const { uid, gid } = statSync(join(directory, name));
      return [modeOf(join(directory, name)), uid, gid];
    });
    const [uid, gid] = [process.getuid?.(), process.getgid?.()];
    expect(facts).toEqual([
      [usual, uid, gid],
      [usual, uid, gid],
      [usual, uid, STRANGER],
      ['600', STRANGER, gid],
    ]);
  });

  it('has its rights in the place of a stale one, too', async () => {
    const path = join(temporaryDirectory(), 's');
    await leaveStale(path);
    chmodSync(path, 0o777);
    const listener = await listenAt(path, { mode: 0o640 });
    expect(modeOf(path)).toBe('640');
    await connectRecording(listener);
  });

  it('that cannot have its rights is not there, and says why', async (context) => {
    requireRoot(context, 'being somebody else');
    const directory = temporaryDirectory();
    chmodSync(directory, 0o777);
    const path = join(directory, 's');
    const outcome = await asStranger(() =>
      nodeNetwork
        .listen({ kind: 'unix', path }, () => {}, { uid: 1 })
        .catch((error: unknown) => error),
    );
    expect(outcome).toMatchObject({ code: 'ADDRESS_UNAVAILABLE' });
    expect((outcome as Error).message).toMatch(/EPERM.*lchown/);
    expect(() => statSync(path)).toThrow('ENOENT');
  });

  it('lets in no stranger before its rights are set', async (context) => {
    requireRoot(context, 'being somebody else');
    const directory = temporaryDirectory();
    chmodSync(directory, 0o755);
    const path = join(directory, 's');
    const stranger = spawn('/usr/bin/python3', ['-c', STRANGER_SCRIPT, path], {
      uid: STRANGER,
      gid: STRANGER,
    });
    onTestFinished(() => void stranger.kill('SIGKILL'));
    let said = '';
    stranger.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await until(() => said.includes('ready'), 'the stranger');
    for (let round = 0; round < 500; round += 1) {
      const listener = await nodeNetwork.listen({ kind: 'unix', path }, () => {}, { mode: 0o600 });
      await listener.close();
    }
    stranger.stdin.end();
    await until(() => stranger.exitCode !== null, 'the end of the stranger');
    const [, inside, refused] = said.split('\n').map(Number);
    expect(inside).toBe(0);
    expect(refused).toBeGreaterThan(50);
  });
});

/** Tries until its input ends; says how often it got in, and how often it was kept out by rights. */
const STRANGER_SCRIPT = `import select, socket, sys
inside = refused = 0
print('ready', flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(sys.argv[1]); inside += 1
    except PermissionError: refused += 1
    except OSError: pass
    s.close()
print(inside); print(refused)`;

/** A socket file whose process was killed. */
async function leaveStale(path: string): Promise<void> {
  const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  await once(spawn(process.execPath, ['-e', script]), 'exit');
}

async function asStranger<T>(work: () => Promise<T>): Promise<T> {
  process.seteuid?.(STRANGER);
  try {
    return await work();
  } finally {
    process.seteuid?.(0);
  }
}
