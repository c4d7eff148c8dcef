/**
 * The oracle's second rule: what was answered before a FLUSH was issued is there, once anything issued
 * after that FLUSH was answered has survived; FUA likewise for one write. Each history has a legal image
 * and an image that differs from it in the one way that the rule forbids.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { testScope } from '../support/tools.ts';
import { History, rulesBroken } from './history.ts';

const BLOCK = 4096;
const SIZE = 64 * BLOCK;
let history: History;

beforeEach(() => {
  const scope = testScope();
  history = new History(scope.tempDir('bf-oracle-'), SIZE);
  scope.defer('close the log', () => history.close());
});

describe('accepted', () => {
  test('everything of some flush and nothing after it', () => {
    const first = history.write(0, BLOCK, { content: 1 });
    history.flush();
    history.write(BLOCK, BLOCK, { content: 2 });
    history.flush();
    history.apply(first);
    const verdict = history.judge();
    expect(verdict).toMatchObject({ ok: true, writesLost: 1, flushesInForce: 0 });
  });

  test('later writes of the open epoch in any selection', () => {
    const base = history.write(0, BLOCK, { content: 1 });
    history.flush();
    const later = [2, 3, 4].map((n) => history.write(n * BLOCK, BLOCK, { content: n }));
    history.apply(base, later[1]!);
    expect(history.judge()).toMatchObject({ ok: true, writesLost: 2, flushesInForce: 1 });
  });

  test('a flushed block that was overwritten afterwards', () => {
    history.write(0, BLOCK, { content: 1 });
    history.flush();
    history.apply(history.write(0, BLOCK, { content: 2 }));
    expect(history.judge().ok).toBe(true);
  });

  test('a write in flight while the flush was', () => {
    const slow = history.issueWrite(0, BLOCK, { content: 1 });
    history.flush();
    history.answer(slow);
    history.apply(history.write(BLOCK, BLOCK, { content: 2 }));
    expect(history.judge().ok).toBe(true);
  });

  test('a flush without an answer demands nothing', () => {
    history.write(0, BLOCK, { content: 1 });
    history.issueFlush();
    history.apply(history.write(BLOCK, BLOCK, { content: 2 }));
    expect(history.judge().ok).toBe(true);
  });

  test('a flush that failed demands nothing', () => {
    history.write(0, BLOCK, { content: 1 });
    history.answer(history.issueFlush(), 5);
    history.apply(history.write(BLOCK, BLOCK, { content: 2 }));
    expect(history.judge().ok).toBe(true);
  });

  test('a survivor issued before the flush was answered', () => {
    history.write(0, BLOCK, { content: 1 });
    const flush = history.issueFlush();
    const survivor = history.issueWrite(BLOCK, BLOCK, { content: 2 });
    history.answer(flush);
    history.answer(survivor);
    history.apply(survivor);
    expect(history.judge().ok).toBe(true);
  });

  test('either of two overlapping writes that were in flight together', () => {
    const one = history.issueWrite(0, 2 * BLOCK, { content: 1 });
    const two = history.issueWrite(BLOCK, 2 * BLOCK, { content: 2 });
    history.answer(two);
    history.answer(one);
    history.flush();
    const after = history.write(8 * BLOCK, BLOCK, { content: 3 });
    history.apply(one, two, after);
    expect(history.judge().ok).toBe(true);
    history.apply(two, one);
    expect(history.judge().ok).toBe(true);
  });

  test('the same content written before and after the flush', () => {
    const before = history.write(0, BLOCK, { content: 1 });
    const other = history.write(BLOCK, BLOCK, { content: 2 });
    history.flush();
    history.write(0, BLOCK, { content: 1 });
    history.apply(before);
    // Block 0 may be the old version: then nothing later survived and block 1 may be missing.
    expect(history.judge().ok).toBe(true);
    history.apply(other);
    expect(history.judge().ok).toBe(true);
  });

  test('zeroes that may be the initial ones', () => {
    history.write(0, BLOCK, { content: 1 });
    history.flush();
    history.zero(BLOCK, BLOCK);
    expect(history.judge().ok).toBe(true);
  });
});

describe('refused', () => {
  test('a lost flushed write', () => {
    const base = history.write(0, BLOCK, { content: 1 });
    history.write(BLOCK, BLOCK, { content: 2 });
    history.flush();
    const survivor = history.write(2 * BLOCK, BLOCK, { content: 3 });
    history.apply(base, survivor);
    const verdict = history.judge();
    expect(rulesBroken(verdict)).toEqual(['flush']);
    expect(verdict.violations).toHaveLength(1);
    expect(verdict.violations[0]).toMatchObject({ offset: BLOCK, length: BLOCK });
  });

  test('a write that overtook a flush two flushes back', () => {
    history.write(0, BLOCK, { content: 1 });
    history.flush();
    const middle = history.write(BLOCK, BLOCK, { content: 2 });
    history.flush();
    history.apply(middle, history.write(2 * BLOCK, BLOCK, { content: 3 }));
    expect(rulesBroken(history.judge())).toEqual(['flush']);
  });

  test('a stale block: flushed, and back at the version before', () => {
    const old = history.write(0, BLOCK, { content: 1 });
    history.write(0, BLOCK, { content: 2 });
    history.flush();
    history.apply(old, history.write(BLOCK, BLOCK, { content: 3 }));
    expect(rulesBroken(history.judge())).toEqual(['flush']);
  });

  test('one stale sector of a flushed block', () => {
    const old = history.write(0, BLOCK, { content: 1 });
    const next = history.write(0, BLOCK, { content: 2 });
    history.flush();
    history.apply(old, next, history.write(BLOCK, BLOCK, { content: 3 }));
    expect(history.judge().ok).toBe(true);
    history.applyPart(old, 1024, 1536);
    const verdict = history.judge();
    expect(rulesBroken(verdict)).toEqual(['flush']);
    expect(verdict.violations[0]).toMatchObject({ offset: 1024, length: 512 });
  });

  test('flushed zeroes that are not there', () => {
    const old = history.write(0, BLOCK, { content: 1 });
    history.zero(0, BLOCK);
    history.flush();
    history.apply(old, history.write(BLOCK, BLOCK, { content: 3 }));
    expect(rulesBroken(history.judge())).toEqual(['flush']);
  });

  test('content from before the last rewrite, though a TRIM came after it', () => {
    const old = history.write(0, BLOCK, { content: 1 });
    history.write(0, BLOCK, { content: 2 });
    history.trim(0, BLOCK);
    history.flush();
    history.apply(old, history.write(BLOCK, BLOCK, { content: 3 }));
    expect(rulesBroken(history.judge())).toEqual(['flush']);
  });

  test('zeroes left by a TRIM that was rewritten and flushed', () => {
    history.trim(0, BLOCK);
    history.write(0, BLOCK, { content: 2 });
    history.flush();
    history.apply(history.write(BLOCK, BLOCK, { content: 3 }));
    expect(rulesBroken(history.judge())).toEqual(['flush']);
  });

  test('an unanswered survivor puts flushes in force too', () => {
    history.write(0, BLOCK, { content: 1 });
    history.flush();
    history.apply(history.issueWrite(BLOCK, BLOCK, { content: 3 }));
    expect(rulesBroken(history.judge())).toEqual(['flush']);
  });

  test('a surviving sector is enough', () => {
    history.write(0, BLOCK, { content: 1 });
    history.flush();
    const survivor = history.write(4 * BLOCK, 8 * BLOCK, { content: 3 });
    history.applyPart(survivor, 7 * BLOCK + 512, 7 * BLOCK + 1024);
    expect(rulesBroken(history.judge())).toEqual(['flush']);
  });

  test('a lost FUA write, while others without a flush may be lost', () => {
    history.write(0, BLOCK, { content: 1 });
    const durable = history.write(BLOCK, BLOCK, { content: 2, fua: true });
    const survivor = history.write(2 * BLOCK, BLOCK, { content: 3 });
    history.apply(durable, survivor);
    expect(history.judge()).toMatchObject({ ok: true, flushesInForce: 1, writesLost: 1 });
    history.image.fill(0, BLOCK, 2 * BLOCK);
    expect(rulesBroken(history.judge())).toEqual(['fua']);
  });
});
