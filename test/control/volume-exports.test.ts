/**
 * Which volumes and snapshots a client finds, sees in the list, and gets as the default export: by name, address
 * and identity, and without learning of what it may not have. Pure: devices are names.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { resolveConfig } from '../../src/control/config/config.ts';
import type { ExportRules } from '../../src/control/exports/export-rules.ts';
import { VolumeExports, type Exported } from '../../src/control/exports/volume-exports.ts';
import type { BlockDevice } from '../../src/io/device.ts';
import { SNAPSHOTS_LISTED_MAX } from '../../src/io/limits.ts';
import type { ClientFacts } from '../../src/nbd/server/server.ts';

const LOCAL: ClientFacts = { ip: null, tls: null };
const NEAR: ClientFacts = { ip: '10.1.2.3', tls: null };
const FAR: ClientFacts = { ip: '203.0.113.1', tls: null };
const ANN: ClientFacts = { ip: '10.1.2.3', tls: { kind: 'psk', identity: 'ann' } };
const EVE: ClientFacts = { ip: '10.1.2.3', tls: { kind: 'psk', identity: 'eve' } };

/** Volumes, and snapshots as `volume@snapshot`, in the order in which they were made. */
const devices = new Map<string, BlockDevice>();

const exported: Exported = {
  volumes: () => [...devices.keys()].filter((name) => !name.includes('@')),
  snapshotsOf: (volume) =>
    [...devices.keys()]
      .filter((name) => name.startsWith(`${volume}@`))
      .map((name) => name.slice(volume.length + 1)),
  find: (name) => devices.get(name) ?? null,
};

beforeEach(() => {
  devices.clear();
});

function rules(text: string): ExportRules {
  const surroundings = { environment: {}, home: '/', hostname: 'h', isRoot: false };
  const file = `${text}\n[tls]\npsk_file = "p"\n`;
  const readFile = (): Buffer => Buffer.from(file);
  return resolveConfig({ config: 'node.toml' }, { ...surroundings, readFile }).exports;
}

function exportsOf(names: readonly string[], text = ''): VolumeExports {
  for (const name of names) {
    devices.set(name, { readOnly: name.includes('@') } as BlockDevice);
  }
  return new VolumeExports(exported, rules(text));
}

/** What `find` said: the name of what was granted, or the kind of refusal. */
function found(exports: VolumeExports, name: string, client: ClientFacts): string {
  const access = exports.find(name, client);
  return access.kind === 'granted' ? access.export.name : access.kind;
}

function listed(exports: VolumeExports, client: ClientFacts): string[] | null {
  return exports.list(client)?.map(({ name }) => name) ?? null;
}

describe('without rules', () => {
  test('every volume is there for everyone, sorted, as long as it exists', () => {
    const exports = exportsOf(['b', 'a', 'toString']);
    expect(listed(exports, FAR)).toEqual(['a', 'b', 'toString']);
    expect(found(exports, 'toString', LOCAL)).toBe('toString');
    expect(found(exports, 'constructor', LOCAL)).toBe('unknown');
    devices.delete('a');
    expect(listed(exports, FAR)).toEqual(['b', 'toString']);
    expect(found(exports, 'a', LOCAL)).toBe('unknown');
  });

  test('the default export is the only volume', () => {
    const exports = exportsOf(['a']);
    expect(found(exports, '', LOCAL)).toBe('a');
    devices.set('b', { readOnly: false } as BlockDevice);
    expect(found(exports, '', LOCAL)).toBe('unknown');
    devices.clear();
    expect(found(exports, '', LOCAL)).toBe('unknown');
  });
});

describe('rules', () => {
  test('for all others hold where a volume has none of its own', () => {
    const exports = exportsOf(
      ['a', 'b'],
      '[export."*"]\nread_only = true\n[export.a]\nhidden = true',
    );
    const readOnly = (name: string): boolean | null => {
      const access = exports.find(name, LOCAL);
      return access.kind === 'granted' ? access.export.readOnly : null;
    };
    expect([readOnly('a'), readOnly('b')]).toEqual([false, true]);
    expect(exports.describe('a')).toEqual({ readOnly: false, hidden: true, needsTls: false });
    expect(exports.describe('b')).toEqual({ readOnly: true, hidden: false, needsTls: false });
  });

  test('never make a device writable that is not', () => {
    const exports = exportsOf(['a']);
    devices.set('a', { readOnly: true } as BlockDevice);
    expect(exports.find('a', LOCAL)).toMatchObject({ export: { readOnly: true } });
  });

  test('by address keep others out, and say so to nobody but the log', () => {
    const exports = exportsOf(['a', 'b'], '[export.a]\nallow = ["10.0.0.0/8", "unix"]');
    expect([LOCAL, NEAR, FAR].map((client) => found(exports, 'a', client))).toEqual([
      'a',
      'a',
      'denied',
    ]);
    expect(listed(exports, FAR)).toEqual(['b']);
    expect(found(exports, '', FAR)).toBe('b');
    expect(found(exports, '', NEAR)).toBe('unknown');
  });

  test('that want TLS ask for it, by name and as default, and leave the volume out of the list', () => {
    const exports = exportsOf(['a'], '[export.a]\ntls = "required"');
    expect(found(exports, 'a', NEAR)).toBe('tls-required');
    expect(found(exports, '', NEAR)).toBe('tls-required');
    expect(listed(exports, NEAR)).toEqual([]);
    expect([found(exports, 'a', EVE), found(exports, '', EVE)]).toEqual(['a', 'a']);
    expect(listed(exports, EVE)).toEqual(['a']);
    expect(exports.describe('a')).toMatchObject({ needsTls: true });
  });

  test('by subject let in who is named', () => {
    const exports = exportsOf(['a', 'b'], '[export.a]\nsubjects = ["psk:ann"]');
    expect(found(exports, 'a', NEAR)).toBe('tls-required');
    expect([found(exports, 'a', ANN), found(exports, 'a', EVE)]).toEqual(['a', 'denied']);
    expect(listed(exports, EVE)).toEqual(['b']);
    expect(found(exports, '', EVE)).toBe('b');
    expect(found(exports, '', ANN)).toBe('unknown');
  });
});

describe('what is not shown', () => {
  test('is served by name, but is no default export: its name would be told', () => {
    const exports = exportsOf(['secret'], '[export.secret]\nhidden = true');
    expect(listed(exports, LOCAL)).toEqual([]);
    expect(found(exports, 'secret', LOCAL)).toBe('secret');
    expect(found(exports, '', LOCAL)).toBe('unknown');
  });

  test('does not count beside the only one that is', () => {
    const exports = exportsOf(['plain', 'secret'], '[export.secret]\nhidden = true');
    expect(listed(exports, LOCAL)).toEqual(['plain']);
    expect(found(exports, '', LOCAL)).toBe('plain');
  });

  test('is everything when listing is off', () => {
    const exports = exportsOf(['a'], 'list = false');
    expect(listed(exports, LOCAL)).toBeNull();
    expect(found(exports, 'a', LOCAL)).toBe('a');
    expect(found(exports, '', LOCAL)).toBe('unknown');
  });
});

describe('snapshots', () => {
  const ALL = ['b', 'a', 'a@late', 'a@early', 'b@only', 'a-b'];

  test('are found by volume@snapshot, read-only, and listed after their volume as they were made', () => {
    const exports = exportsOf(ALL);
    expect(listed(exports, FAR)).toEqual(['a', 'a@late', 'a@early', 'a-b', 'b', 'b@only']);
    expect(exports.find('a@late', FAR)).toMatchObject({
      kind: 'granted',
      export: { name: 'a@late', readOnly: true },
    });
    for (const name of ['a@', '@early', 'a@only', 'early', 'a@late@early', 'c@early']) {
      expect(found(exports, name, LOCAL), name).toBe('unknown');
    }
  });

  test('are no default export, and do not keep their volume from being it', () => {
    const exports = exportsOf(['a', 'a@early']);
    expect(found(exports, '', LOCAL)).toBe('a');
  });

  test('are under the rule of their own, else of their volume, else of all others', () => {
    const exports = exportsOf(
      ALL,
      '[export.a]\nallow = ["unix"]\n[export."a@late"]\nallow = ["10.0.0.0/8"]\n[export."*"]\nhidden = true',
    );
    const who = (name: string): string[] =>
      [LOCAL, NEAR, FAR].map((client) => found(exports, name, client));
    expect(who('a@early')).toEqual(['a@early', 'denied', 'denied']);
    expect(who('a@late')).toEqual(['denied', 'a@late', 'denied']);
    expect(who('b@only')).toEqual(['b@only', 'b@only', 'b@only']);
    expect(listed(exports, LOCAL)).toEqual(['a', 'a@early']);
  });

  test('are not listed where their volume is not, or where they are hidden themselves', () => {
    const denied =
      '[export.a]\nallow = ["unix"]\n[export."a@late"]\n[export."b@only"]\nhidden = true';
    expect(listed(exportsOf(ALL, denied), FAR)).toEqual(['a-b', 'b']);
    const hidden = '[export.a]\nhidden = true\n[export."a@late"]\n';
    expect(listed(exportsOf(ALL, hidden), FAR)).toEqual(['a-b', 'b', 'b@only']);
    const later = '[export.a]\ntls = "required"\n[export."a@late"]\n';
    expect(listed(exportsOf(ALL, later), FAR)).toEqual(['a-b', 'b', 'b@only']);
  });

  test('fill a list only so far; volumes are all in it', () => {
    const many = Array.from({ length: SNAPSHOTS_LISTED_MAX + 1 }, (_, index) => `a@${index}`);
    const exports = exportsOf(['a', ...many, 'b', 'b@only']);
    const names = listed(exports, LOCAL) ?? [];
    expect(names).toEqual(['a', ...many.slice(0, -1), 'b']);
    expect(found(exports, many.at(-1) ?? '', LOCAL)).toBe(many.at(-1));
  });
});

test('new rules are in force at once', () => {
  const exports = exportsOf(['a']);
  exports.setRules(rules('[export.a]\nallow = ["unix"]'));
  expect(found(exports, 'a', NEAR)).toBe('denied');
  exports.setRules(rules(''));
  expect(found(exports, 'a', NEAR)).toBe('a');
});
