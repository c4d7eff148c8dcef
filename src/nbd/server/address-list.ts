/**
 * Addresses that may come in: single ones, networks (CIDR), and `unix`. They are matched as addresses,
 * whatever their spelling.
 *
 * Invariants:
 * - An IPv4-mapped IPv6 address is the IPv4 address, in the list as well as at the door. So `::/0` is
 *   every IPv6 client, and no IPv4 client.
 * - What is no address matches nothing.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { BlockferryError } from '../../io/errors.ts';

interface Ip {
  readonly bits: 32 | 128;
  readonly value: bigint;
}

/** The addresses whose first bits are those of `value`; `hostBits` of them do not count. */
interface Block {
  readonly bits: 32 | 128;
  readonly value: bigint;
  readonly hostBits: bigint;
}

const MAPPED_PREFIX = 0xffffn;
const MAPPED_BITS = 96;

export class AddressList {
  private readonly blocks: readonly Block[];
  private readonly unix: boolean;

  private constructor(blocks: readonly Block[], unix: boolean) {
    this.blocks = blocks;
    this.unix = unix;
  }

  /**
   * Each text is `10.0.0.0/8`, `2001:db8::/32`, an address, or `unix` for every client of a unix socket.
   * No text: nobody.
   * @throws BlockferryError CONFIG_INVALID, naming the text
   */
  static parse(texts: readonly string[]): AddressList {
    const blocks = texts.filter((text) => text !== 'unix').map((text) => parseBlock(text));
    return new AddressList(blocks, texts.includes('unix'));
  }

  /** `ip` as `Connection.remoteIp`: null is a client of a unix socket. */
  has(ip: string | null): boolean {
    if (ip === null) return this.unix;
    const address = parseIp(ip);
    if (address === null) return false;
    const { bits, value } = address;
    return this.blocks.some(
      (block) => block.bits === bits && block.value >> block.hostBits === value >> block.hostBits,
    );
  }
}

function parseBlock(text: string): Block {
  const slash = text.indexOf('/');
  const address = slash === -1 ? text : text.slice(0, slash);
  const ip = parseIp(address);
  if (ip === null) {
    throw invalid(
      text,
      'is no IP address (without a scope), no network such as 10.0.0.0/8, and not unix',
    );
  }
  if (slash === -1) return { ...ip, hostBits: 0n };
  const prefix = parsePrefix(text.slice(slash + 1), isIPv4(address) ? 32 : 128);
  if (prefix === null) throw invalid(text, 'has no valid prefix length behind the slash');
  // The prefix of a mapped address counts the bits of the mapping. A shorter one cuts into them.
  const mapped = ip.bits === 32 && !isIPv4(address);
  const shortBits = mapped ? prefix - MAPPED_BITS : prefix;
  if (shortBits < 0) throw invalid(text, 'has address bits behind its prefix');
  const hostBits = BigInt(ip.bits - shortBits);
  const network = (ip.value >> hostBits) << hostBits;
  if (network !== ip.value) {
    const meant = `${formatIp({ bits: ip.bits, value: network })}/${shortBits}`;
    throw invalid(text, `has address bits behind its prefix; the network is ${meant}`);
  }
  return { ...ip, hostBits };
}

function parsePrefix(text: string, max: number): number | null {
  if (!/^(0|[1-9][0-9]{0,2})$/.test(text)) return null;
  const prefix = Number(text);
  return prefix <= max ? prefix : null;
}

function parseIp(text: string): Ip | null {
  if (isIPv4(text)) return { bits: 32, value: fromIpv4(text) };
  if (!isIPv6(text) || text.includes('%')) return null;
  const value = fromIpv6(text);
  if (value >> 32n === MAPPED_PREFIX) return { bits: 32, value: value & 0xffffffffn };
  return { bits: 128, value };
}

const fromParts = (parts: readonly bigint[], partBits: bigint): bigint =>
  parts.reduce((value, part) => (value << partBits) | part, 0n);

const fromIpv4 = (text: string): bigint => fromParts(text.split('.').map(BigInt), 8n);

/** `text` is valid. */
function fromIpv6(text: string): bigint {
  const dotted = text.lastIndexOf('.') === -1 ? -1 : text.lastIndexOf(':') + 1;
  const hex = dotted === -1 ? text : text.slice(0, dotted) + asHexGroups(text.slice(dotted));
  const [head = '', tail] = hex.split('::');
  const before = groups(head);
  if (tail === undefined) return fromParts(before, 16n);
  const after = groups(tail);
  const zeroes = Array.from({ length: 8 - before.length - after.length }, () => 0n);
  return fromParts([...before, ...zeroes, ...after], 16n);
}

function asHexGroups(ipv4: string): string {
  const value = fromIpv4(ipv4);
  return `${(value >> 16n).toString(16)}:${(value & 0xffffn).toString(16)}`;
}

const groups = (text: string): bigint[] =>
  text === '' ? [] : text.split(':').map((group) => BigInt(`0x${group}`));

function formatIp({ bits, value }: Ip): string {
  const partBits = bits === 32 ? 8 : 16;
  const parts: string[] = [];
  for (let shift = bits - partBits; shift >= 0; shift -= partBits) {
    const part = (value >> BigInt(shift)) & ((1n << BigInt(partBits)) - 1n);
    parts.push(part.toString(bits === 32 ? 10 : 16));
  }
  return parts.join(bits === 32 ? '.' : ':');
}

const invalid = (text: string, why: string): BlockferryError =>
  new BlockferryError('CONFIG_INVALID', `${JSON.stringify(text)} ${why}`);
