/** What one client says and does in a case: mostly sense, with something wrong somewhere. */
import * as wire from '../../test/wire/encoder.ts';
import type { Dice } from './dice.ts';
import { OptionMaker, type Words } from './generate-options.ts';
import { RequestMaker, type RequestTerrain } from './generate-requests.ts';
import { mutateBytes } from './mutate.ts';
import type { ClientScript, Step } from './steps.ts';

export interface Terrain {
  /** Exports that it may use. */
  readonly names: readonly string[];
  /** The export that this client is to use when it behaves. */
  readonly name: string;
  readonly requests: RequestTerrain;
  /** Whether STARTTLS leads anywhere. */
  readonly tls: boolean;
  /** Client bytes of recorded conversations. */
  readonly recordings: readonly Buffer[];
}

const send = (words: readonly Words[]): Step => ({
  do: 'send',
  bytes: Buffer.concat(words.map((each) => each.bytes)),
  note: words.map((each) => each.note).join('; '),
});

function clientFlags(dice: Dice): Words {
  const flags = dice.chance(97) ? dice.pick([3, 3, 3, 1]) : dice.pick([0, 2, 4, 7, dice.u32()]);
  return { bytes: wire.clientFlags(flags), note: `client flags ${flags}` };
}

/** In one piece with what comes behind it, or waiting for the answer each time. */
function inBatches(dice: Dice, words: readonly Words[], most: number): Step[] {
  const steps: Step[] = [];
  for (let at = 0; at < words.length;) {
    const count = 1 + dice.skewed(most);
    steps.push(send(words.slice(at, at + count)));
    if (dice.chance(60)) steps.push({ do: 'settle' });
    at += count;
  }
  return steps;
}

function shuffled<T>(dice: Dice, list: readonly T[]): T[] {
  const copy = [...list];
  for (let at = copy.length - 1; at > 0; at--) {
    const other = dice.below(at + 1);
    [copy[at], copy[other]] = [copy[other] as T, copy[at] as T];
  }
  return copy;
}

function handshake(dice: Dice, terrain: Terrain): Words[] {
  const maker = new OptionMaker(dice, terrain.names);
  const odd = Array.from({ length: dice.chance(50) ? 0 : dice.skewed(10) }, () => maker.option());
  if (dice.chance(1)) {
    const many = dice.between(50, 80);
    for (let count = 0; count < many; count++) odd.push(maker.option(dice.pick([3, 6, 8, 99])));
  }
  let words = [...odd, ...maker.good(terrain.name)];
  if (dice.chance(3)) words = shuffled(dice, words);
  if (dice.chance(3)) words.push(...words);
  return [clientFlags(dice), ...words];
}

/** Which form the words lead to, if all goes well: what the requests have to look like. */
const isExtended = (words: readonly Words[]): boolean =>
  words.some((each) => each.note === 'EXTENDED_HEADERS');

function requests(dice: Dice, terrain: Terrain, extended: boolean): Step[] {
  const maker = new RequestMaker(dice, terrain.requests, extended);
  const count = dice.chance(2) ? dice.between(200, 1500) : dice.between(0, 30);
  const words = Array.from({ length: count }, () => maker.request());
  if (dice.chance(20)) words.push(maker.disconnect());
  if (dice.chance(10)) words.push(maker.request());
  return inBatches(dice, words, count > 100 ? count : 8);
}

/** Something that has nothing to do with bytes. */
function disturbance(dice: Dice): Step {
  return dice.weighted<() => Step>([
    [3, () => ({ do: 'half-close' })],
    [3, () => ({ do: 'reset' })],
    [4, () => ({ do: 'stall', ms: dice.between(1, 50) })],
    [1, () => ({ do: 'stall', ms: 2 ** 31 - 1 })],
    [3, () => ({ do: 'wait', ms: dice.between(1, 20) })],
    // Where time is played, past every patience of the server.
    [1, () => ({ do: 'wait', ms: 60_000 })],
  ])();
}

/** STARTTLS with its answer awaited, or with something behind it; then TLS, mostly. */
function upToTls(dice: Dice, terrain: Terrain): Step[] {
  const maker = new OptionMaker(dice, terrain.names);
  const odd = Array.from({ length: dice.chance(60) ? 0 : dice.skewed(6) }, () => maker.option());
  const steps: Step[] = [
    send([clientFlags(dice), ...odd, { bytes: wire.startTls(), note: 'STARTTLS' }]),
  ];
  if (dice.chance(5)) steps.push(send([maker.option()]));
  steps.push({ do: 'settle' });
  if (dice.chance(5)) steps.push(send([{ bytes: dice.bytes(dice.skewed(600)), note: 'noise' }]));
  if (!dice.chance(5)) steps.push({ do: 'tls' });
  return steps;
}

function structured(dice: Dice, terrain: Terrain): Step[] {
  const before = terrain.tls && dice.chance(80) ? upToTls(dice, terrain) : null;
  const options = before === null ? handshake(dice, terrain) : handshake(dice, terrain).slice(1);
  const steps = [...(before ?? []), ...inBatches(dice, options, 12)];
  steps.push(...requests(dice, terrain, isExtended(options)));
  if (dice.chance(25)) steps.splice(dice.below(steps.length + 1), 0, disturbance(dice));
  if (dice.chance(4)) steps.length = dice.below(steps.length + 1);
  if (dice.chance(8)) return steps.map((step) => (step.do === 'send' ? mangled(dice, step) : step));
  return steps;
}

function mangled(dice: Dice, step: Extract<Step, { do: 'send' }>): Step {
  if (dice.chance(60)) return step;
  return { do: 'send', bytes: mutateBytes(dice, step.bytes), note: `mangled: ${step.note}` };
}

/** A recorded conversation, with bits flipped or bytes lost, doubled or exchanged. */
function fromRecording(dice: Dice, { recordings }: Terrain): Step[] {
  const bytes = mutateBytes(dice, dice.pick(recordings));
  const steps: Step[] = [{ do: 'send', bytes, note: 'a mangled recording' }];
  if (dice.chance(20)) steps.push(disturbance(dice));
  return steps;
}

function noise(dice: Dice): Step[] {
  const prefix = dice.pick([
    Buffer.alloc(0),
    wire.clientFlags(3),
    Buffer.from('GET / HTTP/1.1\r\n'),
  ]);
  const bytes = Buffer.concat([prefix, dice.bytes(dice.skewed(100_000))]);
  return [{ do: 'send', bytes, note: 'noise' }];
}

export function clientScript(dice: Dice, terrain: Terrain): ClientScript {
  const steps = dice.weighted<() => Step[]>([
    [85, () => structured(dice, terrain)],
    [12, () => fromRecording(dice, terrain)],
    [3, () => noise(dice)],
  ])();
  const pieces = dice.weighted<ClientScript['pieces']>([
    [60, 'whole'],
    [30, 'random'],
    [10, 'bytes'],
  ]);
  return { steps, pieces, seed: dice.u32() };
}
