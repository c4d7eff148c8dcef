/**
 * What a test opened, closed again in reverse order whatever happened. Free of vitest, so that drills
 * and benchmarks use it too; `testScope` in tools.ts ties one to a test.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class Scope {
  readonly #closers: { readonly what: string; readonly close: () => void | Promise<void> }[] = [];
  readonly #reports: { readonly what: string; readonly read: () => string }[] = [];

  /** Run `close` when the scope ends. Closers run one after another, the youngest first. */
  defer(what: string, close: () => void | Promise<void>): void {
    this.#closers.push({ what, close });
  }

  /** A text worth reading when the test fails: a log, a status. */
  reportOnFailure(what: string, read: () => string): void {
    this.#reports.push({ what, read });
  }

  /** A directory of its own with a short path (unix socket paths end at 107 bytes). */
  tempDir(prefix = 'bf-', parent: string = tmpdir()): string {
    const dir = mkdtempSync(join(parent, prefix));
    this.defer(`remove ${dir}`, () => {
      rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
    });
    return dir;
  }

  reports(): string {
    return this.#reports.map(({ what, read }) => `--- ${what}\n${read().trimEnd()}`).join('\n');
  }

  /** Runs every closer even if some fail; the failures are thrown together. */
  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (let entry = this.#closers.pop(); entry !== undefined; entry = this.#closers.pop()) {
      try {
        await entry.close();
      } catch (thrown) {
        failures.push(new Error(`clean-up failed: ${entry.what}`, { cause: thrown }));
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, failures.map(String).join('; '));
  }
}
