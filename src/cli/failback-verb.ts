/** `blockferry failback` */
import type { Command } from 'commander';
import type { FailbackStatus } from '../control/status.ts';
import { volumePath } from './client.ts';
import { clientOf, print, printJson, wantsColour, type SharedOptions } from './context.ts';
import { renderFailback } from './render/render-failover.ts';
import { renderVolume } from './render/render.ts';
import { leaf } from './verb.ts';

interface FailbackOptions extends SharedOptions {
  readonly force?: boolean;
}

export function addFailbackVerb(program: Command): void {
  leaf(
    program,
    'failback <volume> <node>',
    'make an old primary the mirror of the copy that goes on',
  )
    .option('--force', 'also a volume of which this node does not know that another goes on')
    .addHelpText(
      'after',
      `
Run it on the node of the old primary. What the volume holds is kept as its snapshot diverged-TIME,
its clients are disconnected, its mirrors removed, and it waits for NODE, the name of the new
primary's node. There, add it as a mirror: of what either side changed since they parted, what differs
is sent.

  blockferry failback orders beta
  blockferry mirror add orders nbds://alpha.example/orders    (on beta)`,
    )
    .action(failback);
}

async function failback(volume: string, node: string, options: FailbackOptions): Promise<void> {
  const body = { node, force: options.force === true };
  const path = `${volumePath(volume)}/failback`;
  const bound = await clientOf(options).call<FailbackStatus>('POST', path, body);
  if (options.json === true) printJson(bound);
  else print(renderFailback(bound) + renderVolume(bound, wantsColour()));
}
