/**
 * Who may come in, by what TLS proved: subjects of certificates (RFC 4514) and PSK users.
 *
 * Invariants:
 * - Subjects are compared part by part, whatever their escapes, spaces and the case of attribute types;
 *   the case of values counts. A comma inside a value is not the end of a part.
 * - A certificate never passes for a PSK user, nor the other way round. What cannot be parsed matches
 *   nothing.
 */
import { BlockferryError } from '../../io/errors.ts';
import type { TlsPeer } from '../../io/network.ts';

/** The parts (RDNs) of a subject in their order, each in one spelling of all that mean the same. */
type Parts = readonly string[];

const PSK_PREFIX = 'psk:';

export class SubjectList {
  private readonly users: ReadonlySet<string>;
  private readonly subjects: readonly Parts[];

  private constructor(users: ReadonlySet<string>, subjects: readonly Parts[]) {
    this.users = users;
    this.subjects = subjects;
  }

  /**
   * Each text is a whole subject (`CN=host1,O=Example`), one part that a subject must hold (`CN=host1`), or
   * `psk:USER`. No text: nobody.
   * @throws BlockferryError CONFIG_INVALID, naming the text
   */
  static parse(texts: readonly string[]): SubjectList {
    const users = new Set<string>();
    const subjects: Parts[] = [];
    for (const text of texts) {
      if (text.startsWith(PSK_PREFIX)) users.add(parseUser(text));
      else subjects.push(parseEntry(text));
    }
    return new SubjectList(users, subjects);
  }

  has(peer: TlsPeer): boolean {
    if (peer.kind === 'psk') return this.users.has(peer.identity);
    if (peer.kind !== 'x509') return false;
    const held = parseSubject(peer.identity);
    return held !== null && this.subjects.some((wanted) => matches(wanted, held));
  }
}

function matches(wanted: Parts, held: Parts): boolean {
  const [first] = wanted;
  if (wanted.length === 1 && first !== undefined) return held.includes(first);
  return wanted.length === held.length && wanted.every((part, index) => part === held[index]);
}

function parseUser(text: string): string {
  const user = text.slice(PSK_PREFIX.length);
  if (user === '') throw invalid(text, 'names no user');
  return user;
}

function parseEntry(text: string): Parts {
  const parts = parseSubject(text);
  if (parts === null)
    throw invalid(text, 'is neither a subject such as CN=host1,O=Example nor psk:USER');
  return parts;
}

/** Null for what is no subject, the empty one included. */
function parseSubject(text: string): Parts | null {
  const parts: string[] = [];
  for (const part of splitAt(text, ',')) {
    const attributes: string[] = [];
    for (const attribute of splitAt(part, '+')) {
      const canonical = canonicalAttribute(attribute);
      if (canonical === null) return null;
      attributes.push(canonical);
    }
    parts.push(attributes.toSorted().join('+'));
  }
  return parts;
}

/** Cuts at each `separator` that no backslash escapes. */
function splitAt(text: string, separator: ',' | '+'): string[] {
  const pieces: string[] = [];
  let start = 0;
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === separator) {
      pieces.push(text.slice(start, at));
      start = at + 1;
    }
  }
  pieces.push(text.slice(start));
  return pieces;
}

/** `TYPE=` and the bytes of the value in hexadecimal, which hold no separator. */
function canonicalAttribute(text: string): string | null {
  const equals = text.indexOf('=');
  const type = trimSpaces(text.slice(0, Math.max(equals, 0))).toUpperCase();
  if (!/^[A-Z0-9][A-Z0-9.-]*$/.test(type)) return null;
  const value = unescapeValue(trimSpaces(text.slice(equals + 1)));
  return value === null ? null : `${type}=${value.toString('hex')}`;
}

/** Spaces at the ends mean nothing, unless escaped. */
function trimSpaces(text: string): string {
  const start = text.replace(/^ +/, '');
  let end = start.length;
  while (end > 0 && start[end - 1] === ' ') end--;
  const backslashes = /\\*$/.exec(start.slice(0, end))?.[0].length ?? 0;
  return start.slice(0, backslashes % 2 === 1 ? end + 1 : end);
}

/** The bytes that a value stands for; null for what RFC 4514 wants to be escaped, or escaped otherwise. */
function unescapeValue(text: string): Buffer | null {
  if (text.startsWith('#')) return null;
  const pieces: Buffer[] = [];
  for (const [piece] of text.matchAll(/\\[0-9a-f]{2}|\\[ "#+,;<=>\\]|[^\\"+,;<>\0]+|[^]/giu)) {
    if (piece.length === 3 && piece.startsWith('\\'))
      pieces.push(Buffer.from(piece.slice(1), 'hex'));
    else if (piece.length === 2 && piece.startsWith('\\')) pieces.push(Buffer.from(piece.slice(1)));
    else if (/^[\\"+,;<>\0]/.test(piece)) return null;
    else pieces.push(Buffer.from(piece));
  }
  return Buffer.concat(pieces);
}

const invalid = (text: string, why: string): BlockferryError =>
  new BlockferryError('CONFIG_INVALID', `${JSON.stringify(text)} ${why}`);
