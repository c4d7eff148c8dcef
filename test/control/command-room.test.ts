/**
 * What commands on volumes rely on: one at a time on each volume, several volumes at once without waiting for each
 * other for ever, nobody at an export that is being changed, and an end. Pure: volumes are names, and the server is a list.
 */
import { describe, expect, test } from 'vitest';
import { CommandRoom, type Sessions } from '../../src/control/commands/command-room.ts';
import type { BlockDevice } from '../../src/io/device.ts';
import type { ReplicatedVolume } from '../../src/replicator/replicated-volume.ts';
import { codeOf } from './fixture.ts';

/** Volumes a, b and c, each with a snapshot; `log` has what happened. */
function world() {
  const log: string[] = [];
  const names = new Map<BlockDevice, string>();
  const device = (name: string, more: object): BlockDevice => {
    const made = { ...more } as unknown as BlockDevice;
    names.set(made, name);
    return made;
  };
  const room = new CommandRoom({ emit: ({ kind }) => void log.push(kind) });
  for (const name of ['a', 'b', 'c']) {
    const snapshot = device(`${name}@one`, {});
    const volume = {
      snapshots: { device: (wanted: string) => (wanted === 'one' ? snapshot : null) },
    };
    room.devices.set(name, device(name, { volume }) as ReplicatedVolume);
  }
  const sessions: Pick<Sessions, 'closeSessionsOf'> = {
    async closeSessionsOf(closed) {
      log.push(`closing ${names.get(closed) ?? ''}`);
      await turn();
      log.push('closed');
    },
  };
  room.servedBy(sessions as Sessions);
  return { room, log };
}

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

describe('commands', () => {
  test('on several volumes hold each of them, in whatever order they are named', async () => {
    const { room, log } = world();
    const command = (name: string, volumes: readonly string[]): Promise<void> =>
      room.commandOnAll(volumes, async () => {
        log.push(`${name} begins`);
        await turn();
        log.push(`${name} ends`);
      });
    await Promise.all([
      command('1', ['a', 'b']),
      command('2', ['c', 'b', 'c']),
      command('3', ['b', 'a']),
      command('4', ['b']),
      command('5', ['c', 'a', 'b']),
    ]);
    expect(log).toHaveLength(10);
    // All of them share a volume, so none began before another had ended.
    for (const [index, line] of log.entries()) {
      if (line.endsWith('begins')) expect(log[index + 1]).toBe(line.replace('begins', 'ends'));
    }
  });

  test('are refused once the room stops, and those under way are waited for', async () => {
    const { room, log } = world();
    const running = room.command('a', async () => {
      await turn();
      log.push('done');
    });
    const waiting = room.command('a', () => Promise.resolve());
    await Promise.resolve();
    await room.stop();
    expect(log).toEqual(['done']);
    await running;
    expect(await codeOf(waiting)).toBe('SHUTTING_DOWN');
    expect(await codeOf(room.command('b', () => Promise.resolve()))).toBe('SHUTTING_DOWN');
  });
});

describe('an export', () => {
  test.each(['a', 'a@one'])(
    'that is withheld (%s) is there for nobody until it changed',
    async (name) => {
      const { room, log } = world();
      const before = room.find(name);
      expect(before).not.toBeNull();
      const others = ['a', 'a@one', 'b', 'b@one'].filter((other) => other !== name);
      const change = room.withhold(name, () => {
        log.push('changed');
        expect(room.find(name)).toBeNull();
        for (const other of others) expect(room.find(other), other).not.toBeNull();
        return Promise.resolve('answer');
      });
      // Whoever comes while the sessions of those before him are being closed finds nothing.
      expect(room.find(name)).toBeNull();
      expect(await change).toBe('answer');
      expect(log).toEqual([`closing ${name}`, 'closed', 'changed']);
      expect(room.find(name)).toBe(before);
    },
  );

  test('is there again when the change failed', async () => {
    const { room } = world();
    const failing = room.withhold('a@one', () => Promise.reject(new Error('no')));
    await expect(failing).rejects.toThrow('no');
    expect(room.find('a@one')).not.toBeNull();
  });

  test('is found by its whole name', () => {
    const { room } = world();
    for (const name of ['', '@', 'a@', '@one', 'one', 'a@one@one', 'd', 'd@one', 'A']) {
      expect(room.find(name), name).toBeNull();
    }
  });
});
