/** What ties the helpers to vitest: a scope that lives as long as a test, and tools that may be missing. */
import { onTestFinished, type TestContext } from 'vitest';
import { missingTools } from '../../scripts/setup-tools.ts';
import { Scope } from './scope.ts';

/** Longer than the longest single step of a clean-up: the step that hangs is then named. */
const CLEAN_UP_MS_MAX = 180_000;

/** A scope that is closed when the running test ends; its reports are printed when the test fails. */
export function testScope(): Scope {
  const scope = new Scope();
  onTestFinished(async ({ task }) => {
    // Before the scope closes: reports read files that go with it.
    if (task.result?.state === 'fail') console.error(scope.reports());
    await scope.close();
  }, CLEAN_UP_MS_MAX);
  return scope;
}

let missing: ReadonlyMap<string, string> | undefined;

/**
 * Skips the running test, naming the tools that it lacks; in CI, where all are installed, it fails.
 * Names are those of scripts/tool-list.ts.
 */
export function requireTools(context: TestContext, ...names: readonly string[]): void {
  missing ??= new Map(missingTools().map((tool) => [tool.name, tool.package]));
  const lacking = names.filter((name) => missing?.has(name));
  if (lacking.length === 0) return;
  const packages = [...new Set(lacking.map((name) => missing?.get(name)))].join(' ');
  refuse(context, `needs ${lacking.join(' ')} (Debian: ${packages})`);
}

/** Skips the running test unless it is root, who alone may mount, make namespaces and loop devices. */
export function requireRoot(context: TestContext, what: string): void {
  if (process.getuid?.() !== 0) refuse(context, `needs root for ${what}`);
}

function refuse(context: TestContext, why: string): void {
  if (process.env['CI']) throw new Error(`${why}; nothing may be skipped in CI`);
  context.skip(why);
}
