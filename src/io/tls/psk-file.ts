/**
 * The file of pre-shared keys, as GnuTLS' psktool writes it: a line `user:hexkey` each.
 *
 * A name that holds odd bytes stands there as `#` and its bytes in hexadecimal. Empty lines are nothing, and
 * so is a line that begins with `#` and is not of that form: people write comments.
 */
import { PSK_KEY_BYTES_MAX, PSK_USER_BYTES_MAX } from '../limits.ts';

export type PskKeys = ReadonlyMap<string, Buffer>;

export interface PskFile {
  readonly keys: PskKeys;
  /** What should not stay so. */
  readonly notes: readonly string[];
}

/** Shorter keys can be guessed from a recorded connection. */
const WEAK_KEY_BYTES = 16;
const HEX = /^(?:[0-9a-f]{2})+$/i;
// eslint-disable-next-line no-control-regex -- control characters are what it looks for
const CONTROL_CHARACTER = /[\u0000-\u001f\u007f]/;

/** Gives back the fault, with its line, of a file that cannot be used. No key is ever part of it. */
export function parsePskFile(text: string): PskFile | string {
  const keys = new Map<string, Buffer>();
  const notes: string[] = [];
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
    const where = `line ${index + 1}`;
    const entry = parseLine(line);
    if (entry === null) continue;
    if (typeof entry === 'string') return `${where}: ${entry}`;
    if (keys.has(entry.user)) return `${where}: the user ${entry.user} has a key already`;
    if (entry.key.length < WEAK_KEY_BYTES) {
      notes.push(`${where}: the key of ${entry.user} has only ${entry.key.length} bytes`);
    }
    keys.set(entry.user, entry.key);
  }
  return keys.size === 0 ? 'it holds no line of user:hexkey' : { keys, notes };
}

/** Null for a line that says nothing, a text for one that is wrong. */
function parseLine(line: string): { readonly user: string; readonly key: Buffer } | string | null {
  if (line.trim() === '') return null;
  const colon = line.lastIndexOf(':');
  const name = line.slice(0, Math.max(colon, 0));
  const isHexName = name.startsWith('#') && HEX.test(name.slice(1));
  if (line.startsWith('#') && !isHexName) return null;
  if (colon === -1) return 'it is not of the form user:hexkey';
  const user = isHexName ? Buffer.from(name.slice(1), 'hex').toString('utf8') : name;
  if (user === '') return 'the user is empty';
  if (CONTROL_CHARACTER.test(user)) return 'the user has a control character';
  if (Buffer.byteLength(user) > PSK_USER_BYTES_MAX) {
    return `the user has more than ${PSK_USER_BYTES_MAX} bytes`;
  }
  const hex = line.slice(colon + 1).trim();
  if (!HEX.test(hex)) return `the key of ${user} is not hexadecimal`;
  const key = Buffer.from(hex, 'hex');
  if (key.length > PSK_KEY_BYTES_MAX)
    return `the key of ${user} has over ${PSK_KEY_BYTES_MAX} bytes`;
  return { user, key };
}
