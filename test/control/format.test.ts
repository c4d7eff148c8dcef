/** What people read: sizes, times, aligned columns, one line whatever the text holds. Pure. */
import { describe, expect, test } from 'vitest';
import { formatBytes, formatSeconds, formatTable, oneLine } from '../../src/cli/render/format.ts';
import { renderMirrors, renderSource, renderVerify } from '../../src/cli/render/render-mirrors.ts';
import { renderEvent, renderStatus } from '../../src/cli/render/render.ts';
import type { NodeStatus } from '../../src/control/status.ts';

const STATUS: NodeStatus = {
  node: 'alpha',
  volumes: [
    {
      name: 'demo',
      id: '0'.repeat(32),
      size_bytes: 2 ** 30,
      allocated_bytes: 12 * 2 ** 20,
      io: {
        reads_at_once: 0,
        reads_on_pool: 0,
        writes_at_once: 0,
        writes_on_pool: 0,
        pool_depth: 0,
        slow_write_periods: 0,
        read_ahead_pieces: 0,
        syncs: 0,
      },
      role: 'primary',
      source: null,
      refuses: [],
      consistent_at: null,
      lag_seconds: null,
      generation: 1,
      position: { generation: 1, epoch: 42 },
      connections: 1,
      access: { read_only: true, hidden: false, tls: 'required' },
      failure: null,
      fenced: null,
      kept_for_return: null,
      snapshots: 2,
      clone_of: null,
      on: null,
      merge: {
        state: 'running',
        done_bytes: 1024,
        total_bytes: 4096,
        waiting: 1,
        limit: 50 * 2 ** 20,
        reason: null,
      },
      mirrors: [
        {
          uri: 'nbd://127.0.0.1:10810/demo',
          kind: 'nbd',
          node: null,
          lanes: 1,
          limit: null,
          dirty_context: 'x-blockferry:dirty/1',
          mode: 'sync',
          stall_policy: 'degrade',
          delta: null,
          last_run_at: null,
          lag_limit_seconds: null,
          host_delay_ms: 0,
          state: 'delta',
          consistent: true,
          position: { generation: 1, epoch: 40 },
          staged_bytes: 0,
          dirty_bytes: 8192,
          suspect_bytes: 4096,
          lag_seconds: 75,
          eta_seconds: null,
          bytes_sent: 1023,
          delta_bytes_sent: 0,
          bytes_compared: 0,
          compression: { mode: 'auto', active: false, ratio: null, bytes_in: 0, bytes_out: 0 },
          last_error: 'connection refused',
          refuses: [],
          last_refusal: null,
        },
      ],
    },
  ],
  damaged: [{ id: 'f'.repeat(32), reason: 'record 7 at byte 4096 is corrupt' }],
  space: {
    level: 'low',
    free_bytes: 5 * 2 ** 20,
    total_bytes: 64 * 2 ** 20,
    size_bytes: 2 ** 30,
    allocated_bytes: 12 * 2 ** 20,
    over_provisioning: 60.235,
  },
};

describe('text for people', () => {
  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [2 ** 20 - 1, '1.0 MiB'],
    [2 ** 30, '1.0 GiB'],
    [1.5 * 2 ** 40, '1.5 TiB'],
    [2 ** 50, '1.0 PiB'],
  ])('%d bytes are %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test.each([
    [null, '-'],
    [0, '0.0 s'],
    [9.96, '10 s'],
    [59.4, '59 s'],
    [75, '1 min 15 s'],
    [3600, '1 h 0 min'],
  ])('%s seconds are %s', (seconds, text) => {
    expect(formatSeconds(seconds)).toBe(text);
  });

  test('columns are aligned', () => {
    expect(
      formatTable([
        ['A', 'LONG'],
        ['wide cell', 'x'],
        ['', 'y'],
      ]),
    ).toBe('A          LONG\nwide cell  x\n           y\n');
  });

  test('control characters do not break a line', () => {
    expect(oneLine('a\nb\u001b[2J\u2028c')).toBe(String.raw`a\u000ab\u001b[2J\u2028c`);
  });

  test('status is a page, without colour where there is none', () => {
    expect(renderStatus(STATUS, false)).toBe(`node alpha
disk low  5.0 MiB of 64.0 MiB free, 12.0 MiB of 1.0 GiB in volumes, over-provisioning 60.23

demo  1.0 GiB, 12.0 MiB allocated, primary, 1 connection, position 1:42, 2 snapshots, read-only, TLS only
  merging, 1.0 KiB of 4.0 KiB, 1 more to follow, at most 50.0 MiB a second
  MIRROR                      KIND  MODE          STATE  CONSISTENT  STAGED  DIRTY     LAG         ETA  SENT
  nbd://127.0.0.1:10810/demo  nbd   sync/degrade  delta  yes         0 B     12.0 KiB  1 min 15 s  -    1023 B
    last error: connection refused

damaged volume ${'f'.repeat(32)}: record 7 at byte 4096 is corrupt
`);
  });

  test('a mirror that is a node tells its lanes and its limit', () => {
    const [volume] = STATUS.volumes;
    const [mirror] = volume?.mirrors ?? [];
    if (mirror === undefined) throw new Error('a mirror');
    const peer = { ...mirror, kind: 'blockferry', node: 'beta', lanes: 4, limit: 2 ** 20 } as const;
    const text = renderMirrors([peer], false);
    expect(text).toContain('  blockferry/4  ');
    expect(text).toContain('\n    at most 1.0 MiB a second\n    last error: ');
  });

  test('a secondary tells what it holds, of when, and from whom', () => {
    const source = {
      node: 'alpha',
      volume_id: null,
      state: 'waiting',
      consistent_at: null,
      lag_seconds: null,
      received_epoch: 0,
      durable_epoch: 0,
      applied_epoch: 0,
      bytes_received: 0,
      journal_bytes: 0,
      last_error: null,
    } as const;
    expect(renderSource(source, false)).toBe(
      '  mirror of node alpha: waiting, nothing yet, 0 B in the journal, 0 B received\n',
    );
    const holding = {
      ...source,
      state: 'failed',
      consistent_at: '2026-01-02T03:04:05.000Z',
      lag_seconds: 2,
      received_epoch: 9,
      durable_epoch: 8,
      applied_epoch: 7,
      last_error: 'the disk\nis full',
    } as const;
    expect(renderSource(holding, false)).toBe(
      '  mirror of node alpha: failed, as of 2026-01-02T03:04:05.000Z, lag 2.0 s, ' +
        'epochs 9 received, 8 durable, 7 readable, 0 B in the journal, 0 B received\n' +
        '    last error: the disk\\u000ais full\n',
    );
  });

  test('a comparison tells how much differs, and where', () => {
    const same = { bytes_compared: 2 ** 30, bytes_differing: 0, ranges: [], repaired: false };
    expect(renderVerify(same)).toBe('1.0 GiB compared, no difference\n');
    const ranges = [{ offset: 2 ** 40, length: 8192 }];
    const differing = { ...same, bytes_differing: 8192, ranges, repaired: true };
    expect(renderVerify(differing)).toBe(
      '1.0 GiB compared, 8.0 KiB differ; they are sent again\n' +
        '  8192 bytes from byte 1099511627776 on\n',
    );
  });

  test('an event is a line', () => {
    const event = {
      sequence: 1,
      time: '2024-01-02T03:04:05.000Z',
      kind: 'mirror-delta' as const,
      volume: 'demo',
      mirror: 'nbd://h:1/d',
      message: 'gone\nfor good',
    };
    expect(renderEvent(event)).toBe(
      '2024-01-02T03:04:05.000Z  mirror-delta  demo nbd://h:1/d: gone\\u000afor good\n',
    );
  });
});
