/**
 * What an operator does with the mirror after the primary is gone, on copies of it: replay the journal,
 * check, mount, read everything. Two ways, as either could hide what the other shows: e2fsck replays and
 * checks; the kernel replays, and e2fsck finds nothing afterwards.
 */
import { join } from 'node:path';
import { holdsMounts, mountImage } from './filesystem.ts';
import { LEDGER_NAME, ledgerLength } from './load.ts';
import { run, Undo } from './process.ts';
import { DATABASE_NAME, transactionsIn } from './sqlite.ts';

/** e2fsck: 0 clean, 1 corrected (the journal, orphans). Anything else is damage. */
const E2FSCK_CORRECTED = 1;

export interface TakenOver {
  readonly files: number;
  readonly ledgerLines: number;
  /** Of the database, if it was there yet. */
  readonly transactions: number;
}

/** Throws with what is wrong. Leaves nothing mounted. */
export async function takeOver(image: string, directory: string): Promise<TakenOver> {
  const first = join(directory, 'fsck.raw');
  await run('cp', ['--sparse=always', image, first]);
  await run('e2fsck', ['-fp', first], { accept: [0, E2FSCK_CORRECTED] });
  await run('e2fsck', ['-fn', first]);

  const second = join(directory, 'mount.raw');
  await run('cp', ['--sparse=always', image, second]);
  const mountPoint = join(directory, 'takeover');
  const taken = await readMounted(second, mountPoint);
  if (holdsMounts(mountPoint)) throw new Error(`the copy could not be unmounted: ${mountPoint}`);
  await run('e2fsck', ['-fn', second]);
  await run('rm', ['-f', first, second]);
  return taken;
}

async function readMounted(image: string, mountPoint: string): Promise<TakenOver> {
  const undo = new Undo();
  try {
    await mountImage({ image, mountPoint, undo });
    return await readAll(mountPoint);
  } finally {
    await undo.run();
  }
}

async function readAll(mountPoint: string): Promise<TakenOver> {
  const files = await run('find', [mountPoint, '-type', 'f', '-print']);
  // Read whatever there is: an error of the filesystem or the device ends it with a failure.
  await run('find', [mountPoint, '-type', 'f', '-exec', 'sha256sum', '{}', '+']);
  const ledger = join(mountPoint, LEDGER_NAME);
  const content = files.stdout.includes(ledger) ? (await run('cat', [ledger])).stdout : '';
  const database = files.stdout.includes(join(mountPoint, DATABASE_NAME));
  return {
    transactions: database ? await transactionsIn(mountPoint) : 0,
    files: files.stdout.split('\n').length - 1,
    ledgerLines: ledgerLength(content),
  };
}
