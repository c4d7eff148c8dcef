/**
 * A `kill -9` loses no acknowledged write, flushed or not. Method: a child process changes a volume on real files at
 * random and names each change before and after it; it is killed at a random moment and started again, several
 * times; then every sector must be what the last acknowledged change left there, or what the one in flight would.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { nodeDisk } from '../../src/io/node-disk.ts';
import { builtModule } from '../io/built.ts';
import { read } from './support/request.ts';
import { openStore, temporaryDirectory } from './support/store.ts';

const SECTOR = 512;
const SECTORS = 16_384;
const SIZE = SECTOR * SECTORS;

const CHILD = `
import { writeSync } from 'node:fs';
const [{ VolumeStore }, { nodeDisk }, { systemClock }, { systemRandom }, { DeviceRequest, PENDING }] =
  await Promise.all(process.argv.slice(2).map((url) => import(url)));
class Request extends DeviceRequest { retain() {} }
const store = VolumeStore.open({
  disk: nodeDisk, clock: systemClock, random: systemRandom, path: process.argv[1],
});
const volume = store.find('v');
const pick = (count) => Math.floor(Math.random() * count);
const ask = (call, request) => new Promise((resolve) => {
  const completer = { completed: (_, status) => resolve(status) };
  request.push(completer);
  const status = volume[call](request);
  if (status !== PENDING) { request.pop(completer); resolve(status); }
});
const say = (line) => writeSync(1, line + '\\n');
say('ready ' + volume.metadata.unclean);
for (let tag = 1; ; tag = (tag % 255) + 1) {
  const request = new Request();
  const kind = ['write', 'write', 'write', 'zero', 'flush'][pick(5)];
  const first = pick(${SECTORS});
  const count = Math.min(1 + pick(pick(4) === 0 ? 2000 : 16), ${SECTORS} - first);
  request.offset = first * ${SECTOR};
  request.length = kind === 'flush' ? 0 : count * ${SECTOR};
  request.noHole = pick(3) === 0;
  request.buffer = Buffer.alloc(request.length, tag);
  say([kind, first, count, kind === 'zero' ? 0 : tag].join(' '));
  say('status ' + await ask(kind, request));
}
`;

interface Change {
  readonly first: number;
  readonly count: number;
  readonly tag: number;
}

describe('a volume on real files', () => {
  let directory: ReturnType<typeof temporaryDirectory>;
  beforeAll(() => {
    directory = temporaryDirectory();
  });
  afterAll(() => directory.remove());

  test('loses no acknowledged write when its process is killed', async () => {
    const created = openStore(nodeDisk, directory.path);
    await created.create('v', SIZE);
    await created.close();
    const model = new Model();
    let changes = 0;
    for (let life = 0; life < 6; life += 1) {
      const lines = await liveAndDie(directory.path, 150 + Math.random() * 300);
      // Every second time the next life begins where this one was killed.
      expect(lines[0]).toBe(life % 2 === 0 ? 'ready false' : 'ready true');
      changes += model.follow(lines.slice(1));
      if (life % 2 === 0) continue;
      const store = openStore(nodeDisk, directory.path);
      const volume = store.find('v')!;
      expect(volume.metadata.unclean).toBe(true);
      model.compare(await read(volume, 0, SIZE));
      await store.close();
    }
    expect(changes).toBeGreaterThan(300);
  });
});

/** What each sector must hold, and what it may hold because a change was in flight at a kill; -1 for nothing else. */
class Model {
  private readonly must = Buffer.alloc(SECTORS);
  private readonly may = new Int16Array(SECTORS).fill(-1);

  /** Takes the words of one life; says how many changes were acknowledged. */
  follow(lines: readonly string[]): number {
    let changes = 0;
    let open: Change | null = null;
    for (const line of lines) {
      const [word, ...numbers] = line.split(' ');
      const [first = 0, count = 0, tag = 0] = numbers.map(Number);
      if (word !== 'status') {
        open = word === 'flush' ? null : { first, count, tag };
        continue;
      }
      expect(line).toBe('status 0');
      if (open !== null) {
        this.must.fill(open.tag, open.first, open.first + open.count);
        this.may.fill(-1, open.first, open.first + open.count);
      }
      changes += 1;
      open = null;
    }
    if (open !== null) this.may.fill(open.tag, open.first, open.first + open.count);
    return changes;
  }

  /** Compares, and takes for settled what it finds. */
  compare(content: Buffer): void {
    for (let sector = 0; sector < SECTORS; sector += 1) {
      const found = content[sector * SECTOR]!;
      const must = this.must[sector]!;
      const may = this.may[sector]!;
      if (found !== must && found !== may) {
        throw new Error(`sector ${sector} holds ${found}, not ${must} or ${may}`);
      }
      this.must[sector] = found;
    }
    this.may.fill(-1);
  }
}

async function liveAndDie(path: string, lifeMs: number): Promise<string[]> {
  const modules = ['volume/store', 'io/node-disk', 'io/clock', 'io/random', 'io/device'];
  const urls = modules.map((name) => builtModule(`src/${name}.js`));
  const child = spawn(process.execPath, ['--input-type=module', '-e', CHILD, path, ...urls], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines: string[] = [];
  const output = createInterface({ input: child.stdout });
  output.on('line', (line) => {
    lines.push(line);
    if (lines.length === 1) setTimeout(() => child.kill('SIGKILL'), lifeMs);
  });
  await Promise.all([once(child, 'exit'), once(output, 'close')]);
  expect(child.signalCode).toBe('SIGKILL');
  return lines;
}
