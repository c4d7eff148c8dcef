/** Every target by name, and what the short names stand for. */
import { clientMemory } from './client-memory.ts';
import { clientProcess } from './client-process.ts';
import type { TargetChoice } from './loop.ts';
import { serverMemory } from './server-memory.ts';
import { serverProcess } from './server-process.ts';

const SERVER: readonly TargetChoice[] = [
  { name: 'server-memory', weight: 1, start: serverMemory },
  { name: 'server-process', weight: 2, start: serverProcess },
];
const CLIENT: readonly TargetChoice[] = [
  { name: 'client-memory', weight: 1, start: clientMemory },
  { name: 'client-process', weight: 2, start: clientProcess },
];

/** The targets behind a name: `server`, `client`, `all`, or that of one. Null when there is none. */
export function targetsOf(name: string): readonly TargetChoice[] | null {
  const all = [...SERVER, ...CLIENT];
  if (name === 'all') return all;
  if (name === 'server') return SERVER;
  if (name === 'client') return CLIENT;
  const one = all.filter((each) => each.name === name);
  return one.length > 0 ? one : null;
}

export const targetNames = (): string =>
  ['server', 'client', 'all', ...[...SERVER, ...CLIENT].map(({ name }) => name)].join(', ');
