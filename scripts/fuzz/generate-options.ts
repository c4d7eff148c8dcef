/** Options of the handshake, good and bad, from seeded dice. */
import * as wire from '../../test/wire/encoder.ts';
import type { Dice } from './dice.ts';
import { privateData } from './memory-mirror.ts';
import { mutateBytes } from './mutate.ts';

export interface Words {
  readonly bytes: Buffer;
  readonly note: string;
}

const NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99, 0x7fffffff, 0xffffffff];
const PRIVATE = 0x62660001;
const LENGTHS = [0, 1, 4, 6, 8, 4095, 4096, 65535, 65536, 65537, 0x7fffffff, 0xffffffff];
const QUERIES = [
  'base:allocation',
  'base:',
  'base:nothing',
  'qemu:',
  'qemu:dirty-bitmap:x',
  'x-blockferry:',
  'x-test:even',
  'x-test:',
  ':',
  '',
  'no-colon',
];

const describe = (text: string): string => JSON.stringify(text.slice(0, 40));

export class OptionMaker {
  private readonly dice: Dice;
  private readonly names: readonly string[];

  constructor(dice: Dice, names: readonly string[]) {
    this.dice = dice;
    this.names = names;
  }

  /** Of an export mostly; else of none, too long, or no text at all. */
  name(): string | Buffer {
    const { dice } = this;
    return dice.weighted<() => string | Buffer>([
      [70, () => dice.pick(this.names)],
      [8, () => ''],
      [6, () => 'nothing'],
      [3, () => 'x'.repeat(dice.pick([255, 256, 4095, 4096, 4097, 60000]))],
      [3, () => dice.bytes(dice.skewed(64))],
      [2, () => 'volume\u0000zero'],
      [2, () => `${dice.pick(this.names)} `],
      [2, () => 'größe-名前'],
    ])();
  }

  private data(number: number): Words {
    const { dice } = this;
    switch (number) {
      case 1: {
        const name = this.name();
        return { bytes: Buffer.from(name), note: `EXPORT_NAME ${describe(name.toString())}` };
      }
      case 6:
      case 7:
        return this.infoData(number);
      case 9:
      case 10:
        return this.metaData(number);
      case PRIVATE:
        return this.privateOption();
      default: {
        const length = dice.chance(80) ? 0 : dice.skewed(200);
        return { bytes: dice.bytes(length), note: `option ${number}` };
      }
    }
  }

  private privateOption(): Words {
    const { dice } = this;
    const hello = privateData(dice);
    return dice.weighted<() => Words>([
      [50, () => ({ bytes: hello, note: 'the private option' })],
      [40, () => ({ bytes: mutateBytes(dice, hello), note: 'a mangled private option' })],
      [10, () => ({ bytes: dice.bytes(dice.skewed(70_000)), note: 'a private option of noise' })],
    ])();
  }

  private infoData(number: number): Words {
    const { dice } = this;
    const name = this.name();
    const infos = Array.from({ length: dice.skewed(8) }, () =>
      dice.chance(85) ? dice.below(4) : dice.below(65536),
    );
    const lies = dice.chance(6)
      ? {
          nameLength: dice.chance(50) ? dice.pick(LENGTHS) : name.length + dice.between(-3, 3),
          count: dice.chance(50) ? dice.below(65536) : infos.length,
        }
      : {};
    if (lies.nameLength !== undefined) lies.nameLength = Math.max(0, lies.nameLength);
    const note = `${number === 6 ? 'INFO' : 'GO'} ${describe(name.toString())} [${infos.join(' ')}]`;
    return { bytes: wire.infoData(name, infos, lies), note };
  }

  private metaData(number: number): Words {
    const { dice } = this;
    const name = this.name();
    const count = dice.chance(3) ? dice.between(10, 3000) : dice.skewed(6);
    const queries = Array.from({ length: count }, () =>
      dice.chance(95) ? dice.pick(QUERIES) : dice.bytes(dice.skewed(5000)),
    );
    const lies = dice.chance(6)
      ? {
          nameLength: dice.chance(30) ? dice.pick(LENGTHS) : name.length,
          count: dice.chance(70) ? dice.pick([0, 1, 2, 3, 0xffffffff, 1000]) : count,
        }
      : {};
    const verb = number === 9 ? 'LIST_META' : 'SET_META';
    const bytes = wire.metaData(name, queries, lies);
    return { bytes, note: `${verb} ${describe(name.toString())} ${queries.length} queries` };
  }

  /** One option, mostly of those that mean something. */
  option(number?: number): Words {
    const { dice } = this;
    const chosen =
      number ??
      dice.weighted<number>([
        [3, 1],
        [1, 2],
        [8, 3],
        [3, 5],
        [15, 6],
        [15, 7],
        [15, 8],
        [12, 9],
        [15, 10],
        [8, 11],
        [4, PRIVATE],
        [4, dice.pick(NUMBERS)],
      ]);
    const { bytes, note } = this.data(chosen);
    const fields: { magic?: bigint; length?: number } = {};
    let lie = '';
    if (dice.chance(1)) {
      fields.magic = dice.pick([0n, 0x49484156454f5055n, 0x0003e889045565a9n, dice.u64()]);
      lie = ', wrong magic';
    }
    if (dice.chance(2)) {
      const near = Math.max(0, bytes.length + dice.between(-8, 8));
      fields.length = dice.chance(50) ? near : dice.pick(LENGTHS);
      lie += `, says ${fields.length} bytes`;
    }
    return { bytes: wire.option(chosen, bytes, fields), note: note + lie };
  }

  /** What a client that wants to get through says. */
  good(name: string): Words[] {
    const { dice } = this;
    const words: Words[] = [];
    const form = dice.weighted([
      [30, 'simple'],
      [35, 'structured'],
      [35, 'extended'],
    ]);
    if (form === 'structured')
      words.push({ bytes: wire.structuredReply(), note: 'STRUCTURED_REPLY' });
    if (form === 'extended')
      words.push({ bytes: wire.extendedHeaders(), note: 'EXTENDED_HEADERS' });
    if (form !== 'simple' && dice.chance(70)) {
      const queries = ['base:allocation', ...(dice.chance(50) ? ['x-test:even'] : [])];
      words.push({ bytes: wire.setMetaContext(name, queries), note: `SET_META ${queries.join()}` });
    }
    if (form === 'simple' && dice.chance(15)) {
      words.push({ bytes: wire.exportName(name), note: `EXPORT_NAME ${describe(name)}` });
    } else {
      const infos = dice.chance(50) ? [3] : [];
      words.push({ bytes: wire.go(name, infos), note: `GO ${describe(name)}` });
    }
    return words;
  }
}
