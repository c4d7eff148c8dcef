/**
 * Which addresses an allow-list lets in. Method: lists and addresses in many spellings; random networks
 * against a second notion of prefixes, on bits written out as text.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockferryError } from '../../src/io/errors.ts';
import { AddressList } from '../../src/nbd/server/access.ts';

const has = (texts: readonly string[], ip: string | null): boolean =>
  AddressList.parse(texts).has(ip);

describe('spellings', () => {
  it.each([
    ['10.0.0.0/8', '10.255.3.4', true],
    ['10.0.0.0/8', '11.0.0.0', false],
    ['10.0.0.0/8', '9.255.255.255', false],
    ['192.168.1.7', '192.168.1.7', true],
    ['192.168.1.7', '192.168.1.70', false],
    ['192.168.1.7/32', '192.168.1.7', true],
    ['0.0.0.0/0', '255.255.255.255', true],
    ['0.0.0.0/0', '::1', false],
    ['128.0.0.0/1', '255.0.0.1', true],
    ['128.0.0.0/1', '127.255.255.255', false],
    ['::1', '0:0:0:0:0:0:0:1', true],
    ['0:0:0:0:0:0:0:1', '::1', true],
    ['::0.0.0.1', '::1', true],
    ['0000::0001', '::1', true],
    ['::1/128', '::1', true],
    ['::1', '::2', false],
    ['::', '::', true],
    ['::/0', 'fe80::1', true],
    ['::/0', '10.0.0.1', false],
    ['::/0', '::ffff:10.0.0.1', false],
    ['2001:DB8::/32', '2001:db8:ffff::1', true],
    ['2001:db8::/32', '2001:db9::', false],
    ['2001:db8::/33', '2001:db8:8000::', false],
    ['fe80::/10', 'febf::1', true],
    ['1::', '1:0:0:0:0:0:0:0', true],
  ])('%s has %s: %s', (text, ip, expected) => {
    expect(has([text], ip)).toBe(expected);
  });

  it.each([
    ['10.0.0.0/8', '::ffff:10.1.2.3', true],
    ['10.0.0.0/8', '::ffff:a01:203', true],
    ['10.0.0.0/8', '0:0:0:0:0:FFFF:0A01:0203', true],
    ['10.0.0.0/8', '::ffff:11.1.2.3', false],
    ['::ffff:10.0.0.0/104', '10.1.2.3', true],
    ['::ffff:10.0.0.0/104', '::ffff:10.1.2.3', true],
    ['::ffff:10.0.0.0/104', '11.1.2.3', false],
    ['::ffff:7f00:1', '127.0.0.1', true],
    ['::ffff:0:0/96', '1.2.3.4', true],
    // The compatible form, which is not the mapped one.
    ['10.1.2.3', '::10.1.2.3', false],
  ])('IPv4 in IPv6 clothes: %s has %s: %s', (text, ip, expected) => {
    expect(has([text], ip)).toBe(expected);
  });

  it('knows clients of unix sockets by their own word', () => {
    expect(has(['unix'], null)).toBe(true);
    expect(has(['unix'], '127.0.0.1')).toBe(false);
    expect(has(['0.0.0.0/0', '::/0'], null)).toBe(false);
    expect(has(['10.0.0.1', 'unix', '::1'], null)).toBe(true);
    expect(has(['10.0.0.1', 'unix', '::1'], '::1')).toBe(true);
  });

  it('lets nobody in when it is empty, and nobody without a proper address', () => {
    expect(has([], '127.0.0.1')).toBe(false);
    expect(has([], null)).toBe(false);
    for (const ip of ['', 'localhost', '10.0.0', '10.0.0.1/8', 'fe80::1%eth0', 'unix']) {
      expect(has(['0.0.0.0/0', '::/0', 'unix'], ip), ip).toBe(false);
    }
  });
});

describe('what is no entry', () => {
  it.each([
    ['', /is no IP address/],
    ['localhost', /"localhost" is no IP address/],
    ['10.0.0', /is no IP address/],
    ['010.0.0.1', /is no IP address/],
    ['10.0.0.256', /is no IP address/],
    [' 10.0.0.1', /is no IP address/],
    ['1::2::3', /is no IP address/],
    ['fe80::1%eth0', /without a scope/],
    ['unix/8', /is no IP address/],
    ['UNIX', /is no IP address/],
    ['10.0.0.0/', /no valid prefix length/],
    ['10.0.0.0/33', /no valid prefix length/],
    ['10.0.0.0/08', /no valid prefix length/],
    ['10.0.0.0/-1', /no valid prefix length/],
    ['10.0.0.0/8/8', /no valid prefix length/],
    ['10.0.0.0/1e1', /no valid prefix length/],
    ['::/129', /no valid prefix length/],
    ['10.0.0.1/8', /"10.0.0.1\/8" has address bits behind its prefix; the network is 10.0.0.0\/8$/],
    ['10.0.0.1/31', /the network is 10.0.0.0\/31$/],
    ['2001:db8::1/32', /the network is 2001:db8:0:0:0:0:0:0\/32$/],
    ['::ffff:10.0.0.1/104', /the network is 10.0.0.0\/8$/],
    ['::ffff:10.0.0.0/95', /address bits behind its prefix$/],
  ])('%j is refused, and why', (text, why) => {
    const attempt = (): unknown => AddressList.parse(['10.0.0.1', text]);
    expect(attempt).toThrow(why);
    expect(attempt).toThrow(BlockferryError);
    expect(attempt).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});

const bitsOf = (bytes: readonly number[]): string =>
  bytes.map((byte) => byte.toString(2).padStart(8, '0')).join('');
const bytesOf = (bits: string): number[] =>
  (bits.match(/.{8}/g) ?? []).map((byte) => Number.parseInt(byte, 2));

const asIpv4 = (bits: string): string => bytesOf(bits).join('.');
const asIpv6 = (bits: string): string =>
  (bits.match(/.{16}/g) ?? []).map((group) => Number.parseInt(group, 2).toString(16)).join(':');
/** The longest run of zero groups, shortened; the groups in capitals and with leading zeroes. */
const asIpv6Otherwise = (bits: string): string =>
  asIpv6(bits)
    .split(':')
    .map((group) => group.toUpperCase().padStart(4, '0'))
    .join(':')
    .replace(/(^|:)0000(:0000)*(:|$)/, '::');

const network = (bytes: number): fc.Arbitrary<{ host: string; prefix: number }> =>
  fc.record({
    host: fc.array(fc.nat(255), { minLength: bytes, maxLength: bytes }).map(bitsOf),
    prefix: fc.nat(8 * bytes),
  });

const check = (
  bytes: number,
  write: (bits: string) => string,
  writeHost: (bits: string) => string,
): void => {
  const total = 8 * bytes;
  fc.assert(
    fc.property(network(bytes), fc.nat(total - 1), ({ host, prefix }, flipped) => {
      const first = host.slice(0, prefix).padEnd(total, '0');
      const list = AddressList.parse([`${write(first)}/${prefix}`]);
      const other =
        host.slice(0, flipped) + (host[flipped] === '0' ? '1' : '0') + host.slice(flipped + 1);
      expect(list.has(writeHost(host))).toBe(true);
      expect(list.has(writeHost(other))).toBe(flipped >= prefix);
    }),
  );
};

describe('at random', () => {
  it('IPv4 networks hold what begins as they do', () => {
    check(4, asIpv4, asIpv4);
    check(4, asIpv4, (bits) => `::ffff:${asIpv4(bits)}`);
  });

  it('IPv6 networks do, in every spelling', () => {
    check(16, asIpv6, asIpv6Otherwise);
    check(16, asIpv6Otherwise, asIpv6);
  });

  it('takes any text, or refuses it by name', () => {
    const all = AddressList.parse(['0.0.0.0/0', '::/0']);
    const text = fc.oneof(
      fc.string(),
      fc.string({ unit: fc.constantFrom(...':.%/0123ab'.split('')) }),
      fc.ipV4(),
      fc.ipV6(),
    );
    fc.assert(
      fc.property(text, (entry) => {
        const known = all.has(entry);
        try {
          expect(AddressList.parse([entry]).has(entry)).toBe(known);
        } catch (error) {
          expect(error).toBeInstanceOf(BlockferryError);
          expect(String(error)).toContain(JSON.stringify(entry));
          expect(known).toBe(false);
        }
      }),
    );
  });
});
