/**
 * `npm test`: tools, format, lint, then every test. The last line counts: `tests: N passed, N failed,
 * N skipped`. Skipped tests are named with their reason, and in CI a skip is a failure. Arguments are
 * filters on test files: `npm test -- test/clients`.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { startVitest, type TestCase, type TestModule } from 'vitest/node';
import { ROOT } from '../test/support/root.ts';
import { setupTools } from './setup-tools.ts';

interface Tally {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: readonly string[];
}

function check(what: string, bin: string, args: readonly string[]): boolean {
  const script = join(ROOT, 'node_modules', bin);
  const result = spawnSync(process.execPath, [script, ...args], { cwd: ROOT, encoding: 'utf8' });
  const ok = result.status === 0;
  console.log(`${what}: ${ok ? 'clean' : 'FAILED'}`);
  if (!ok) console.log(`${result.stdout}${result.stderr}`.trimEnd());
  return ok;
}

function nameOf(test: TestCase): string {
  return `${test.module.relativeModuleId} > ${test.fullName}`;
}

function skipReason(test: TestCase): string {
  const result = test.result();
  return (result.state === 'skipped' && result.note) || `marked ${test.options.mode}`;
}

function tally(modules: readonly TestModule[], unhandled: number): Tally {
  let passed = 0;
  let failed = unhandled;
  const skipped: string[] = [];
  for (const module of modules) {
    const tests = [...module.children.allTests()];
    // A file that does not load, or whose hooks fail, is one failure of its own.
    if (module.errors().length > 0) failed++;
    for (const suite of module.children.allSuites()) failed += suite.errors().length > 0 ? 1 : 0;
    for (const test of tests) {
      const { state } = test.result();
      if (state === 'passed') passed++;
      else if (state === 'skipped') skipped.push(`${nameOf(test)}: ${skipReason(test)}`);
      else failed++;
    }
  }
  return { passed, failed, skipped };
}

async function runTests(filters: readonly string[]): Promise<Tally> {
  const vitest = await startVitest('test', [...filters], { root: ROOT, watch: false, run: true });
  const { state } = vitest;
  const result = tally(state.getTestModules(), state.getUnhandledErrors().length);
  await vitest.close();
  return result;
}

async function main(): Promise<void> {
  const inCi = Boolean(process.env['CI']);
  const clean = [
    setupTools().length === 0 || !inCi,
    check('format', 'prettier/bin/prettier.cjs', ['--check', '--log-level', 'warn', '.']),
    check('lint', 'oxlint/bin/oxlint', ['--type-aware', '--deny-warnings']),
  ].every(Boolean);
  const { passed, failed, skipped } = await runTests(process.argv.slice(2));
  for (const line of skipped) console.log(`skipped: ${line}`);
  if (skipped.length > 0 && inCi) console.log('in CI nothing may be skipped');
  if (!clean) console.log('tools, format or lint failed: see the top of this output');
  if (passed + failed === 0) console.log('no test was run');
  const ok = clean && failed === 0 && passed > 0 && !(inCi && skipped.length > 0);
  console.log(`tests: ${passed} passed, ${failed} failed, ${skipped.length} skipped`);
  process.exit(ok ? 0 : 1);
}

await main();
