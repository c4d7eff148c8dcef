/** `blockferry switchover`, `blockferry split` */
import { InvalidArgumentError, type Command } from 'commander';
import type { SwitchoverStatus, VolumeStatus } from '../control/status.ts';
import { HANDOVER_MS, HANDOVER_MS_MAX } from '../io/limits.ts';
import { volumePath } from './client.ts';
import { clientOf, print, printJson, wantsColour, type SharedOptions } from './context.ts';
import { oneLine } from './render/format.ts';
import { renderVolume } from './render/render.ts';
import { leaf } from './verb.ts';

interface HandoverOptions extends SharedOptions {
  readonly to?: string;
  readonly back?: string;
  readonly timeout: number;
}

/** Of a split it is the volume alone. */
type Answer = VolumeStatus & Partial<SwitchoverStatus>;

/** For the answer behind the deadline. */
const ANSWER_MS = 15_000;

export function addSwitchoverVerbs(program: Command): void {
  timed(leaf(program, 'switchover <volume>', 'move the writes to the mirror, with nothing lost'))
    .alias('demote')
    .option('--back <uri>', 'how the new primary reaches this volume as its mirror')
    .addHelpText(
      'after',
      `
On either node. The primary holds its writes, ships the rest, and the mirror takes over; the old primary
becomes its mirror, with nothing to copy, and its clients are cut off, so that those that reconnect move.
If it does not come to that in time, the primary takes writes again and says so. Without --back the
address under [replication] of the old primary counts, if it has one.

  blockferry switchover orders --back nbds://alpha.example/orders`,
    )
    .action((volume: string, options: HandoverOptions) => order('switchover', volume, options));

  timed(leaf(program, 'split <volume>', 'have the mirror take writes as well, on purpose'))
    .addHelpText(
      'after',
      `
On either node. Both go on from one state, each alone; the mirror is paused on the primary. Whichever is
given up follows the other again:

  blockferry failback orders alpha    (on beta, whose changes are kept as a snapshot)
  blockferry mirror resume orders     (on alpha)`,
    )
    .action((volume: string, options: HandoverOptions) => order('split', volume, options));
}

function timed(command: Command): Command {
  return command
    .option('--to <mirror>', 'of several mirrors: its URI, or the name of its node')
    .option('--timeout <seconds>', 'how long it may take', seconds, HANDOVER_MS / 1000);
}

function seconds(text: string): number {
  const value = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= HANDOVER_MS_MAX / 1000) return value;
  throw new InvalidArgumentError(`It must be 1 to ${HANDOVER_MS_MAX / 1000}.`);
}

async function order(
  what: 'switchover' | 'split',
  volume: string,
  options: HandoverOptions,
): Promise<void> {
  const { to = null, back, timeout } = options;
  const body = { to, timeout_seconds: timeout, ...(back === undefined ? {} : { back }) };
  const path = `${volumePath(volume)}/${what}`;
  const client = clientOf(options);
  const status = await client.call<Answer>('POST', path, body, timeout * 1000 + ANSWER_MS);
  if (options.json === true) printJson(status);
  else print(renderVolume(status, wantsColour()) + (what === 'split' ? '' : whatIsLeft(status)));
}

/** The commands that finish a move: of the way back, when nobody said it, and of other mirrors. */
function whatIsLeft({ name, source, back = null, next = [] }: Answer): string {
  const volume = oneLine(name);
  const where = source === null ? 'here' : `on ${oneLine(source.node)}`;
  const whose = source === null ? 'THE-OLD-PRIMARY' : 'THIS-NODE';
  const add = `one step is left, ${where}: blockferry mirror add ${volume} nbds://${whose}/${volume}\n`;
  const steps = next.map(
    ({ node, command }) => `another mirror, on ${oneLine(node)}: ${oneLine(command)}\n`,
  );
  return `${back === null ? add : ''}${steps.join('')}`;
}
