/**
 * The oracle's third rule, for synchronous mirrors: every answered write is there, or a version that is
 * not older. The same images are legal for an asynchronous mirror, which shows that the mode decides.
 */
import { beforeEach, expect, test } from 'vitest';
import { testScope } from '../support/tools.ts';
import { History, rulesBroken } from './history.ts';

const BLOCK = 4096;
let history: History;

beforeEach(() => {
  const scope = testScope();
  history = new History(scope.tempDir('bf-oracle-'), 16 * BLOCK);
  scope.defer('close the log', () => history.close());
});

test('an answered write that is missing is refused', () => {
  history.apply(history.write(0, BLOCK, { content: 1 }));
  history.write(BLOCK, BLOCK, { content: 2 });
  expect(history.judge('async').ok).toBe(true);
  expect(rulesBroken(history.judge('sync'))).toEqual(['sync']);
});

test('of a copy that was taken under load only what was answered before is demanded', () => {
  history.apply(history.write(0, BLOCK, { content: 1 }));
  const before = history.lastEvent;
  const later = history.write(BLOCK, BLOCK, { content: 2 });
  expect(history.judge('sync', before)).toMatchObject({ ok: true, writesAnswered: 1 });
  history.apply(later);
  expect(history.judge('sync', before).ok).toBe(true);
  history.image.fill(0);
  expect(rulesBroken(history.judge('sync', before))).toEqual(['sync']);
});

test('an unanswered write may be missing, whole or in part', () => {
  history.apply(history.write(0, BLOCK, { content: 1 }));
  const open = history.issueWrite(BLOCK, 2 * BLOCK, { content: 2 });
  expect(history.judge('sync').ok).toBe(true);
  history.applyPart(open, BLOCK, BLOCK + 512);
  expect(history.judge('sync').ok).toBe(true);
});

test('an unanswered write over an answered one leaves either', () => {
  const done = history.write(0, BLOCK, { content: 1 });
  const open = history.issueWrite(0, BLOCK, { content: 2 });
  history.apply(done);
  expect(history.judge('sync').ok).toBe(true);
  history.apply(open);
  expect(history.judge('sync').ok).toBe(true);
  history.image.fill(0);
  expect(rulesBroken(history.judge('sync'))).toEqual(['sync']);
});

test('overlapping writes in flight together may end either way, but not before both', () => {
  const old = history.write(0, BLOCK, { content: 3 });
  const one = history.issueWrite(0, BLOCK, { content: 1 });
  const two = history.issueWrite(0, BLOCK, { content: 2 });
  history.answer(one);
  history.answer(two);
  history.apply(one);
  expect(history.judge('sync').ok).toBe(true);
  history.apply(two);
  expect(history.judge('sync').ok).toBe(true);
  history.apply(old);
  expect(history.judge('sync').ok).toBe(false);
});

test('a write answered before the next was issued is not interchangeable with it', () => {
  const one = history.write(0, BLOCK, { content: 1 });
  const two = history.write(0, BLOCK, { content: 2 });
  history.apply(one);
  expect(history.judge('sync').ok).toBe(false);
  history.apply(two);
  expect(history.judge('sync')).toMatchObject({ ok: true, writesLost: 0, lossMs: 0 });
});
