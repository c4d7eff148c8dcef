/**
 * What Prometheus sees of a node: the page is asked for over HTTP, read line by line by the grammar of its text form,
 * and held against the status of the same moment and against docs/operating/metrics.md.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { METRICS } from '../../src/control/metrics/metric-table.ts';
import { Metrics } from '../../src/control/metrics/metrics.ts';
import type { NodeFacts, NodeStatus, VolumeStatus } from '../../src/control/status.ts';
import { formatAddress } from '../../src/io/address.ts';
import { MIRROR_STATES } from '../../src/replicator/status.ts';
import { ROOT } from '../support/root.ts';
import { testScope } from '../support/tools.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

interface Page {
  readonly types: ReadonlyMap<string, string>;
  readonly samples: readonly { name: string; labels: Record<string, string>; value: number }[];
}

const SAMPLE = /^([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (-?[0-9.e+-]+)$/;
const LABEL = /([a-z_]+)="((?:[^"\\\n]|\\[\\"n])*)"/g;

/** Fails on a line that is none of the text form, on a sample without a type, and on one that is there twice. */
function parsePage(text: string): Page {
  expect(text.endsWith('\n')).toBe(true);
  const types = new Map<string, string>();
  const samples: Page['samples'][number][] = [];
  const seen = new Set<string>();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('# HELP ')) continue;
    const type = /^# TYPE ([a-z_]+) (gauge|counter)$/.exec(line);
    if (type !== null) {
      types.set(type[1] ?? '', type[2] ?? '');
      continue;
    }
    const [, name = '', labels = '', value = ''] = SAMPLE.exec(line) ?? expect.fail(line);
    expect([...types.keys()], line).toContain(name);
    const found = [...labels.matchAll(LABEL)].map(([, key = '', text_ = '']) => [key, text_]);
    const where = line.slice(0, line.lastIndexOf(' '));
    expect(seen, line).not.toContain(where);
    seen.add(where);
    samples.push({ name, labels: Object.fromEntries(found) as never, value: Number(value) });
  }
  return { types, samples };
}

function valueOf(
  page: Page,
  name: string,
  labels: Record<string, string> = {},
): number | undefined {
  return page.samples.find(
    (sample) =>
      sample.name === name &&
      Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  )?.value;
}

async function pageOf({ node }: LocalNode): Promise<Page> {
  const { httpAddress } = node;
  if (httpAddress === null) throw new Error('the node shows no metrics');
  const response = await fetch(`http://${formatAddress(httpAddress)}/metrics`);
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
  return parsePage(await response.text());
}

const FLAGS = { http: '127.0.0.1:0' };

describe('the page of metrics', () => {
  test('says what the status says', async () => {
    const scope = testScope();
    const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
    const alpha = await startLocalNode(scope, { flags: FLAGS });
    const demo = { name: 'demo', size: '4M' };
    await alpha.client.call('POST', '/v1/volumes', demo);
    await beta.client.call('POST', '/v1/volumes', { ...demo, mirror_of: 'alpha' });
    const uri = beta.uri('demo');
    await alpha.client.call('POST', '/v1/volumes/demo/mirrors', { uri });
    await alpha.client.call('POST', '/v1/volumes/demo/mirrors/pause', {});
    const page = await pageOf(alpha);
    const { volumes, space } = await alpha.client.call<NodeStatus>('GET', '/v1/status');
    const [volume] = volumes;
    const [mirror] = volume?.mirrors ?? [];
    if (volume === undefined || mirror === undefined) throw new Error('one volume, one mirror');
    const ofVolume = { volume: 'demo' };
    const ofMirror = { volume: 'demo', mirror: mirror.uri };
    expect(valueOf(page, 'blockferry_volume_size_bytes', ofVolume)).toBe(volume.size_bytes);
    expect(valueOf(page, 'blockferry_volume_epoch', ofVolume)).toBe(volume.position.epoch);
    expect(valueOf(page, 'blockferry_volume_role', { ...ofVolume, role: 'primary' })).toBe(1);
    expect(valueOf(page, 'blockferry_volume_role', { ...ofVolume, role: 'secondary' })).toBe(0);
    expect(valueOf(page, 'blockferry_mirror_sent_bytes_total', ofMirror)).toBe(mirror.bytes_sent);
    for (const state of MIRROR_STATES) {
      const value = valueOf(page, 'blockferry_mirror_state', { ...ofMirror, state });
      expect(value, state).toBe(state === 'paused' ? 1 : 0);
    }
    expect(valueOf(page, 'blockferry_disk_total_bytes')).toBe(space.total_bytes ?? undefined);
    expect(valueOf(page, 'blockferry_build_info', { node: 'alpha' })).toBe(1);
    expect(valueOf(page, 'blockferry_events_total', { kind: 'mirror-added' })).toBe(1);
    expect(valueOf(page, 'blockferry_events_total', { kind: 'mirror-paused' })).toBe(1);
    // A total that goes back is a new process to those who read it.
    const later = await pageOf(alpha);
    for (const { name, labels, value } of page.samples) {
      if (name.endsWith('_total')) {
        expect(valueOf(later, name, labels), name).toBeGreaterThanOrEqual(value);
      }
    }
  });

  test('takes no commands and shows nothing else', async () => {
    const node = await startLocalNode(testScope(), { flags: FLAGS });
    const address = node.node.httpAddress;
    if (address === null) throw new Error('an address');
    const at = `http://${formatAddress(address)}`;
    for (const path of ['/', '/v1/status', '/v1/volumes', '/metrics/']) {
      expect((await fetch(at + path)).status, path).toBe(404);
    }
    for (const method of ['POST', 'DELETE', 'PUT']) {
      expect((await fetch(`${at}/metrics`, { method })).status, method).toBe(404);
    }
  });

  test('is not shown unless asked for, and to other machines only when told that it may be', async () => {
    const node = await startLocalNode(testScope());
    expect(node.node.httpAddress).toBeNull();
    const flags = { http: '0.0.0.0:0' };
    expect(await codeOf(startLocalNode(testScope(), { flags }))).toBe('INSECURE_ADDRESS');
  });
});

describe('a sample', () => {
  const facts: NodeFacts = {
    name: 'a"b\\c\nd',
    version: '1',
    pid: 1,
    nbd: [],
    tls: 'off',
    clients: { connections: 0, handshakes: 0, accepted: 0, refused: 0, failed: 0, denied: 0 },
  };
  const status: NodeStatus = {
    node: 'a',
    volumes: [],
    damaged: [],
    space: {
      level: null,
      free_bytes: null,
      total_bytes: null,
      size_bytes: 0,
      allocated_bytes: 0,
      over_provisioning: null,
    },
  };

  test('is not there for what is not known', async () => {
    const text = await new Metrics().text({ facts, status, events: new Map() });
    const page = parsePage(text);
    expect(page.types.get('blockferry_disk_free_bytes')).toBe('gauge');
    expect(valueOf(page, 'blockferry_disk_free_bytes')).toBeUndefined();
    expect(valueOf(page, 'blockferry_connections')).toBe(0);
  });

  test('of a secondary tells of its source, and of no mirror', async () => {
    const source: VolumeStatus['source'] = {
      node: 'alpha',
      volume_id: null,
      state: 'receiving',
      consistent_at: '2026-01-02T03:04:05.250Z',
      lag_seconds: 1.5,
      received_epoch: 9,
      durable_epoch: 8,
      applied_epoch: 7,
      bytes_received: 6,
      journal_bytes: 5,
      last_error: null,
    };
    const volume = { name: 'v', role: 'secondary', source, mirrors: [], position: {}, io: {} };
    const measured = {
      facts,
      status: { ...status, volumes: [volume as unknown as VolumeStatus] },
      events: new Map(),
    };
    const samples = new Map(
      METRICS.filter(({ name }) => /_source_|_mirror_|_role/.test(name)).map((metric) => [
        metric.name,
        metric.samples(measured),
      ]),
    );
    const ofSource = { volume: 'v', node: 'alpha' };
    expect(samples.get('blockferry_source_consistent_timestamp_seconds')).toEqual([
      { labels: ofSource, value: Date.UTC(2026, 0, 2, 3, 4, 5, 250) / 1000 },
    ]);
    expect(samples.get('blockferry_source_applied_epoch')?.[0]?.value).toBe(7);
    expect(samples.get('blockferry_source_state')).toContainEqual({
      labels: { ...ofSource, state: 'receiving' },
      value: 1,
    });
    expect(samples.get('blockferry_mirror_state')).toEqual([]);
  });

  test('has its name escaped', async () => {
    const text = await new Metrics().text({ facts, status, events: new Map() });
    expect(text).toContain('node="a\\"b\\\\c\\nd"');
    parsePage(text);
  });
});

test('the page in the documentation has every metric, with its type and labels, and no other', () => {
  const text = readFileSync(join(ROOT, 'docs', 'operating', 'metrics.md'), 'utf8');
  const documented = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const [, name, type, labels] =
      /^\| `(blockferry_\w+)` +\| (\w+) +\| ([^|]*)\|/.exec(line) ?? [];
    if (name === undefined) continue;
    documented.set(name, [type ?? '', ...(labels?.match(/\w+/g) ?? [])]);
  }
  expect(documented).toEqual(
    new Map(METRICS.map(({ name, type, labels }) => [name, [type, ...labels]])),
  );
});
