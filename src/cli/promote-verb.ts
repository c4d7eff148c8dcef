/** `blockferry promote` */
import type { Command } from 'commander';
import type { PromotionStatus } from '../control/status.ts';
import { volumePath } from './client.ts';
import { clientOf, print, printJson, wantsColour, type SharedOptions } from './context.ts';
import { renderPromotion } from './render/render-failover.ts';
import { renderVolume } from './render/render.ts';
import { leaf } from './verb.ts';

interface PromoteOptions extends SharedOptions {
  readonly force?: boolean;
  readonly at?: string;
}

export function addPromoteVerb(program: Command): void {
  leaf(program, 'promote <volume>', 'make a mirror a volume that takes writes')
    .option('--force', 'also while its primary is alive: what is not here yet is lost')
    .option('--at <snapshot>', 'with the content of one of its snapshots')
    .addHelpText(
      'after',
      `
Run it on the node of the mirror when the primary is gone. The volume has the latest state that the
primary really had and that is here whole, and begins a generation of its own: the old primary,
when it comes back, learns of it and sends nothing. Readers of the mirror are disconnected. With --at
the latest state is kept as the snapshot before-promotion-TIME. A volume that is held since the journal
of its promotion is damaged goes on with what is there when it is promoted by --force once more.

  blockferry promote orders
  nbd-client -N orders beta.example /dev/nbd0`,
    )
    .action(promote);
}

async function promote(volume: string, options: PromoteOptions): Promise<void> {
  const body = { force: options.force === true, at: options.at ?? null };
  const path = `${volumePath(volume)}/promote`;
  const promoted = await clientOf(options).call<PromotionStatus>('POST', path, body);
  if (options.json === true) printJson(promoted);
  else print(renderPromotion(promoted) + renderVolume(promoted, wantsColour()));
}
