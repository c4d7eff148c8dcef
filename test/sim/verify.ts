/**
 * Looks at everything that the volumes show, and holds it against the model. The pool goes on working meanwhile, and
 * the process may end in the middle: then nothing was seen.
 */
import type { BlockDevice, Extent, StatusContext } from '../../src/io/device.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { answered, requestOf } from '../volume/support/request.ts';
import type { TestRequest } from '../volume/support/request.ts';
import { wrongUnless } from './failure.ts';
import type { Machine } from './machine.ts';
import { differs, type Expected, type Head } from './model.ts';
import { SECTOR, Sector, ZEROES, type Possible } from './sectors.ts';
import type { VolumeModel } from './volume-model.ts';

const PIECE = 1024 * 1024;
/** Of a larger volume the parts that are called zero are only read here and there. */
const WHOLE_BYTES_MAX = 2 * PIECE;
const HOLE_OR_ZERO = 3;

interface Readable {
  read(request: TestRequest): number;
}

/** What a device shows: sectors that were not read are zeroes by its map. */
interface Seen {
  readonly sizeBytes: number;
  readonly sectors: Map<number, Buffer>;
  readonly read: readonly (readonly [number, number])[];
}

export async function verify(machine: Machine): Promise<void> {
  for (const [index, model] of machine.models.entries()) {
    const volume = machine.volume(index);
    await verifyVolume(machine, volume, model);
    if (machine.disk.ended !== null) return;
  }
  machine.since = 'nothing';
}

async function verifyVolume(machine: Machine, volume: Volume, model: VolumeModel): Promise<void> {
  const since = sinceOf(machine, model);
  if (model.names.size === 0 || since !== 'nothing') checkNames(machine, volume, model);
  const seen = await look(machine, volume, volume.allocation, volume.sizeBytes);
  if (seen === null) return;
  matchHead(machine, model, { seen, since });
  for (const [name, { expected }] of model.snapshots) {
    if (since === 'nothing' && model.isBusy(name)) continue;
    await verifySnapshot(machine, volume, name, expected);
    if (machine.disk.ended !== null) return;
  }
  checkChanged(volume, model);
  if (since !== 'nothing') model.reopened = false;
}

/** What a volume may have come through since it was looked at; one that was opened again alone, when nothing is asked of it. */
function sinceOf({ since }: Machine, model: VolumeModel): Machine['since'] {
  return since === 'nothing' && model.reopened && model.isAtRest ? 'kill' : since;
}

function checkNames(machine: Machine, volume: Volume, model: VolumeModel): void {
  const { snapshots } = volume;
  const list = snapshots.list();
  const found = new Map(list.map(({ name, id }) => [name, id] as const));
  wrongUnless(found.size === list.length, `two snapshots of ${model.name} have one name`);
  const wrong = model.foundNames(found, machine.now);
  wrongUnless(wrong === null, `volume ${model.name}: ${wrong}`);
  for (const { name, sizeBytes } of list) {
    const expected = model.snapshots.get(name)!.expected.sizeBytes;
    wrongUnless(sizeBytes === expected, `snapshot ${name} has ${sizeBytes} bytes, not ${expected}`);
  }
}

export async function verifySnapshot(
  machine: Machine,
  volume: Volume,
  name: string,
  expected: Expected,
): Promise<void> {
  const device = volume.snapshots.device(name);
  wrongUnless(device !== null, `snapshot ${name} has no device`);
  wrongUnless(device.sizeBytes === expected.sizeBytes, `the device of ${name} has another size`);
  const seen = await look(machine, device, allocationOf(device), device.sizeBytes);
  if (seen === null) return;
  for (let at = 0; at < expected.sizeBytes / SECTOR; at += 1) {
    const found = seen.sectors.get(at) ?? ZEROES;
    const wrong = expected.wrong(at, found);
    wrongUnless(wrong === null, `snapshot ${volume.name}@${name}, sector ${at} ${wrong}`);
  }
  for (let at = 0; at < expected.sizeBytes / SECTOR; at += 1) {
    expected.known(at, seen.sectors.get(at) ?? ZEROES);
  }
}

function allocationOf(device: BlockDevice): StatusContext {
  const [context] = device.contexts();
  wrongUnless(context?.name === 'base:allocation', 'base:allocation comes first');
  return context;
}

/** Which heads fit what is seen; one must. They hold that from now on. */
function matchHead(
  machine: Machine,
  model: VolumeModel,
  { seen, since }: { seen: Seen; since: Machine['since'] },
): void {
  const { traits } = machine.history;
  // Where the machine tells too little of itself, a kill may cost what a power cut may.
  const told = traits.knowsBoot && traits.knowsExtents && traits.grain === 1;
  const like = since === 'kill' && !told ? 'cut' : since;
  const fits = model.heads.map((head) => mismatch(head, seen, like));
  const heads = model.heads.filter((_, index) => fits[index] === null);
  if (heads.length === 0) {
    wrongUnless(false, `volume ${model.name} after ${since}: ${fits.join('; or ')}`);
  }
  if (since === 'nothing') {
    // What an answer left open is known when a later process looks.
    // A write that failed may come out after a kill: the file has what the map does not say.
    if (machine.troubled || !model.quiet || model.pendingHead !== null) return;
    if (model.heads.length > 1) return;
  } else {
    model.heads = heads;
  }
  const moment = machine.tick();
  for (const head of model.heads) {
    for (const [at, sector] of head.sectors) {
      if (!sector.isSettled) {
        sector.resolve(seen.sectors.get(at) ?? ZEROES, since === 'cut', moment);
      }
    }
  }
}

function mismatch(head: Head, seen: Seen, since: Machine['since']): string | null {
  if (head.sizeBytes !== seen.sizeBytes) {
    return `it has ${seen.sizeBytes} bytes, not ${head.sizeBytes}`;
  }
  for (const at of new Set([...head.sectors.keys(), ...seen.sectors.keys()])) {
    const sector = head.sector(at) ?? new Sector(at, ZEROES);
    const found = seen.sectors.get(at) ?? ZEROES;
    const possible: Possible = since === 'cut' ? sector.afterCut() : sector.now();
    const { states, known } = possible;
    if (!known || states.some((state) => state.equals(found))) continue;
    const newest = states.at(-1) ?? ZEROES;
    return `sector ${at} ${differs(newest, found)}${states.length > 1 ? `, nor any of ${states.length - 1} others` : ''}`;
  }
  return null;
}

/** Reads a device: all of it, or what its map calls data and some of the rest. Null when the process ended. */
async function look(
  machine: Machine,
  device: Readable,
  allocation: StatusContext,
  sizeBytes: number,
): Promise<Seen | null> {
  const sectors = new Map<number, Buffer>();
  const read: (readonly [number, number])[] = [];
  const zero = zeroRuns(allocation, sizeBytes);
  const whole = sizeBytes <= WHOLE_BYTES_MAX;
  for (const [offset, end] of whole ? [[0, sizeBytes] as const] : dataRuns(zero, sizeBytes)) {
    for (let at = offset; at < end; at += PIECE) {
      const bytes = await readPiece(machine, device, at, Math.min(PIECE, end - at));
      if (bytes === null) return null;
      read.push([at, at + bytes.length]);
      for (let within = 0; within < bytes.length; within += SECTOR) {
        const sector = bytes.subarray(within, within + SECTOR);
        if (!sector.equals(ZEROES)) sectors.set((at + within) / SECTOR, Buffer.from(sector));
      }
    }
  }
  // Nobody writes while a machine is looked at: the map is the same as before.
  for (const [start, end] of zero) {
    for (const at of sectors.keys()) {
      const outside = at * SECTOR < start || at * SECTOR >= end;
      wrongUnless(outside, `sector ${at} is called zero, and holds something`);
    }
  }
  return { sizeBytes, sectors, read };
}

function zeroRuns(allocation: StatusContext, sizeBytes: number): [number, number][] {
  const runs: [number, number][] = [];
  const extent: Extent = { end: 0, flags: 0 };
  for (let offset = 0; offset < sizeBytes; offset = extent.end) {
    allocation.describe(offset, sizeBytes, extent);
    wrongUnless(extent.end > offset && extent.end <= sizeBytes, 'an extent has no length');
    if ((extent.flags & HOLE_OR_ZERO) !== 0) runs.push([offset, extent.end]);
  }
  return runs;
}

function dataRuns(zero: readonly [number, number][], sizeBytes: number): [number, number][] {
  const runs: [number, number][] = [];
  let from = 0;
  for (const [start, end] of [...zero, [sizeBytes, sizeBytes] as const]) {
    if (start > from) runs.push([from, start]);
    // A block of what is said to be zero, to see that it is.
    if (end - start >= 4096) runs.push([start, start + 4096]);
    from = end;
  }
  return runs;
}

async function readPiece(
  machine: Machine,
  device: Readable,
  offset: number,
  length: number,
): Promise<Buffer | null> {
  const request = requestOf({ offset, length });
  const status = await machine.done(
    answered(request, (asked) => device.read(asked)),
    `a read at ${offset}`,
  );
  if (status === null) return null;
  wrongUnless(status === 0, `a read at ${offset} answered ${status}`);
  return request.bytes;
}

/** Every block in which two snapshots differ is among what changed. */
function checkChanged(volume: Volume, model: VolumeModel): void {
  const { snapshots } = volume;
  const names = [...model.snapshots.keys()].filter((name) => !model.isBusy(name));
  for (let index = 0; index + 1 < names.length; index += 1) {
    const [from, to] = [names[index]!, names[index + 1]!];
    const one = model.snapshots.get(from)!.expected.image;
    const other = model.snapshots.get(to)!.expected.image;
    if (one === null || other === null) continue;
    const ranges = [...snapshots.changed(from, to)];
    for (const at of new Set([...one.sectors.keys(), ...other.sectors.keys()])) {
      const before = one.sectors.get(at) ?? ZEROES;
      const after = other.sectors.get(at) ?? ZEROES;
      const position = at * SECTOR;
      const range = ranges.find(
        ({ offset, length }) => offset <= position && position < offset + length,
      );
      if (position >= other.sizeBytes) continue;
      if (range === undefined) {
        wrongUnless(before.equals(after), `sector ${at} differs between ${from} and ${to}, untold`);
      } else if (range.zero) {
        wrongUnless(after.equals(ZEROES), `sector ${at} is told to be zero in ${to}, and is not`);
      }
    }
  }
}
