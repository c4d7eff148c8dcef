/**
 * Where in a TOML text a key stands: the parser gives values without lines. Looks at headers and assignments
 * only, so a key written in an unusual way gets the line of the table around it, or none.
 */

/** Keys from the outside in; numbers are places in an array. */
export type KeyPath = readonly (string | number)[];

const HEADER = /^\s*\[\[?([^\]]+)\]\]?\s*(?:#.*)?$/;
const ASSIGNMENT = /^\s*((?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_.\s-])+?)\s*=/;
const KEY_PART = /\s*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)\s*(?:\.|$)/y;
const BARE = /^[A-Za-z0-9_-]+$/;

/** The line (from 1) of the longest part of `path` that is written out, or null. */
export function lineOf(text: string, path: KeyPath): number | null {
  const wanted = path.filter((part) => typeof part === 'string');
  let table: string[] = [];
  let best = 0;
  let line: number | null = null;
  for (const [index, content] of text.split('\n').entries()) {
    const header = HEADER.exec(content);
    const assignment = header === null ? ASSIGNMENT.exec(content) : null;
    if (header !== null) table = partsOf(header[1] ?? '');
    else if (assignment === null) continue;
    const keys = assignment === null ? table : [...table, ...partsOf(assignment[1] ?? '')];
    if (keys.length > best && keys.every((key, at) => key === wanted[at])) {
      best = keys.length;
      line = index + 1;
    }
  }
  return line;
}

/** A path as a reader would write it: `export."my disk".allow[0]`. */
export function keyText(path: KeyPath): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else text += `${text === '' ? '' : '.'}${BARE.test(part) ? part : JSON.stringify(part)}`;
  }
  return text;
}

function partsOf(dotted: string): string[] {
  const parts: string[] = [];
  KEY_PART.lastIndex = 0;
  for (let found = KEY_PART.exec(dotted); found !== null; found = KEY_PART.exec(dotted)) {
    parts.push(unquoted(found[1] ?? ''));
    if (KEY_PART.lastIndex >= dotted.length) break;
  }
  return parts;
}

function unquoted(key: string): string {
  if (key.startsWith("'")) return key.slice(1, -1);
  if (!key.startsWith('"')) return key;
  try {
    return String(JSON.parse(key));
  } catch {
    // An escape that JSON does not have: then the line is not found, which costs a number in a message.
    return key;
  }
}
