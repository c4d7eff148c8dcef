/** The target `server-memory`: the server in this process on a network in memory, thousands of cases a second. */
import { memoryCase, NAMES, type MemoryCase } from './memory-case.ts';
import { runMemoryCase } from './memory-run.ts';
import { minimise } from './minimise.ts';
import { RECORDINGS } from './recordings.ts';
import { scriptText } from './steps.ts';
import { type Failure, kindOf, type Target } from './target.ts';

async function errorOf(plan: MemoryCase): Promise<Error | null> {
  try {
    await runMemoryCase(plan);
    return null;
  } catch (thrown) {
    return thrown instanceof Error ? thrown : new Error(String(thrown));
  }
}

function textOf(plan: MemoryCase): string {
  const { clients, devices, limits, stopAt } = plan;
  const lines = clients.map((script, index) => {
    const device = JSON.stringify(devices.get(NAMES[index] ?? ''));
    return `  client ${index} of ${device}\n${scriptText(script)}`;
  });
  if (stopAt >= 0) lines.push(`  the server is told to stop before step ${stopAt}`);
  return [`  ${JSON.stringify(limits)}`, ...lines].join('\n');
}

async function iterate(seed: number, iteration: number): Promise<Failure | null> {
  const plan = memoryCase(seed, iteration, RECORDINGS);
  const error = await errorOf(plan);
  if (error === null) return null;
  const fails = async (each: MemoryCase): Promise<boolean> => {
    const other = await errorOf(each);
    return other !== null && kindOf(other) === kindOf(error);
  };
  const smaller = await minimise(plan, fails);
  return { error: (await errorOf(smaller)) ?? error, details: textOf(smaller) };
}

export const serverMemory = (): Promise<Target> =>
  Promise.resolve({
    name: 'server-memory',
    iterate,
    summary: () => 'each judged reply by reply',
    close: () => Promise.resolve(),
  });
