/** A case for the server in memory: what it serves, and what its clients do. Made from dice alone. */
import { NBD_LIMITS_DEFAULT, type NbdLimits } from '../../src/nbd/server/server-limits.ts';
import { Dice } from './dice.ts';
import { clientScript } from './generate.ts';
import type { JudgedExport, ServerFacts } from './judge-facts.ts';
import type { FailingRange, FuzzDeviceOptions } from './memory-device.ts';
import type { ClientScript } from './steps.ts';

export interface MemoryCase {
  readonly facts: ServerFacts;
  /** By export. */
  readonly devices: ReadonlyMap<string, Omit<FuzzDeviceOptions, 'dice'>>;
  readonly limits: NbdLimits;
  /** Each uses the export of its index alone, so that what it holds is known; one alone may use all. */
  readonly clients: readonly ClientScript[];
  /** The step before which the server is told to stop; -1 if never. */
  readonly stopAt: number;
  /** For whose turn it is, and what devices do. */
  readonly seed: number;
}

const SIZES = [
  1,
  511,
  512,
  4096,
  65537,
  2 ** 20,
  2 ** 20,
  2 ** 20,
  2 ** 32,
  2 ** 32 + 4097,
  2 ** 33,
  2 ** 50,
];
/** A system's errno, and what the client hears. */
const ERRORS: readonly (readonly [number, number])[] = [
  [1, 1],
  [13, 1],
  [30, 1],
  [5, 5],
  [11, 5],
  [75, 5],
  [9999, 5],
  [12, 12],
  [22, 22],
  [28, 28],
  [27, 28],
  [122, 28],
];
/** So unlike each other that no flipped bit makes one of the other. */
export const NAMES: readonly string[] = ['disk0', 'vol-1', 'lun.2'];
const OPERATIONS = ['read', 'write', 'zero', 'trim', 'flush'] as const;

function failing(dice: Dice, size: number): FailingRange[] {
  if (!dice.chance(25)) return [];
  return Array.from({ length: dice.between(1, 3) }, () => {
    const [errno, error] = dice.pick(ERRORS);
    const offset = dice.below(Math.min(size, 65536));
    return {
      operation: dice.pick(OPERATIONS),
      offset,
      length: dice.between(1, 8192),
      error,
      errno,
    };
  });
}

export function memoryCase(
  seed: number,
  iteration: number,
  recordings: readonly Buffer[],
): MemoryCase {
  const dice = new Dice(seed, iteration);
  const exports: JudgedExport[] = [];
  const devices = new Map<string, Omit<FuzzDeviceOptions, 'dice'>>();
  const clients = dice.weighted([
    [70, 1],
    [20, 2],
    [10, 3],
  ]);
  const tls = dice.weighted<ServerFacts['tls']>([
    [80, 'none'],
    [14, 'allowed'],
    [6, 'required'],
  ]);
  for (const name of NAMES.slice(0, clients > 1 ? clients : dice.between(1, 3))) {
    const sizeBytes = dice.pick(SIZES);
    const readOnly = dice.chance(10);
    const bad = failing(dice, sizeBytes);
    exports.push({
      name,
      size: sizeBytes,
      readOnly,
      description: 'for the fuzzer',
      contexts: ['base:allocation', 'x-test:even'],
      badRanges: bad,
      tlsOnly: tls === 'allowed' && dice.chance(30),
    });
    devices.set(name, {
      sizeBytes,
      readOnly,
      answers: dice.pick(['now', 'late', 'mixed']),
      failing: bad,
      slowZeroes: dice.chance(30),
    });
  }
  const allowed = limits(dice);
  const facts: ServerFacts = {
    exports,
    defaultName: clients === 1 && dice.chance(80) ? 'disk0' : null,
    tls,
    listing: dice.chance(90),
    privately: dice.chance(70),
    optionsMax: allowed.options,
  };
  const scripts = exports.slice(0, clients).map(({ name, size }) => {
    const requests = { size, large: dice.chance(3) };
    const names = clients > 1 ? [name] : exports.map((each) => each.name);
    const renamed = recordings.map((bytes) =>
      Buffer.from(bytes.toString('latin1').replaceAll('disk0', name), 'latin1'),
    );
    return clientScript(dice, {
      names,
      name,
      requests,
      recordings: renamed,
      tls: tls !== 'none',
    });
  });
  const stopAt = dice.chance(4) ? dice.below(30) : -1;
  return { facts, devices, limits: allowed, clients: scripts, stopAt, seed: dice.u32() };
}

function limits(dice: Dice): NbdLimits {
  if (dice.chance(70)) return NBD_LIMITS_DEFAULT;
  return {
    ...NBD_LIMITS_DEFAULT,
    inFlightBytes: dice.pick([4096, 65536, 2 ** 20]),
    inFlightBytesTotal: 2 ** 20,
    options: dice.pick([4, NBD_LIMITS_DEFAULT.options]),
  };
}
