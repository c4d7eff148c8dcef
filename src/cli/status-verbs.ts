/** `blockferry status` and `blockferry events`. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { NodeStatus } from '../control/status.ts';
import { BlockferryError } from '../io/errors.ts';
import type { BlockferryEvent } from '../replicator/status.ts';
import type { ControlClient } from './client.ts';
import { clientOf, print, printJson, wantsColour, type SharedOptions } from './context.ts';
import { oneLine } from './render/format.ts';
import { renderEvent, renderStatus } from './render/render.ts';
import { leaf } from './verb.ts';

const WATCH_MS = 1_000;
const CLEAR_SCREEN = '\u001b[H\u001b[2J\u001b[3J';
const HIDE_CURSOR = '\u001b[?25l';
const SHOW_CURSOR = '\u001b[?25h';

interface StatusOptions extends SharedOptions {
  readonly watch?: boolean;
}

interface EventsOptions extends SharedOptions {
  readonly follow?: boolean;
}

export function addStatusVerbs(program: Command): void {
  leaf(program, 'status [volume]', 'show volumes and how far their mirrors are')
    .option('--watch', 'show it again every second, until Ctrl-C')
    .addHelpText(
      'after',
      `
Of each mirror:
  STATE       streaming: every write is on its way in order. delta: out of contact or outrun, changed
              blocks are marked. comparing, shipping: catching up. paused, diverged, not-converging:
              waiting for you; the last error says why.
  CONSISTENT  the mirror holds a state that the volume really had
  STAGED      bytes written here and not yet safe there, sent in order
  DIRTY       bytes marked or to be compared, sent by the next delta run
  LAG         how old the mirror's state is
  ETA         when it will have caught up; a dash while that is not known`,
    )
    .action(status);

  leaf(program, 'events', 'print what happened on the node, oldest first')
    .option('-f, --follow', 'go on printing until Ctrl-C')
    .action(events);
}

async function fetchStatus(client: ControlClient, volume: string | undefined): Promise<NodeStatus> {
  const whole = await client.call<NodeStatus>('GET', '/v1/status');
  if (volume === undefined) return whole;
  const volumes = whole.volumes.filter(({ name }) => name === volume);
  if (volumes.length === 0) {
    throw new BlockferryError('VOLUME_NOT_FOUND', `there is no volume ${JSON.stringify(volume)}`);
  }
  return { ...whole, volumes, damaged: [] };
}

async function status(volume: string | undefined, options: StatusOptions): Promise<void> {
  const client = clientOf(options);
  const first = await fetchStatus(client, volume);
  if (options.watch) await watch(client, volume, options, first);
  else if (options.json) printJson(first);
  else print(renderStatus(first, wantsColour()));
}

/** Redraws until a signal. A node that went away is shown as such, and again when it is back. */
async function watch(
  client: ControlClient,
  volume: string | undefined,
  options: StatusOptions,
  first: NodeStatus,
): Promise<void> {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
  const redraw = process.stdout.isTTY && !options.json;
  if (redraw) print(HIDE_CURSOR);
  let shown: string = frame(first, options);
  while (!stop.signal.aborted) {
    print(redraw ? CLEAR_SCREEN + shown : shown);
    await sleep(WATCH_MS, undefined, { signal: stop.signal }).catch(() => {});
    if (stop.signal.aborted) break;
    try {
      shown = frame(await fetchStatus(client, volume), options);
    } catch (error) {
      if (!(error instanceof BlockferryError)) throw error;
      shown = options.json
        ? `${JSON.stringify({ error: error.code })}\n`
        : `${oneLine(error.line)}\n`;
    }
  }
  if (redraw) print(SHOW_CURSOR);
}

function frame(status: NodeStatus, options: StatusOptions): string {
  if (options.json) return `${JSON.stringify(status)}\n`;
  const clock = new Date().toISOString();
  return `${renderStatus(status, wantsColour())}\n${clock}  every second, Ctrl-C ends\n`;
}

async function events(options: EventsOptions): Promise<void> {
  if (options.follow) {
    // Ctrl-C is how this ends.
    for (const signal of ['SIGINT', 'SIGTERM'] as const)
      process.once(signal, () => process.exit(0));
  }
  const path = options.follow ? '/v1/events?follow=true' : '/v1/events';
  await clientOf(options).stream(path, (line) => {
    print(options.json ? `${line}\n` : renderEvent(JSON.parse(line) as BlockferryEvent));
  });
}
