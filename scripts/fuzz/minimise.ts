/** Makes a failing case smaller while it fails: fewer steps, fewer clients, whole pieces. */
import type { MemoryCase } from './memory-case.ts';
import type { ClientScript } from './steps.ts';

const TRIES_MAX = 400;

export async function minimise(
  plan: MemoryCase,
  fails: (plan: MemoryCase) => Promise<boolean>,
): Promise<MemoryCase> {
  let best = plan;
  let tries = 0;
  const attempt = async (candidate: MemoryCase): Promise<boolean> => {
    if (++tries > TRIES_MAX || !(await fails(candidate))) return false;
    best = candidate;
    return true;
  };
  const withScript = (index: number, script: ClientScript): MemoryCase => ({
    ...best,
    clients: best.clients.map((each, at) => (at === index ? script : each)),
  });
  await attempt({ ...best, stopAt: -1 });
  for (let index = 0; index < plan.clients.length; index++) {
    const script = (): ClientScript =>
      best.clients[index] ?? { steps: [], pieces: 'whole', seed: 0 };
    if (await attempt(withScript(index, { ...script(), steps: [] }))) continue;
    await attempt(withScript(index, { ...script(), pieces: 'whole' }));
    for (let size = Math.ceil(script().steps.length / 2); size >= 1; size = Math.floor(size / 2)) {
      for (let at = script().steps.length - size; at >= 0; at -= size) {
        const steps = script().steps.toSpliced(at, size);
        await attempt(withScript(index, { ...script(), steps }));
      }
    }
  }
  return best;
}
