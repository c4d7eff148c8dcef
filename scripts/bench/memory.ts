/** Resident memory of a process, as Linux counts it in /proc/PID/status. Bytes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { sleep } from '../../test/support/wait.ts';

const SETTLE_STEP_MS = 200;
const SETTLE_STEPS_MAX = 25;
/** Two samples closer than this are the same. */
const SETTLED_BYTES = 256 * 1024;

function field(pid: number, name: string): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  const found = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1];
  if (found === undefined) throw new Error(`no ${name} in /proc/${pid}/status`);
  return Number(found) * 1024;
}

export function residentBytes(pid: number): number {
  return field(pid, 'VmRSS');
}

/** The greatest resident size since the last `resetPeak`, or since the process began. */
export function peakBytes(pid: number): number {
  return Math.max(field(pid, 'VmHWM'), residentBytes(pid));
}

/** Lets the kernel forget the peak so far. */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

/** Waits until the resident size stands still (5 s at most) and returns it. */
export async function settledBytes(pid: number): Promise<number> {
  let last = residentBytes(pid);
  let still = 0;
  for (let step = 0; step < SETTLE_STEPS_MAX && still < 3; step++) {
    await sleep(SETTLE_STEP_MS);
    const now = residentBytes(pid);
    still = Math.abs(now - last) < SETTLED_BYTES ? still + 1 : 0;
    last = now;
  }
  return last;
}
