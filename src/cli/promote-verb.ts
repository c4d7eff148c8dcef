/** `blockferry promote` */
import type { Command } from 'commander';
import type { VolumeStatus } from '../control/status.ts';
import { volumePath } from './client.ts';
import { clientOf, print, printJson, wantsColour, type SharedOptions } from './context.ts';
import { renderVolume } from './render.ts';
import { leaf } from './verb.ts';

interface PromoteOptions extends SharedOptions {
  readonly force?: boolean;
}

export function addPromoteVerb(program: Command): void {
  leaf(program, 'promote <volume>', 'make a mirror a volume that takes writes')
    .option('--force', 'also while its primary is alive: what is not here yet is lost')
    .addHelpText(
      'after',
      `
Run it on the node of the mirror when the primary is gone. The volume has the latest state that the
primary really had and that is here whole, and begins a generation of its own: the old primary,
when it comes back, learns of it and sends nothing. Readers of the mirror are disconnected.

  blockferry promote orders
  nbd-client -N orders beta.example /dev/nbd0`,
    )
    .action(promote);
}

async function promote(volume: string, options: PromoteOptions): Promise<void> {
  const body = { force: options.force === true };
  const path = `${volumePath(volume)}/promote`;
  const promoted = await clientOf(options).call<VolumeStatus>('POST', path, body);
  if (options.json === true) printJson(promoted);
  else print(renderVolume(promoted, wantsColour()));
}
