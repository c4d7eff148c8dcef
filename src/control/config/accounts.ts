/**
 * Users and groups of this host by name, from /etc/passwd and /etc/group: Node cannot ask for others than its own.
 * Accounts of a directory service are not there; they are given as numbers.
 */
import { errorText } from '../../io/errors.ts';

/** Largest id of Linux; the one above means "leave it". */
const ID_MAX = 0xfffffffe;

const FILES = { user: '/etc/passwd', group: '/etc/group' } as const;

/**
 * The number of a user or group, given as name or number.
 * @throws Error with the reason
 */
export function accountId(
  kind: keyof typeof FILES,
  account: string | number,
  readFile: (path: string) => Buffer,
): number {
  const text = String(account);
  if (/^\d+$/.test(text)) {
    const id = Number(text);
    if (id > ID_MAX) throw new Error(`${text} is no ${kind} id`);
    return id;
  }
  const id = lookUp(FILES[kind], text, readFile);
  if (id === null) throw new Error(`there is no ${kind} ${JSON.stringify(text)} in ${FILES[kind]}`);
  return id;
}

/** Both files have the name first and the number third. */
function lookUp(path: string, name: string, readFile: (path: string) => Buffer): number | null {
  let text: string;
  try {
    text = readFile(path).toString('utf8');
  } catch (error) {
    throw new Error(`cannot read ${path}: ${errorText(error)}`, { cause: error });
  }
  for (const line of text.split('\n')) {
    const [found, , id] = line.split(':');
    if (found === name && id !== undefined && /^\d+$/.test(id)) return Number(id);
  }
  return null;
}
