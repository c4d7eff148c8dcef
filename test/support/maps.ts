/** What a client's own tool says of an export's blocks, in one form: runs of equal state, joined. */
import { run } from './process.ts';

export interface Run {
  readonly start: number;
  readonly length: number;
  /** The context's word; for base:allocation 1 is a hole, 2 reads as zeroes, 0 is data. */
  readonly flags: number;
}

function joined(runs: readonly Run[]): Run[] {
  const result: Run[] = [];
  let end = 0;
  for (const next of runs) {
    if (next.start !== end) throw new Error(`a gap in the map at ${end}: ${JSON.stringify(next)}`);
    end += next.length;
    const last = result.at(-1);
    if (last?.flags !== next.flags) result.push(next);
    else result.splice(-1, 1, { ...last, length: last.length + next.length });
  }
  return result;
}

/** `nbdinfo --map`; `context` defaults to base:allocation. */
export async function nbdinfoMap(uri: string, context?: string): Promise<Run[]> {
  const option = context === undefined ? '--map' : `--map=${context}`;
  const { stdout } = await run('nbdinfo', [option, '--json', uri]);
  const entries = JSON.parse(stdout) as { offset: number; length: number; type: number }[];
  return joined(
    entries.map(({ offset, length, type }) => ({ start: offset, length, flags: type })),
  );
}

/** `qemu-img map`: what QEMU makes of base:allocation, as its words. */
export async function qemuMap(uri: string): Promise<Run[]> {
  const { stdout } = await run('qemu-img', ['map', '--output=json', '-f', 'raw', uri]);
  const entries = JSON.parse(stdout) as {
    start: number;
    length: number;
    zero: boolean;
    data: boolean;
  }[];
  return joined(
    entries.map(({ start, length, zero, data }) => ({
      start,
      length,
      flags: (data ? 0 : 1) | (zero ? 2 : 0),
    })),
  );
}
