/*
 * The units for systemd that the package ships: systemd reads each without a complaint, they call the command with options that it
 * has, and the pages show what the files say.
 */
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { createProgram } from '../../src/cli/main.ts';
import { run } from '../support/process.ts';
import { ROOT } from '../support/root.ts';
import { requireTools, testScope } from '../support/tools.ts';

const UNITS = join(ROOT, 'packaging', 'systemd');
const INSTANCE = 'blockferry-attach@nbd0.service';
const COMMAND = '/usr/local/bin/blockferry';
const read = (name: string): string => readFileSync(join(UNITS, name), 'utf8');
const page = (name: string): string =>
  readFileSync(join(ROOT, 'docs', 'operating', `${name}.md`), 'utf8');

/** The units, and an instance of the template, on a system where the command is installed. */
function installed(): string {
  const dir = testScope().tempDir();
  for (const name of readdirSync(UNITS)) {
    writeFileSync(
      join(dir, name),
      read(name).replaceAll(/\/usr\/local\/bin\/blockferry|\/sbin\/modprobe/g, '/bin/true'),
    );
  }
  copyFileSync(join(dir, 'blockferry-attach@.service'), join(dir, INSTANCE));
  return dir;
}

/** What systemd has to say of a unit. */
async function verify(dir: string, name: string): Promise<string> {
  const options = { env: { ...process.env, SYSTEMD_UNIT_PATH: `${dir}:` } };
  const { stdout, stderr } = await run(
    'systemd-analyze',
    ['verify', '--man=no', join(dir, name)],
    options,
  );
  return `${stdout}${stderr}`.trim();
}

describe('the units', () => {
  test.for(['blockferry.service', INSTANCE, 'srv-orders.mount'])(
    '%s is sound to systemd',
    async (name, context) => {
      requireTools(context, 'systemd-analyze');
      expect(await verify(installed(), name)).toBe('');
    },
  );

  test('are found wanting when they are wrong', async (context) => {
    requireTools(context, 'systemd-analyze');
    const dir = installed();
    const wrong = read('srv-orders.mount').replace('Where=/srv/orders', 'Wheer=/srv/orders');
    writeFileSync(join(dir, 'srv-orders.mount'), wrong);
    expect(await verify(dir, 'srv-orders.mount')).toContain('Wheer');
  });

  test('call the command with what it knows', () => {
    const lines = readdirSync(UNITS)
      .flatMap((name) => read(name).split('\n'))
      .filter((line) => line.includes(`${COMMAND} `));
    expect(lines.length).toBeGreaterThan(2);
    for (const line of lines) {
      const [verb, ...words] = (line.split(`${COMMAND} `)[1] ?? '').split(' ');
      const command = createProgram().commands.find((each) => each.name() === verb);
      const known = command?.options.map(({ long }) => long) ?? [];
      for (const word of words.filter((each) => each.startsWith('--'))) {
        expect(known, line).toContain(word);
      }
    }
  });

  test('are what the pages show', () => {
    expect(page('systemd')).toContain(read('blockferry.service').trim());
    expect(page('clients')).toContain(read('blockferry-attach@.service').trim());
    expect(page('clients')).toContain(read('srv-orders.mount').trim());
    const line = /^#\s+(\/dev\/nbd0 .*)$/m.exec(read('srv-orders.mount'))?.[1] ?? 'none';
    expect(page('clients')).toContain(line);
  });
});
