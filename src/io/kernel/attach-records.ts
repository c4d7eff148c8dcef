/**
 * What devices were attached to, where the kernel does not keep it: a small file for each, gone with the next boot.
 *
 * Invariant: a record counts only for the process that the kernel names for the device: that of another attachment is
 * out of date.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { KernelDevice } from './kernel-devices.ts';

const DIRECTORY = '/run/blockferry-attach';

export class AttachRecords {
  private readonly directory: string;

  constructor(directory: string = DIRECTORY) {
    this.directory = directory;
  }

  /** Best effort: the device works without. */
  write(index: number, pid: number, uri: string): void {
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o755 });
      writeFileSync(this.path(index), JSON.stringify({ pid, uri }), { mode: 0o644 });
    } catch {
      // A list that lacks a name is all that is lost.
    }
  }

  /** What the device is attached to, or null when nobody knows. */
  uriOf({ index, pid, backend }: KernelDevice): string | null {
    if (backend !== null || pid === null) return backend;
    try {
      const record = JSON.parse(readFileSync(this.path(index), 'utf8')) as Record<string, unknown>;
      return record['pid'] === pid && typeof record['uri'] === 'string' ? record['uri'] : null;
    } catch {
      return null;
    }
  }

  forget(index: number): void {
    rmSync(this.path(index), { force: true });
  }

  private path(index: number): string {
    return join(this.directory, `nbd${index}`);
  }
}
