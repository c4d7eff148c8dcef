/**
 * Directories and whole files: replaced whole or not at all, listed in order, removed, and locked by one
 * process at a time, also when that process is killed. Method: real directories; the other process is
 * the compiled program.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';

import { createNodeDisk } from '../../src/io/node-disk.ts';
import { builtModule } from './built.ts';
import { WAYS } from './files.ts';
import { temporaryDirectory, until } from './wire.ts';

const disk = createNodeDisk();

describe('open', () => {
  it('creates when asked, exclusively when asked, for the owner alone', () => {
    const path = join(temporaryDirectory(), 'file');
    expect(() => disk.open(path, { create: false })).toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
    disk.open(path, { create: true, exclusive: true }).closeNow();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(() => disk.open(path, { create: true, exclusive: true })).toThrow(
      expect.objectContaining({ code: 'EEXIST' }),
    );
    disk.open(path, { create: true }).closeNow();
  });
});

describe('replaceFile', () => {
  it('puts the content in place and leaves nothing else', () => {
    const directory = temporaryDirectory();
    const path = join(directory, 'file');
    writeFileSync(`${path}.tmp`, 'left by a crash, and longer than what comes');
    disk.replaceFile(path, Buffer.from('one'));
    disk.replaceFile(path, Buffer.from('two'));
    expect(disk.readFile(path).toString()).toBe('two');
    expect(readdirSync(directory)).toEqual(['file']);
  });

  it('keeps the old content when the new cannot be written', () => {
    const directory = temporaryDirectory();
    const path = join(directory, 'file');
    disk.replaceFile(path, Buffer.from('old'));
    mkdirSync(`${path}.tmp`);
    expect(() => disk.replaceFile(path, Buffer.from('new'))).toThrow();
    expect(readFileSync(path, 'utf8')).toBe('old');
  });
});

describe('directories', () => {
  it('are made, listed in order, renamed and removed', () => {
    const root = temporaryDirectory();
    disk.makeDirectory(join(root, 'a', 'b'));
    disk.makeDirectory(join(root, 'a', 'b'));
    for (const name of ['z', 'B', 'a']) disk.replaceFile(join(root, 'a', name), Buffer.alloc(0));
    expect(disk.list(join(root, 'a'))).toEqual(['B', 'a', 'b', 'z']);
    disk.rename(join(root, 'a'), join(root, 'c'));
    disk.syncDirectory(root);
    expect([disk.exists(join(root, 'a')), disk.exists(join(root, 'c', 'b'))]).toEqual([
      false,
      true,
    ]);
    disk.remove(join(root, 'c'));
    expect(disk.list(root)).toEqual([]);
    expect(() => disk.remove(join(root, 'c'))).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });
});

describe.each(WAYS)('the lock of a directory through %s', (name, makeDisk) => {
  const syscalls = name === 'Node alone' ? 'null' : 'undefined';

  it('has one holder, and the next after its release', () => {
    const directory = temporaryDirectory();
    const first = makeDisk().lock(directory);
    expect(first).not.toBeNull();
    expect(makeDisk().lock(directory)).toBeNull();
    first?.release();
    first?.release();
    const second = makeDisk().lock(directory);
    expect(second).not.toBeNull();
    first?.release();
    expect(makeDisk().lock(directory)).toBeNull();
    second?.release();
  });

  it('is refused while another process lives, and free when that was killed', async () => {
    const directory = temporaryDirectory();
    const holder = await lockingProcess(directory, syscalls);
    expect(makeDisk().lock(directory)).toBeNull();
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    const lock = makeDisk().lock(directory);
    expect(lock).not.toBeNull();
    lock?.release();
  });

  it('is free when its holder was killed and its parent did not take notice yet', async () => {
    const directory = temporaryDirectory();
    // sleep replaces the shell that started the holder, and never waits for it.
    const command = ['-c', '"$0" --input-type=module -e "$1" & exec sleep 60'];
    const parent = spawn('sh', [...command, process.execPath, lockScript(directory, syscalls)]);
    onTestFinished(() => void parent.kill('SIGKILL'));
    const [said] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(/^held (\d+)\n$/.exec(said.toString())?.[1]);
    process.kill(pid, 'SIGKILL');
    const state = (): string => readFileSync(`/proc/${pid}/stat`, 'latin1');
    await until(() => state().includes(') Z '), 'the end of the holder');
    const lock = makeDisk().lock(directory);
    expect(lock).not.toBeNull();
    lock?.release();
  });

  it('also excludes a process that locks the other way', async () => {
    const directory = temporaryDirectory();
    await lockingProcess(directory, syscalls === 'null' ? 'undefined' : 'null');
    expect(makeDisk().lock(directory)).toBeNull();
    const own = temporaryDirectory();
    const lock = makeDisk().lock(own);
    for (const [, makeOther] of WAYS) expect(makeOther().lock(own)).toBeNull();
    lock?.release();
  });

  it('is not held by a file that a machine left behind when it lost its power', () => {
    const directory = temporaryDirectory();
    // This process id lives, but it did not start at that time.
    for (const content of [
      `${process.pid} 12345\n`,
      '',
      'not what a lock writes',
      'longer than what a lock writes '.repeat(9),
      '999999999 1\n',
    ]) {
      writeFileSync(join(directory, 'lock'), content);
      const lock = makeDisk().lock(directory);
      expect(lock).not.toBeNull();
      for (const [, makeOther] of WAYS) expect(makeOther().lock(directory)).toBeNull();
      lock?.release();
    }
  });

  it('throws when the directory is not there', () => {
    expect(() => makeDisk().lock('/nonexistent')).toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
  });
});

it('never gives the space of a lock back: on a full disk there would be none for the next', () => {
  const directory = temporaryDirectory();
  const size = (): number => statSync(join(directory, 'lock')).size;
  const lock = disk.lock(directory);
  const held = size();
  expect(held).toBeGreaterThan(0);
  lock?.release();
  expect(size()).toBe(held);
  disk.lock(directory)?.release();
  expect(size()).toBe(held);
});

async function lockingProcess(directory: string, syscalls: string): Promise<ChildProcess> {
  const args = ['--input-type=module', '-e', lockScript(directory, syscalls)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  expect(said.toString()).toBe(`held ${child.pid}\n`);
  return child;
}

/** Takes the lock, says so and stays. `syscalls` is "null" or "undefined". */
function lockScript(directory: string, syscalls: string): string {
  return `
    const { createNodeDisk } = await import(${JSON.stringify(builtModule('src/io/node-disk.js'))});
    const disk = createNodeDisk(${syscalls} === null ? { syscalls: null } : {});
    const lock = disk.lock(${JSON.stringify(directory)});
    console.log(lock === null ? 'refused' : 'held', process.pid);
    setInterval(() => {}, 1000);`;
}
