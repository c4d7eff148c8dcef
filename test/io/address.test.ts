/**
 * Addresses are read and written the same way, and what no system could mean by an address is refused
 * with the code a script can match. Method: tables of good and bad texts.
 */
import { describe, expect, it } from 'vitest';

import { formatAddress, isLoopback, parseAddress } from '../../src/io/address.ts';
import { BlockferryError } from '../../src/io/errors.ts';

const GOOD: [text: string, address: object, loopback: boolean][] = [
  ['127.0.0.1:10809', { kind: 'tcp', host: '127.0.0.1', port: 10809 }, true],
  ['127.9.8.7:0', { kind: 'tcp', host: '127.9.8.7', port: 0 }, true],
  ['localhost:65535', { kind: 'tcp', host: 'localhost', port: 65535 }, true],
  ['LocalHost.:1', { kind: 'tcp', host: 'LocalHost.', port: 1 }, true],
  ['[::1]:10809', { kind: 'tcp', host: '::1', port: 10809 }, true],
  ['[0:0:0:0:0:0:0:1]:1', { kind: 'tcp', host: '0:0:0:0:0:0:0:1', port: 1 }, true],
  ['[::ffff:127.0.0.1]:1', { kind: 'tcp', host: '::ffff:127.0.0.1', port: 1 }, true],
  ['[fe80::1%eth0]:1', { kind: 'tcp', host: 'fe80::1%eth0', port: 1 }, false],
  ['[::]:1', { kind: 'tcp', host: '::', port: 1 }, false],
  ['0.0.0.0:1', { kind: 'tcp', host: '0.0.0.0', port: 1 }, false],
  ['128.0.0.1:1', { kind: 'tcp', host: '128.0.0.1', port: 1 }, false],
  ['localhost.example.org:1', { kind: 'tcp', host: 'localhost.example.org', port: 1 }, false],
  ['node_b-2:1', { kind: 'tcp', host: 'node_b-2', port: 1 }, false],
  ['unix:/run/a.sock', { kind: 'unix', path: '/run/a.sock' }, true],
  ['unix:a:b c', { kind: 'unix', path: 'a:b c' }, true],
  [`unix:${'p'.repeat(107)}`, { kind: 'unix', path: 'p'.repeat(107) }, true],
];

const BAD = [
  '',
  'host',
  ':1',
  '10809',
  'host:',
  'host:65536',
  'host:-1',
  'host:1e3',
  'host:0x10',
  'host: 1',
  'host:123456',
  'ho st:1',
  'host\n:1',
  '-host:1',
  'a..b:1',
  '::1:1',
  '[::1]',
  '[::1:1',
  '[127.0.0.1]:1',
  '[host]:1',
  '[]:1',
  '127.1:1',
  '256.0.0.1:1',
  '2130706433:1',
  '0x7f000001:1',
  '1.2.3.0x4:1',
  'unix:',
  'unix:a\0b',
  `unix:${'p'.repeat(108)}`,
  `unix:${'\u00e9'.repeat(54)}`,
  `${'h'.repeat(64)}:1`,
];

describe('parseAddress', () => {
  it.each(GOOD)('reads %j and writes it back', (text, address, loopback) => {
    const parsed = parseAddress(text);
    expect(parsed).toEqual(address);
    expect(formatAddress(parsed)).toBe(text);
    expect(isLoopback(parsed)).toBe(loopback);
  });

  it.each(BAD)('refuses %j', (text) => {
    const refusal = thrownBy(() => parseAddress(text));
    expect(refusal).toBeInstanceOf(BlockferryError);
    expect(refusal).toMatchObject({ code: 'ADDRESS_INVALID' });
    expect((refusal as BlockferryError).line).not.toContain('\n');
  });
});

function thrownBy(action: () => unknown): unknown {
  try {
    action();
  } catch (thrown) {
    return thrown;
  }
  return null;
}
