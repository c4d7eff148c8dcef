/**
 * The oracle's first rule: a cell holds zeroes or what some request left there, sector by sector. Shown
 * with images that hold every legal mixture, and with images that hold bytes from nowhere, from the
 * wrong place or from half a sector.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { testScope } from '../support/tools.ts';
import { History, rulesBroken } from './history.ts';

const KIB = 1024;
const SIZE = 64 * KIB;
let history: History;

beforeEach(() => {
  const scope = testScope();
  history = new History(scope.tempDir('bf-oracle-'), SIZE);
  scope.defer('close the log', () => history.close());
});

describe('accepted', () => {
  test('zeroes where nothing was flushed', () => {
    history.write(0, 4 * KIB, { content: 1 });
    expect(history.judge()).toMatchObject({ ok: true, writesLost: 1 });
  });

  test('every version of a block that was never flushed', () => {
    const versions = [1, 2, 3].map((content) => history.write(8 * KIB, 4 * KIB, { content }));
    for (const version of versions) {
      history.apply(version);
      expect(history.judge().ok).toBe(true);
    }
  });

  test('an unanswered write of which some sectors arrived', () => {
    const write = history.issueWrite(4 * KIB, 16 * KIB, { content: 7 });
    history.applyPart(write, 512, 1024);
    history.applyPart(write, 6 * KIB, 11 * KIB);
    expect(history.judge().ok).toBe(true);
  });

  test('sectors of a block from different writes, when requests are not made of whole blocks', () => {
    const low = history.write(0, 1536, { content: 1 });
    const high = history.write(1024, 3 * KIB, { content: 2 });
    history.apply(low);
    history.applyPart(high, 512, 3 * KIB);
    expect(history.judge().ok).toBe(true);
  });

  test('zeroes or the old content after a TRIM', () => {
    const write = history.write(0, 8 * KIB, { content: 5 });
    const trim = history.trim(0, 8 * KIB);
    history.flush();
    history.apply(history.write(16 * KIB, 4 * KIB, { content: 6 }));
    history.apply(write);
    expect(history.judge().ok).toBe(true);
    history.applyPart(trim, 0, 4 * KIB);
    expect(history.judge().ok).toBe(true);
    history.apply(trim);
    expect(history.judge().ok).toBe(true);
  });

  test('a write that failed, there or not', () => {
    const write = history.issueWrite(0, 4 * KIB, { content: 9 });
    history.answer(write, 28);
    history.flush();
    history.apply(history.write(8 * KIB, 512, { content: 1 }));
    expect(history.judge('sync').ok).toBe(true);
    history.apply(write);
    expect(history.judge('sync').ok).toBe(true);
  });
});

describe('refused', () => {
  test.each([0, 511, 512, 4095, 4096, 40_000, SIZE - 1])('a foreign byte at %i', (position) => {
    history.apply(history.write(0, 8 * KIB, { content: 1 }));
    expect(history.judge().ok).toBe(true);
    history.image[position] = 0xee;
    const verdict = history.judge();
    expect(rulesBroken(verdict)).toEqual(['known']);
    expect(verdict.violations[0]?.offset).toBe(Math.floor(position / 512) * 512);
  });

  test('a sector torn between two versions', () => {
    const old = history.write(0, 4 * KIB, { content: 1 });
    const next = history.issueWrite(0, 4 * KIB, { content: 2 });
    history.apply(old);
    history.applyPart(next, 0, 2048 + 100);
    const verdict = history.judge();
    expect(verdict.violationCount).toBe(1);
    expect(verdict.violations[0]).toMatchObject({ rule: 'known', offset: 2048, length: 512 });
  });

  test('the content of another block', () => {
    history.apply(history.write(0, 4 * KIB, { content: 1 }));
    const write = history.write(4 * KIB, 4 * KIB, { content: 2 });
    write.content.copy(history.image, 8 * KIB);
    expect(rulesBroken(history.judge())).toEqual(['known']);
  });

  test('content in a block that no request touched', () => {
    history.image[SIZE - 1] = 1;
    expect(history.judge().violationCount).toBe(1);
  });

  test('an image that is shorter than the disk', () => {
    const short = new History(testScope().tempDir('bf-oracle-'), SIZE);
    Object.defineProperty(short, 'image', { value: Buffer.alloc(SIZE - 512) });
    expect(() => short.judge()).toThrow(/image of/);
    short.close();
  });

  test('a log with requests that are not made of whole sectors', () => {
    history.write(100, 512, { content: 1 });
    expect(() => history.judge()).toThrow(/whole sectors/);
  });
});
