/**
 * Volumes are created and deleted whole, found again, and refused when their data cannot be trusted. Method: a disk
 * in memory, with a power cut at every step; wrong names and sizes; damaged logs beside good ones.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockferryError } from '../../src/io/errors.ts';
import { parseSize, validateVolumeName } from '../../src/volume/store.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { logPath, newVolume, openStore, reopen, turn } from './support/store.ts';
import { flush, read, write, zero } from './support/request.ts';

const SIZE = 2 ** 20;

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (thrown) {
    if (thrown instanceof BlockferryError) return thrown.code;
    throw thrown;
  }
  return 'accepted';
}

describe('sizes', () => {
  test.each([
    ['4096', 4096],
    ['512M', 512 * 2 ** 20],
    ['10G', 10 * 2 ** 30],
    ['1T', 2 ** 40],
    ['1t', 2 ** 40],
    ['1P', 2 ** 50],
    ['4K', 4096],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each(['', '0', '0G', '1', '4097', '-4096', '1.5G', '1GB', '1 G', '2P', '1e6', '0x1000'])(
    '%j is refused',
    (text) => {
      expect(codeOf(() => parseSize(text))).toBe('SIZE_INVALID');
    },
  );
  test('a size of any length of digits is refused, not misread', () => {
    expect(codeOf(() => parseSize('9'.repeat(400)))).toBe('SIZE_INVALID');
  });
});

describe('names', () => {
  test.each(['a', 'demo', 'ü', '…', 'a b', '-x', '.a', 'x'.repeat(255), 'é'.repeat(127)])(
    '%j is taken',
    (name) => {
      expect(validateVolumeName(name)).toBe(name);
    },
  );
  test.each(['', '.', '..', 'a/b', 'a@b', 'a\nb', '\u007f', '\u0085', '\ud800', 'é'.repeat(128)])(
    '%j is refused',
    (name) => {
      expect(codeOf(() => validateVolumeName(name))).toBe('VOLUME_NAME_INVALID');
    },
  );
});

describe('a store', () => {
  test('finds its volumes again', async () => {
    const disk = new MemoryDisk();
    const store = openStore(disk);
    await Promise.all(['b', 'a', 'c'].map((name) => store.create(name, SIZE)));
    expect(store.list().map(({ name }) => name)).toEqual(['a', 'b', 'c']);
    await store.delete(store.find('b')!);
    expect(store.find('b')).toBeNull();
    const { id } = store.find('a')!;
    await store.close();
    const again = openStore(disk.crash(() => false));
    expect(again.list().map(({ name }) => name)).toEqual(['a', 'c']);
    expect(again.find('a')).toMatchObject({ id, sizeBytes: SIZE, allocatedBytes: 0 });
    expect(again.find('a')!.metadata.state.createdAt).toBeGreaterThan(1_600_000_000_000);
  });

  test.each([1, 2])(
    'takes no writes into a volume that a power cut would take away: its end was refused (%i syncs fail)',
    async (fails) => {
      const disk = new MemoryDisk();
      const store = openStore(disk);
      await store.create('a', SIZE);
      const sync = disk.syncDirectory.bind(disk);
      let left = fails;
      disk.syncDirectory = (path) => {
        if (path.endsWith('/volumes') && left > 0) {
          left -= 1;
          // What it was to make durable may be, all the same.
          if (left === fails - 1) sync(path);
          throw Object.assign(new Error('EIO'), { errno: -5, code: 'EIO' });
        }
        sync(path);
      };
      await expect(store.delete(store.find('a')!)).rejects.toMatchObject({
        code: 'METADATA_WRITE_FAILED',
      });
      const isThere = store.find('a') !== null;
      expect(isThere).toBe(fails === 1);
      const again = openStore(disk.crash(() => false));
      expect(again.find('a') !== null).toBe(isThere);
      await again.close();
    },
  );

  test('takes each name once, also while it is being created', async () => {
    const store = openStore(new MemoryDisk());
    const [first, second] = await Promise.allSettled([
      store.create('a', SIZE),
      store.create('a', SIZE),
    ]);
    expect(first.status).toBe('fulfilled');
    expect(second).toMatchObject({ reason: { code: 'VOLUME_EXISTS' } });
    await expect(store.create('a/b', SIZE)).rejects.toMatchObject({ code: 'VOLUME_NAME_INVALID' });
    await expect(store.create('b', 1000)).rejects.toMatchObject({ code: 'SIZE_INVALID' });
  });

  test('is open in one process at a time', async () => {
    const disk = new MemoryDisk();
    const store = openStore(disk);
    expect(codeOf(() => openStore(disk))).toBe('DATA_DIR_IN_USE');
    await store.close();
    await openStore(disk).close();
  });

  test('of a later format is refused, and nothing in it is touched', () => {
    const disk = new MemoryDisk();
    disk.makeDirectory('/data');
    disk.replaceFile('/data/format', Buffer.from('blockferry 2\n'));
    expect(codeOf(() => openStore(disk))).toBe('DATA_DIR_FORMAT_NEWER');
    expect(disk.list('/data')).toEqual(['format']);
    disk.replaceFile('/data/format', Buffer.from('something else'));
    expect(codeOf(() => openStore(disk))).toBe('DATA_DIR_UNUSABLE');
  });

  test('opens the others when one volume is damaged', async () => {
    const { disk, store, volume } = await newVolume(SIZE);
    await store.create('good', SIZE);
    await write(volume, 0, Buffer.alloc(1, 1));
    await flush(volume);
    await store.close();
    const { id } = volume;
    const log = disk.open(logPath(volume), { create: false });
    log.writeNow(Buffer.alloc(1, 0xff), 0, 1, 80);
    const again = openStore(disk.kill());
    expect(again.list().map(({ name }) => name)).toEqual(['good']);
    expect(again.damaged).toHaveLength(1);
    expect(again.damaged[0]).toMatchObject({ id });
    expect(again.damaged[0]!.reason).toMatch(/offset 64: .*\[METADATA_CORRUPT\]$/);
  });

  test('reports a data file that is too short, and two volumes of one name', async () => {
    const { disk, store, volume } = await newVolume(SIZE);
    await store.close();
    disk.open(volume.layer.file.path, { create: false }).truncateNow(4096);
    const again = openStore(disk.kill());
    expect(again.damaged[0]!.reason).toContain('METADATA_CORRUPT');
    await again.create('test', SIZE);
    await again.close();
    disk.open(volume.layer.file.path, { create: false }).truncateNow(SIZE);
    const third = openStore(disk.kill());
    expect(third.list()).toHaveLength(1);
    expect(third.damaged[0]!.reason).toContain('another volume has the name test');
  });

  test('has a volume whole or not at all, whenever the power goes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(12), fc.boolean(), async (steps, deleting) => {
        const { disk, store, volume } = await newVolume(SIZE);
        await write(volume, 0, Buffer.alloc(1, 9));
        await flush(volume);
        disk.holding = true;
        let done = false;
        const work = (deleting ? store.delete(volume) : store.create('new', SIZE)).then(
          () => (done = true),
        );
        for (let count = 0; count < steps; count += 1) {
          if (disk.held.length > 0) disk.letGo();
          await turn();
        }
        const was = done;
        const after = disk.crash(() => false);
        const again = openStore(after);
        expect(again.damaged).toEqual([]);
        expect(after.list('/data/volumes')).toHaveLength(again.list().length);
        const names = again.list().map(({ name }) => name);
        if (deleting) {
          if (was) expect(names).toEqual([]);
          for (const left of again.list()) expect((await read(left, 0, 1))[0]).toBe(9);
        } else {
          expect(names).toContain('test');
          if (was) expect(names).toContain('new');
        }
        disk.holding = false;
        while (disk.held.length > 0) disk.letGo();
        await work;
      }),
      { numRuns: 60 },
    );
  });
});

describe('closing', () => {
  test('waits for what is in flight, then refuses', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(8192, 1));
    await flush(volume);
    disk.holding = true;
    const punched = zero(volume, { offset: 0, length: 4096 });
    const closed = volume.close();
    expect(await write(volume, 0, Buffer.alloc(1, 1))).toBe(108);
    expect(await flush(volume)).toBe(108);
    disk.holding = false;
    while (disk.held.length > 0) disk.letGo();
    expect(await punched).toBe(0);
    await closed;
    expect(reopen(disk.crash(() => false)).volume.metadata.unclean).toBe(false);
  });
});

describe('resizing', () => {
  test('keeps what is inside, and shows zeroes in what is added', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(SIZE, 7));
    await volume.resize(2 * SIZE);
    expect(volume.sizeBytes).toBe(2 * SIZE);
    const model = Buffer.concat([Buffer.alloc(SIZE, 7), Buffer.alloc(SIZE)]);
    expect((await read(volume, 0, 2 * SIZE)).equals(model)).toBe(true);
    await write(volume, 2 * SIZE - 1, Buffer.alloc(1, 1));
    await volume.resize(SIZE / 2);
    expect(await write(volume, SIZE / 2, Buffer.alloc(1, 1))).toBe(28);
    await volume.resize(2 * SIZE);
    model.fill(0, SIZE / 2);
    expect((await read(volume, 0, 2 * SIZE)).equals(model)).toBe(true);
    expect(volume.allocatedBytes).toBe(SIZE / 2);
    const again = reopen(disk.crash(() => false)).volume;
    expect(again.sizeBytes).toBe(2 * SIZE);
    await expect(volume.resize(100)).rejects.toMatchObject({ code: 'SIZE_INVALID' });
  });

  test('shows nothing of what was cut off, also when the file could not be cut', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(SIZE, 7));
    disk.failTruncate = true;
    await volume.resize(SIZE / 2);
    expect(volume.sizeBytes).toBe(SIZE / 2);
    disk.failTruncate = false;
    const again = reopen(disk.crash(() => true)).volume;
    expect(again.sizeBytes).toBe(SIZE / 2);
    expect(again.layer.file.sizeNow()).toBe(SIZE / 2);
    await volume.resize(SIZE);
    const tail = await read(volume, SIZE / 2, SIZE / 2);
    expect(tail.equals(Buffer.alloc(SIZE / 2))).toBe(true);
    // The map alone would say zero: what counts is what a write of a part of a block uncovers.
    await write(volume, SIZE - 4096, Buffer.alloc(1, 1));
    expect((await read(volume, SIZE - 4095, 4095)).equals(Buffer.alloc(4095))).toBe(true);
  });

  test('refuses a read that waits for the disk meanwhile and reaches past the new end', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 7));
    await write(volume, SIZE - 4096, Buffer.alloc(4096, 7));
    disk.cold = true;
    const later = disk.later.bind(disk);
    const waiting: (() => void)[] = [];
    disk.later = (kind, ...work) => {
      if (kind === 'read') waiting.push(work[2]);
      else later(kind, ...work);
    };
    const reading = read(volume, 0, SIZE);
    expect(waiting).toHaveLength(1);
    await volume.resize(SIZE / 2);
    waiting[0]?.();
    await expect(reading).rejects.toThrow('read answered 22');
  });

  test('goes on while a flush is on its way that was to record what is cut off', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 7));
    const shrinking = volume.resize(SIZE / 2);
    // Each flush of the shrink is followed by a write past the new end, and by the next flush.
    const flushes: Promise<number>[] = [];
    for (let turns = 0; turns < 200; turns += 1) {
      const offset = SIZE - 4096 * (1 + (turns % 50));
      if (volume.sizeBytes === SIZE) await write(volume, offset, Buffer.alloc(4096, 8));
      flushes.push(flush(volume));
      await turn();
    }
    await shrinking;
    expect(await Promise.all(flushes)).toEqual(flushes.map(() => 0));
    const again = reopen(disk.kill());
    expect(again.volume.sizeBytes).toBe(SIZE / 2);
    expect((await read(again.volume, 0, 4096)).equals(Buffer.alloc(4096, 7))).toBe(true);
  });

  test('ends with the old size or the new one, whenever the power goes, and nothing cut off comes back', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(10),
        fc.boolean(),
        fc.infiniteStream(fc.boolean()),
        async (steps, growing, coin) => {
          const { disk, volume } = await newVolume(SIZE);
          await write(volume, 0, Buffer.alloc(SIZE, 7));
          await flush(volume);
          disk.holding = true;
          let done = false;
          const target = growing ? SIZE * 2 : SIZE / 2;
          const work = volume.resize(target).then(() => (done = true));
          for (let count = 0; count < steps; count += 1) {
            if (disk.held.length > 0) disk.letGo();
            await turn();
          }
          const was = done;
          const again = reopen(disk.crash(() => coin.next().value)).volume;
          expect(again.sizeBytes === target || (!was && again.sizeBytes === SIZE)).toBe(true);
          const kept = Math.min(SIZE, again.sizeBytes);
          await again.resize(SIZE * 4);
          const model = Buffer.concat([Buffer.alloc(kept, 7), Buffer.alloc(SIZE * 4 - kept)]);
          expect((await read(again, 0, SIZE * 4)).equals(model)).toBe(true);
          disk.holding = false;
          while (disk.held.length > 0) disk.letGo();
          await work;
        },
      ),
      { numRuns: 60 },
    );
  });
});
