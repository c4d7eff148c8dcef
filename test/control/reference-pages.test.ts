/**
 * The reference pages name what there is: every error with its remedy, every route, every option. What the
 * code says is looked for in the pages.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { describe, expect, test } from 'vitest';
import { createProgram } from '../../src/cli/main.ts';
import { EXPORT, FILE, knownKeys } from '../../src/control/config/config-schema.ts';
import { TLS_MODES } from '../../src/control/config/defaults.ts';
import { MIRROR_ACTIONS } from '../../src/control/status.ts';
import { ERROR_CATALOGUE } from '../../src/io/errors.ts';
import * as limits from '../../src/io/limits.ts';
import { EVENT_LEVELS } from '../../src/replicator/event-kinds.ts';
import { MIRROR_STATES } from '../../src/replicator/status.ts';
import { ROOT } from '../support/root.ts';

const page = (name: string): string =>
  readFileSync(join(ROOT, 'docs', 'reference', `${name}.md`), 'utf8');

/** The cells of each row of a page's tables, by the first of them without its backquotes. */
function rowsOf(text: string): Map<string, string[]> {
  const rows = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const [, first = '', ...cells] = line.split('|').map((cell) => cell.trim());
    if (/^`[^`]+`$/.test(first)) rows.set(first.slice(1, -1), cells);
  }
  return rows;
}

/** A bound as the page writes it. */
function written(name: string, value: number): string {
  if (/_MS(_|$)/.test(name)) return value < 1000 ? `${value} ms` : `${value / 1000} s`;
  if (!name.includes('_BYTES')) return String(value);
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let [scaled, unit] = [value, 0];
  // Nobody calls a name of 4096 bytes one of 4 KiB.
  if (value <= 4096) return `${value} B`;
  while (scaled % 1024 === 0) [scaled, unit] = [scaled / 1024, unit + 1];
  return `${scaled} ${units[unit] ?? ''}`;
}

describe('the reference', () => {
  test('has every error, and no other', () => {
    const documented = new Map<string, string[]>();
    for (const [code, cells] of rowsOf(page('errors'))) documented.set(code, cells.slice(0, 3));
    const expected = new Map<string, string[]>();
    for (const [code, { fault, status, remedy }] of Object.entries(ERROR_CATALOGUE)) {
      expected.set(code, [fault, String(status), remedy]);
    }
    expect(documented).toEqual(expected);
  });

  test('has every kind of event with its level, and no other', () => {
    const documented = [...rowsOf(page('events'))].map(([kind, [level]]) => [kind, level]);
    expect(new Map(documented as [string, string][])).toEqual(
      new Map(Object.entries(EVENT_LEVELS)),
    );
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

  test('has every key of the configuration, in every table, and every mode', () => {
    const rows = rowsOf(page('configuration'));
    const tables = ['tls', 'tls_client', 'limits', 'replication', 'nbd', 'export'];
    for (const key of Object.keys(FILE.shape)) {
      expect([...rows.keys(), ...tables], key).toContain(key);
    }
    for (const table of tables)
      for (const key of knownKeys([table])) {
        expect([...rows.keys()], `${table}.${key}`).toContain(key);
      }
    expect(knownKeys(['export'])).toEqual(Object.keys(EXPORT.shape));
    for (const mode of TLS_MODES) expect(rows.get('mode')?.join(' ')).toContain(`\`${mode}\``);
  });

  test('has every limit of the NBD server with its default', () => {
    const text = readFileSync(join(ROOT, 'docs', 'nbd.md'), 'utf8');
    const rows = rowsOf(text);
    for (const [name, value] of Object.entries(limits)) {
      if (!/^NBD_(?!CLIENT_|PREPARED_)/.test(name) || typeof value !== 'number') continue;
      expect(rows.get(name)?.[0], name).toBe(written(name, value));
    }
    const keys = [...rows.values()].flatMap(([, key]) =>
      key?.startsWith('`') ? [key.slice(1, -1)] : [],
    );
    for (const key of knownKeys(['limits'])) {
      if (!key.startsWith('disk_')) expect(keys).toContain(key);
    }
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
