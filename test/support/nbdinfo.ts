/** Questions that nbdinfo answers. */
import { run } from './process.ts';

/** Bytes of an export, or null when nbdinfo does not get in. */
export async function sizeOf(uri: string): Promise<number | null> {
  const { code, stdout } = await run('nbdinfo', ['--size', uri], { allowFailure: true });
  return code === 0 ? Number(stdout) : null;
}

/** The names that a server lists, in its order. Throws when it lists none on purpose. */
export async function listed(uri: string): Promise<string[]> {
  const { stdout } = await run('nbdinfo', ['--list', '--json', uri]);
  const { exports } = JSON.parse(stdout) as { exports: { 'export-name': string }[] };
  return exports.map((entry) => entry['export-name']);
}
