/** qemu-io against an NBD export: its commands, its pattern check. */
import { run } from './process.ts';

/** The export as qemu's tools take it: a URI, or `--image-opts` with what that needs. */
export type QemuTarget = string | { readonly options: string; readonly objects: readonly string[] };

/** Words before the commands of qemu-io, and with `-f` of qemu-img, that name the export. */
export function targetWords(target: QemuTarget): { before: readonly string[]; name: string } {
  if (typeof target === 'string') return { before: ['-f', 'raw'], name: target };
  const objects = target.objects.flatMap((object) => ['--object', object]);
  return { before: [...objects, '--image-opts'], name: target.options };
}

/**
 * Runs the commands in one client; throws when one fails, a pattern that does not match included. An export that takes
 * no writes wants the flag `-r`.
 */
export async function qemuIo(
  target: QemuTarget,
  commands: readonly string[],
  flags: readonly string[] = [],
): Promise<void> {
  const { before, name } = targetWords(target);
  const args = [...flags, ...before, ...commands.flatMap((command) => ['-c', command]), name];
  const { code, stdout, stderr } = await run('qemu-io', args, { allowFailure: true });
  if (code !== 0 || /fail|error|not supported/i.test(stdout)) {
    throw new Error(`qemu-io exit ${String(code)}:\n${stdout}${stderr}`);
  }
}
