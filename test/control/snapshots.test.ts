/**
 * Snapshots through the control API: what each command does to content, to clients and to what is listed, and
 * what is refused before anything changes. Real nodes in this process, and a bare NBD client.
 */
import { describe, expect, test } from 'vitest';
import { volumePath } from '../../src/cli/client.ts';
import type { SnapshotDiff, SnapshotStatus, VolumeStatus } from '../../src/control/status.ts';
import type { ChangedRange } from '../../src/volume/snapshots/snapshot-types.ts';
import type { Scope } from '../support/scope.ts';
import { testScope } from '../support/tools.ts';
import { BareClient } from './bare-client.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

const SIZE = 2 ** 20;
const BLOCK = 4096;

class World {
  readonly scope: Scope;
  readonly node: LocalNode;

  constructor(scope: Scope, node: LocalNode) {
    this.scope = scope;
    this.node = node;
  }

  post<T = SnapshotStatus>(path: string, body: object = {}): Promise<T> {
    return this.node.client.call<T>('POST', `/v1/volumes/${path}`, body);
  }

  get<T>(path: string): Promise<T> {
    return this.node.client.call<T>('GET', `/v1/volumes/${path}`);
  }

  remove(path: string): Promise<unknown> {
    return this.node.client.call('DELETE', `/v1/volumes/${path}`);
  }

  async names(volume = 'demo'): Promise<string[]> {
    const { snapshots } = await this.get<{ snapshots: SnapshotStatus[] }>(`${volume}/snapshots`);
    return snapshots.map(({ name }) => name);
  }

  async attach(name: string): Promise<BareClient> {
    const client = await BareClient.attach(this.scope, this.node, name);
    if (client === null) throw new Error(`no export ${name}`);
    return client;
  }

  /** Fills blocks, from an export that nobody else uses. */
  async fill(name: string, value: number, offset = 0, length: number = SIZE): Promise<void> {
    const client = await this.attach(name);
    expect(await client.write(offset, Buffer.alloc(length, value))).toBe(0);
    await client.detach();
  }

  /** The first byte of each block, from `offset` on. */
  async bytes(name: string, offset = 0, length: number = SIZE): Promise<Set<number>> {
    const client = await this.attach(name);
    const data = await client.read(offset, length);
    await client.detach();
    if (typeof data === 'number') throw new Error(`read: ${data}`);
    return new Set(data);
  }

  /** What the node has told since it started, without how it did. */
  kinds(): string[] {
    return this.node.node.events
      .recent()
      .map(({ kind }) => kind)
      .filter((kind) => /^(snapshot|merge)-/.test(kind));
  }
}

async function world(size = '1M'): Promise<World> {
  const scope = testScope();
  const node = await startLocalNode(scope);
  await node.client.call('POST', '/v1/volumes', { name: 'demo', size });
  return new World(scope, node);
}

describe('a snapshot', () => {
  test('keeps its content while the volume goes on', async () => {
    const at = await world();
    await at.fill('demo', 1);
    const made = await at.post('demo/snapshots', { name: 'one' });
    expect(made).toEqual({
      volume: 'demo',
      name: 'one',
      export: 'demo@one',
      id: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/) as string,
      size_bytes: SIZE,
      connections: 0,
    });
    const path = 'demo/snapshots/one';
    expect(await at.get(path)).toEqual({ ...made, own_bytes: 0, shared_bytes: SIZE });
    await at.fill('demo', 2);
    expect(await at.bytes('demo@one')).toEqual(new Set([1]));
    expect(await at.bytes('demo')).toEqual(new Set([2]));
    expect(await at.get(path)).toEqual({ ...made, own_bytes: SIZE, shared_bytes: 0 });
    expect((await at.get<VolumeStatus>('demo')).snapshots).toBe(1);
    expect(at.kinds()).toEqual(['snapshot-created']);
  });

  test('is not written to', async () => {
    const at = await world();
    await at.post('demo/snapshots', { name: 'one' });
    const client = await at.attach('demo@one');
    expect(await client.write(0, Buffer.alloc(BLOCK, 7))).toBe(1);
    expect(await client.read(0, BLOCK)).toEqual(Buffer.alloc(BLOCK));
  });

  test('has any name that a volume may have', async () => {
    const at = await world();
    for (const name of ['with space & ?=%41', 'größe', 'x'.repeat(255), '__proto__']) {
      const path = `demo/snapshots/${encodeURIComponent(name)}`;
      await at.post('demo/snapshots', { name });
      expect(await at.get(path)).toMatchObject({ name });
      await at.bytes(`demo@${name}`);
      await at.remove(path);
      expect(await codeOf(at.get(path))).toBe('SNAPSHOT_NOT_FOUND');
    }
  });

  test('of several volumes is of all or of none', async () => {
    const at = await world();
    await at.node.client.call('POST', '/v1/volumes', { name: 'log', size: '1M' });
    const create = (volumes: string[], name: string): Promise<{ snapshots: SnapshotStatus[] }> =>
      at.node.client.call('POST', '/v1/snapshots', { volumes, name });
    const { snapshots } = await create(['log', 'demo', 'log'], 'both');
    expect(snapshots.map((each) => each.export)).toEqual(['log@both', 'demo@both']);
    await at.post('log/snapshots', { name: 'taken' });
    expect(await codeOf(create(['demo', 'log'], 'taken'))).toBe('SNAPSHOT_EXISTS');
    expect(await codeOf(create(['demo', 'gone'], 'new'))).toBe('VOLUME_NOT_FOUND');
    expect(await codeOf(create(['demo', 'log'], 'a@b'))).toBe('SNAPSHOT_NAME_INVALID');
    expect(await codeOf(create([], 'new'))).toBe('REQUEST_INVALID');
    expect([await at.names('demo'), await at.names('log')]).toEqual([['both'], ['both', 'taken']]);
    // In both orders at once: each waits for the other's volumes, and neither for ever.
    await Promise.all([create(['demo', 'log'], 'x'), create(['log', 'demo'], 'y')]);
    expect(at.kinds()).toHaveLength(7);
  });

  test('of a snapshot has its content, also when the first is gone', async () => {
    const at = await world();
    await at.fill('demo', 1);
    await at.post('demo/snapshots', { name: 'one' });
    await at.fill('demo', 2);
    await at.post('demo/snapshots/one/copy', { name: 'two' });
    await at.remove('demo/snapshots/one');
    expect(await at.bytes('demo@two')).toEqual(new Set([1]));
    expect(await at.names()).toEqual(['two']);
    expect(at.kinds()).toEqual(['snapshot-created', 'snapshot-copied', 'snapshot-deleted']);
  });
});

describe('restore', () => {
  test('gives the volume the content of the snapshot, whole or in a range', async () => {
    const at = await world();
    await at.fill('demo', 1);
    await at.post('demo/snapshots', { name: 'one' });
    await at.fill('demo', 2);
    await at.post('demo/snapshots/one/restore', { offset: '64K', length: '8K' });
    expect(await at.bytes('demo', 0, 2 ** 16)).toEqual(new Set([2]));
    expect(await at.bytes('demo', 2 ** 16, 2 * BLOCK)).toEqual(new Set([1]));
    expect(await at.bytes('demo', 2 ** 16 + 2 * BLOCK, BLOCK)).toEqual(new Set([2]));
    await at.post('demo/snapshots/one/restore', { offset: '512K' });
    expect(await at.bytes('demo', 2 ** 19, 2 ** 19)).toEqual(new Set([1]));
    await at.post('demo/snapshots/one/restore');
    expect(await at.bytes('demo')).toEqual(new Set([1]));
    expect(await at.bytes('demo@one')).toEqual(new Set([1]));
    expect(at.kinds().slice(1)).toEqual(Array(3).fill('snapshot-restored'));
  });

  test('leaves a volume with clients alone, and ends them when forced', async () => {
    const at = await world();
    await at.post('demo/snapshots', { name: 'one' });
    await at.fill('demo', 2);
    const client = await at.attach('demo');
    const reader = await at.attach('demo@one');
    for (const body of [{}, { offset: '0', length: '4K' }]) {
      expect(await codeOf(at.post('demo/snapshots/one/restore', body))).toBe('VOLUME_BUSY');
    }
    expect(await client.read(0, BLOCK)).toEqual(Buffer.alloc(BLOCK, 2));
    await at.post('demo/snapshots/one/restore', { force: true });
    await client.closed;
    expect(await at.bytes('demo')).toEqual(new Set([0]));
    expect(await reader.read(0, BLOCK)).toEqual(Buffer.alloc(BLOCK));
  });

  test.each([
    ['a range that is no block', { offset: '1', length: '4K' }, 'RANGE_INVALID'],
    ['a length that is no block', { length: '5000' }, 'RANGE_INVALID'],
    ['nothing', { length: '0' }, 'RANGE_INVALID'],
    ['a range past the end', { offset: '1020K', length: '8K' }, 'RANGE_INVALID'],
    ['an offset past the end', { offset: '2M' }, 'RANGE_INVALID'],
    ['an offset past all numbers', { offset: '9999999999999999P' }, 'RANGE_INVALID'],
    ['what is no number', { offset: 'here' }, 'RANGE_INVALID'],
    ['a number', { offset: 4096 }, 'REQUEST_INVALID'],
  ])('refuses %s, and ends no client for it', async (_what, body, code) => {
    const at = await world();
    await at.post('demo/snapshots', { name: 'one' });
    await at.fill('demo', 2);
    const client = await at.attach('demo');
    const restore = at.post('demo/snapshots/one/restore', { ...body, force: true });
    expect(await codeOf(restore)).toBe(code);
    expect(await client.read(0, BLOCK)).toEqual(Buffer.alloc(BLOCK, 2));
  });

  test('refuses a snapshot that is larger than the volume, and fills up from a smaller one', async () => {
    const at = await world();
    await at.fill('demo', 1);
    await at.post('demo/snapshots', { name: 'small' });
    await at.post<VolumeStatus>('demo/resize', { size: '2M' });
    await at.fill('demo', 2, 0, 2 * SIZE);
    await at.post('demo/snapshots', { name: 'large' });
    await at.post('demo/snapshots/small/restore');
    expect(await at.bytes('demo', 0, SIZE)).toEqual(new Set([1]));
    expect(await at.bytes('demo', SIZE, SIZE)).toEqual(new Set([0]));
    await at.post<VolumeStatus>('demo/resize', { size: '1M', force: true });
    const client = await at.attach('demo');
    const restore = at.post('demo/snapshots/large/restore', { force: true });
    expect(await codeOf(restore)).toBe('SNAPSHOT_TOO_LARGE');
    expect(await client.read(0, BLOCK)).toEqual(Buffer.alloc(BLOCK, 1));
  });

  test('refuses a volume with mirrors, whatever is forced', async () => {
    const at = await world();
    const beta = await startLocalNode(at.scope, { flags: { name: 'beta' } });
    const body = { name: 'demo', size: '1M', mirror_of: 'alpha' };
    await beta.client.call('POST', '/v1/volumes', body);
    await at.post('demo/snapshots', { name: 'one' });
    await at.post<VolumeStatus>('demo/mirrors', { uri: beta.uri('demo') });
    for (const how of [{ force: true }, { length: '4K', force: true }]) {
      expect(await codeOf(at.post('demo/snapshots/one/restore', how))).toBe('VOLUME_HAS_MIRRORS');
    }
    await at.post<VolumeStatus>('demo/mirrors/remove');
    await at.post('demo/snapshots/one/restore');
  });
});

describe('refresh and sync', () => {
  test('give a snapshot other content, and another id', async () => {
    const at = await world();
    const early = await at.post('demo/snapshots', { name: 'a' });
    await at.fill('demo', 1);
    const middle = await at.post('demo/snapshots/a/refresh');
    await at.fill('demo', 2);
    const late = await at.post('demo/snapshots', { name: 'b' });
    expect(await at.bytes('demo@a')).toEqual(new Set([1]));
    const synced = await at.post('demo/snapshots/a/sync', { from: 'b' });
    expect(await at.bytes('demo@a')).toEqual(new Set([2]));
    expect(new Set([early.id, middle.id, late.id, synced.id]).size).toBe(4);
    expect((await at.names()).toSorted()).toEqual(['a', 'b']);
    expect(at.kinds().slice(1)).toEqual([
      'snapshot-refreshed',
      'snapshot-created',
      'snapshot-synchronised',
    ]);
  });

  test('leave one that is attached alone, and end its clients when forced', async () => {
    const at = await world();
    await at.post('demo/snapshots', { name: 'a' });
    await at.fill('demo', 1);
    await at.post('demo/snapshots', { name: 'b' });
    const writer = await at.attach('demo');
    for (const [verb, body] of [
      ['refresh', {}],
      ['sync', { from: 'b' }],
    ] as const) {
      const reader = await at.attach('demo@a');
      const change = (force: boolean) => at.post(`demo/snapshots/a/${verb}`, { ...body, force });
      expect(await codeOf(change(false))).toBe('SNAPSHOT_IN_USE');
      expect(await reader.read(0, 1)).toBeInstanceOf(Buffer);
      await change(true);
      await reader.closed;
    }
    await writer.detach();
  });

  test('from itself changes nothing', async () => {
    const at = await world();
    const { id } = await at.post('demo/snapshots', { name: 'a' });
    await at.attach('demo@a');
    expect(await at.post('demo/snapshots/a/sync', { from: 'a' })).toMatchObject({ id });
    expect(at.kinds()).toEqual(['snapshot-created']);
  });
});

describe('delete', () => {
  test('leaves an attached snapshot alone, counts its clients, and ends them when forced', async () => {
    const at = await world();
    await at.post('demo/snapshots', { name: 'one' });
    const [first, second] = [await at.attach('demo@one'), await at.attach('demo@one')];
    expect(await at.get('demo/snapshots/one')).toMatchObject({ connections: 2 });
    expect((await at.get<VolumeStatus>('demo')).connections).toBe(0);
    expect(await codeOf(at.remove('demo/snapshots/one'))).toBe('SNAPSHOT_IN_USE');
    expect(await first.read(0, BLOCK)).toEqual(Buffer.alloc(BLOCK));
    await at.remove('demo/snapshots/one?force=true');
    await Promise.all([first.closed, second.closed]);
    expect(await BareClient.attach(at.scope, at.node, 'demo@one')).toBeNull();
    expect(await at.names()).toEqual([]);
  });

  test('of a volume with snapshots must be forced, and ends the clients of both', async () => {
    const at = await world();
    await at.post('demo/snapshots', { name: 'one' });
    const clients = [await at.attach('demo'), await at.attach('demo@one')];
    expect(await codeOf(at.remove('demo'))).toBe('VOLUME_HAS_SNAPSHOTS');
    expect(await at.names()).toEqual(['one']);
    await at.remove('demo?force=true');
    await Promise.all(clients.map(({ closed }) => closed));
    expect(await codeOf(at.get('demo/snapshots'))).toBe('VOLUME_NOT_FOUND');
    expect(await BareClient.attach(at.scope, at.node, 'demo@one')).toBeNull();
  });
});

describe('diff', () => {
  test('tells what was written in between, from any block on', async () => {
    const at = await world('32M');
    await at.post('demo/snapshots', { name: 'a' });
    const writes = [
      [0, BLOCK],
      [5 * BLOCK, 3 * BLOCK],
      [4 * SIZE - BLOCK, 2 * BLOCK],
      [9 * SIZE, 4 * SIZE],
      [32 * SIZE - BLOCK, BLOCK],
    ] as const;
    for (const [offset, length] of writes) await at.fill('demo', 1, offset, length);
    await at.post('demo/snapshots', { name: 'b' });
    const ranges = writes.map(([offset, length]) => ({ offset, length, zero: false }));
    const page = (query: string) => at.get<SnapshotDiff>(`demo/snapshots/a/diff${query}`);
    const { id } = await at.get<SnapshotStatus>('demo/snapshots/b');
    /** All pages: on a busy machine each may hold one range. */
    const whole = async (offset: number, to: string | null): Promise<ChangedRange[]> => {
      const { next, ...first } = await page(`?offset=${offset}${to === null ? '' : `&to=${to}`}`);
      expect(first.to).toBe(to === null ? null : id);
      return next === null ? [...first.ranges] : [...first.ranges, ...(await whole(next, to))];
    };
    expect(await whole(0, null)).toEqual(ranges);
    expect(await whole(0, 'b')).toEqual(ranges);
    for (const start of [BLOCK, 6 * BLOCK, 4 * SIZE, 8 * SIZE, 10 * SIZE, 32 * SIZE - BLOCK]) {
      const rest = ranges
        .map(({ offset, length, zero }) => {
          const from = Math.max(start, offset);
          return { offset: from, length: offset + length - from, zero };
        })
        .filter(({ length }) => length > 0);
      expect(await whole(start, 'b'), String(start)).toEqual(rest);
    }
    expect((await page(`?offset=32M`)).ranges).toEqual([]);
    expect(await codeOf(page('?offset=1'))).toBe('RANGE_INVALID');
    expect(await codeOf(page('?offset=-4096'))).toBe('RANGE_INVALID');
    expect(await codeOf(page('?from=b'))).toBe('REQUEST_INVALID');
  });
});

describe('what is not there', () => {
  test('is named', async () => {
    const at = await world();
    await at.post('demo/snapshots', { name: 'one' });
    const before = at.node.node.events.recent().length;
    for (const call of [
      at.get('demo/snapshots/gone'),
      at.remove('demo/snapshots/gone?force=true'),
      at.post('demo/snapshots/gone/restore'),
      at.post('demo/snapshots/gone/refresh'),
      at.post('demo/snapshots/gone/copy', { name: 'two' }),
      at.post('demo/snapshots/gone/sync', { from: 'one' }),
      at.post('demo/snapshots/one/sync', { from: 'gone' }),
      at.get('demo/snapshots/gone/diff'),
      at.get('demo/snapshots/one/diff?to=gone'),
    ]) {
      expect(await codeOf(call)).toBe('SNAPSHOT_NOT_FOUND');
    }
    for (const path of ['snapshots', 'snapshots/one', 'merge', 'snapshots/one/diff']) {
      expect(await codeOf(at.get(`gone/${path}`)), path).toBe('VOLUME_NOT_FOUND');
    }
    expect(await codeOf(at.post('demo/snapshots', { name: 'one' }))).toBe('SNAPSHOT_EXISTS');
    const copy = at.post('demo/snapshots/one/copy', { name: 'one' });
    expect(await codeOf(copy)).toBe('SNAPSHOT_EXISTS');
    for (const name of ['', 'a/b', 'a@b', '..', 'a\nb', 'x'.repeat(256)]) {
      expect(await codeOf(at.post('demo/snapshots', { name }))).toBe('SNAPSHOT_NAME_INVALID');
      const bad = at.post('demo/snapshots/one/copy', { name });
      expect(await codeOf(bad)).toBe('SNAPSHOT_NAME_INVALID');
    }
    expect(at.node.node.events.recent()).toHaveLength(before);
  });
});

test('merging is shown, paused, resumed and limited', async () => {
  const at = await world();
  const path = `${volumePath('demo')}/merge`;
  const call = <T>(method: 'GET' | 'POST', more: string, body?: object): Promise<T> =>
    at.node.client.call<T>(method, `${path}${more}`, body);
  const idle = {
    state: 'idle',
    done_bytes: 0,
    total_bytes: 0,
    waiting: 0,
    limit: null,
    reason: null,
  };
  expect(await call('GET', '')).toEqual(idle);
  expect(await call('POST', '/limit', { limit: '50M' })).toEqual({ ...idle, limit: 50 * 2 ** 20 });
  expect(await call('POST', '/limit', { limit: null })).toEqual(idle);
  expect(await call('POST', '/pause')).toEqual({ ...idle, state: 'paused' });
  expect((await at.get<VolumeStatus>('demo')).merge).toMatchObject({ state: 'paused' });
  expect(await call('POST', '/resume')).toEqual(idle);
  expect(await codeOf(call('POST', '/limit', { limit: '0' }))).toBe('REQUEST_INVALID');
  expect(await codeOf(call('POST', '/limit', { limit: 'fast' }))).toBe('RANGE_INVALID');
  expect(await codeOf(call('POST', '/limit', {}))).toBe('REQUEST_INVALID');
  expect(at.kinds()).toEqual(['merge-limited', 'merge-limited', 'merge-paused', 'merge-resumed']);
});
