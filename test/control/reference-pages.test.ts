/**
 * The reference pages name what there is: every error with its remedy, every route, every option. What the
 * code says is looked for in the pages.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { describe, expect, test } from 'vitest';
import { createProgram } from '../../src/cli/main.ts';
import { MIRROR_ACTIONS } from '../../src/control/status.ts';
import { ERROR_CATALOGUE } from '../../src/io/errors.ts';
import { MIRROR_STATES } from '../../src/replicator/status.ts';
import { ROOT } from '../support/root.ts';

const page = (name: string): string =>
  readFileSync(join(ROOT, 'docs', 'reference', `${name}.md`), 'utf8');

describe('the reference', () => {
  test('has every error, and no other', () => {
    const written = new Map<string, string[]>();
    for (const line of page('errors').split('\n')) {
      const [, code, ...cells] = line.split('|').map((cell) => cell.trim());
      if (/^`[A-Z_]+`$/.test(code ?? '')) written.set(code ?? '', cells.slice(0, 3));
    }
    const expected = new Map<string, string[]>();
    for (const [code, { fault, status, remedy }] of Object.entries(ERROR_CATALOGUE)) {
      expected.set(`\`${code}\``, [fault, String(status), remedy]);
    }
    expect(written).toEqual(expected);
  });

  test('has every verb and option of the command line', () => {
    const text = page('cli') + page('configuration');
    const visit = (command: Command, path: string): void => {
      for (const { long } of command.options) {
        if (long !== '--version') expect(text, `${path} ${long ?? ''}`).toContain(long);
      }
      for (const child of command.commands) {
        const childPath = `${path} ${child.name()}`;
        const written = text.includes(childPath) || text.includes(`|${child.name()}`);
        expect(written, childPath).toBe(true);
        visit(child, childPath);
      }
    };
    visit(createProgram(), 'blockferry');
  });

  test('has every state and action of a mirror', () => {
    const api = page('control-api');
    const cli = page('cli');
    for (const state of MIRROR_STATES) {
      expect(api).toContain(state);
      expect(cli).toContain(`\`${state}\``);
    }
    for (const action of MIRROR_ACTIONS) expect(api).toContain(`/mirrors/${action}`);
  });
});
