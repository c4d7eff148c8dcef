/**
 * Runs `qemu-img`, which knows the image formats that this program does not.
 *
 * Invariants:
 * - It is given its arguments as they are: no shell reads a path or a URI.
 * - It ends before the promise is settled; when it is asked to stop, it is told to end.
 */
import { spawn } from 'node:child_process';

import { BlockferryError } from './errors.ts';
import { TRANSFER_TOOL_CHARACTERS_MAX } from './limits.ts';

const PROGRAM = 'qemu-img';
const PROGRESS = /\((\d+(?:\.\d+)?)\/100%\)/g;

export interface ToolRun {
  /** Percent that is done, as it comes. */
  readonly progress?: (percent: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * What it printed.
 * @throws BlockferryError TOOL_MISSING: it is not installed. TRANSFER_STOPPED. IMAGE_UNUSABLE, in its words.
 */
export async function runQemuImg(args: readonly string[], run: ToolRun = {}): Promise<string> {
  const child = spawn(PROGRAM, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output = (output + text).slice(-TRANSFER_TOOL_CHARACTERS_MAX);
    const percent = [...text.matchAll(PROGRESS)].at(-1)?.[1];
    if (percent !== undefined) run.progress?.(Number(percent));
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-TRANSFER_TOOL_CHARACTERS_MAX);
  });
  const stop = (): void => void child.kill('SIGTERM');
  run.signal?.addEventListener('abort', stop);
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
    });
    if (code === 0) return output;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      throw new BlockferryError('TOOL_MISSING', `${PROGRAM} is not installed`, { cause: error });
    }
    throw error;
  } finally {
    run.signal?.removeEventListener('abort', stop);
  }
  if (run.signal?.aborted === true) {
    throw new BlockferryError('TRANSFER_STOPPED', `${PROGRAM} was stopped`);
  }
  const [said = 'it failed without a word'] = errors.trim().split('\n');
  throw new BlockferryError('IMAGE_UNUSABLE', `${PROGRAM} ${args[0] ?? ''}: ${said}`);
}
