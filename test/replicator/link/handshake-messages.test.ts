/**
 * Messages of the link come back as they were sent, and nothing else comes at all: each message is encoded and decoded, spoilt
 * member by member, cut at each byte, and given in the forms of msgpack that the decoder would make into more than data.
 */
import * as fc from 'fast-check';
import { pack } from 'msgpackr';
import { describe, expect, test } from 'vitest';
import { BlockferryError } from '../../../src/io/errors.ts';
import {
  LINK_GENERATIONS_MAX,
  LINK_MESSAGE_BYTES_MAX,
  SNAPSHOTS_PER_VOLUME_MAX,
  LINK_TEXT_CHARACTERS_MAX,
} from '../../../src/io/limits.ts';
import {
  decodeCommand,
  decodeControl,
  decodeHello,
  decodeWelcome,
  encodeCommand,
  encodeControl,
  encodeHello,
  encodeWelcome,
  LINK_VERSION,
  type ControlMessage,
  type Generation,
  type Hello,
  type StreamCommand,
  type Welcome,
} from '../../../src/replicator/link/messages.ts';
import { isPlainData } from '../../../src/replicator/link/plain-data.ts';

const ID = '0123456789abcdef'.repeat(2);
const GENERATIONS: readonly Generation[] = [
  { number: 1, id: ID, firstEpoch: 1 },
  { number: 2, id: 'f'.repeat(32), firstEpoch: Number.MAX_SAFE_INTEGER },
];

const HELLO: Hello = {
  version: LINK_VERSION,
  node: 'north',
  volume: 'väult',
  volumeId: ID,
  sizeBytes: 2 ** 50,
  generations: GENERATIONS,
  epoch: 2 ** 40,
  lane: null,
  lanes: 16,
};

const WELCOME: Welcome = {
  version: LINK_VERSION,
  node: 'south.example-1',
  token: ID,
  lanes: 1,
  sizeBytes: 4096,
  generations: [],
  position: { generation: 2, epoch: 2 ** 33 },
  run: { id: ID, cursor: 2 ** 50 },
};

const CONTROLS: readonly ControlMessage[] = [
  { kind: 'stream-begin', generation: 1, after: 0 },
  {
    kind: 'run-begin',
    number: 7,
    run: ID,
    generation: 2,
    epoch: 99,
    time: 1_900_000_000_000,
    sizeBytes: 8192,
    generations: GENERATIONS,
    full: true,
  },
  { kind: 'run-ready', run: ID, cursor: 0 },
  { kind: 'run-mark', run: ID, cursor: 4096, frames: 3 },
  { kind: 'run-durable', run: ID, cursor: 4096 },
  { kind: 'run-commit', run: ID, frames: 2 ** 33 },
  { kind: 'run-committed', run: ID },
  {
    kind: 'run-commit',
    run: ID,
    frames: 1,
    snapshot: { id: ID, name: 'tägliche', createdAt: 1_900_000_000_000 },
  },
  { kind: 'run-committed', run: ID, refused: 'the name is taken' },
  { kind: 'snapshots-are', ids: [ID] },
  { kind: 'snapshots-held', ids: [], position: { generation: 1, epoch: 7 } },
  { kind: 'snapshots-held', ids: [], position: null, refused: 'its policy keeps it' },
  { kind: 'policy', refuses: ['snapshot-delete'] },
  { kind: 'run-abort', run: ID },
  { kind: 'command-done', epoch: 5, error: null },
  { kind: 'command-done', epoch: 5, error: 'no room' },
  { kind: 'failed', code: 'VOLUME_FAILED', message: 'the disk is full' },
];

const COMMANDS: readonly StreamCommand[] = [
  { kind: 'freeze', id: ID },
  { kind: 'thaw', id: ID },
  { kind: 'snapshot-create', id: ID, name: 's', createdAt: 1, replaces: null },
  { kind: 'snapshot-create', id: ID, name: 's', createdAt: 1, replaces: ID },
  { kind: 'snapshot-delete', id: ID },
];

const wire = (generations: readonly Generation[]): unknown =>
  generations.map(({ number, id, firstEpoch }) => [number, id, firstEpoch]);

/** As it goes over the wire, for spoiling. */
const WIRE_HELLO = { ...HELLO, generations: wire(GENERATIONS) };
const WIRE_WELCOME = { ...WELCOME, generations: [] };

const codeOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (error instanceof BlockferryError) return error.code;
    throw error;
  }
  return 'accepted';
};

const plain = (value: unknown): Buffer => Buffer.from(pack(value));

describe('What was sent comes back', () => {
  test('hello and welcome', () => {
    expect(decodeHello(encodeHello(HELLO))).toEqual(HELLO);
    const lane: Hello = { ...HELLO, lane: { token: ID, index: 15 }, generations: [] };
    expect(decodeHello(encodeHello(lane))).toEqual(lane);
    expect(decodeWelcome(encodeWelcome(WELCOME))).toEqual(WELCOME);
    const features = ['snapshots'];
    expect(decodeHello(encodeHello({ ...HELLO, features }))).toEqual({ ...HELLO, features });
    const known: Welcome = { ...WELCOME, features };
    expect(decodeWelcome(encodeWelcome(known))).toEqual(known);
    const empty: Welcome = { ...WELCOME, position: null, run: null };
    expect(decodeWelcome(encodeWelcome(empty))).toEqual(empty);
  });

  test.each(CONTROLS)('$kind', (message) => {
    expect(decodeControl(encodeControl(message))).toEqual(message);
  });

  test.each(COMMANDS)('$kind', (command) => {
    expect(decodeCommand(encodeCommand(command))).toEqual(command);
  });

  test('the ids of as many snapshots as there can be fit', () => {
    const ids = Array.from({ length: SNAPSHOTS_PER_VOLUME_MAX }, () => ID);
    const held: ControlMessage = {
      kind: 'snapshots-held',
      ids,
      position: WELCOME.position,
      refused: '\uffff'.repeat(LINK_TEXT_CHARACTERS_MAX),
    };
    expect(decodeControl(encodeControl(held))).toEqual(held);
    const over = { kind: 'snapshots-are', ids: [...ids, ID] };
    expect(codeOf(() => decodeControl(plain(over)))).toBe('LINK_PROTOCOL');
  });

  test('the longest history of generations fits, one more does not', () => {
    const many = Array.from({ length: LINK_GENERATIONS_MAX + 1 }, (_, index) => ({
      number: index + 2 ** 48,
      id: ID,
      firstEpoch: index + 2 ** 52,
    }));
    const most = { ...HELLO, volume: 'v'.repeat(255), generations: many.slice(1) };
    const bytes = encodeHello(most);
    expect(bytes.length).toBeLessThan(LINK_MESSAGE_BYTES_MAX);
    expect(decodeHello(bytes)).toEqual(most);
    expect(codeOf(() => decodeHello(plain({ ...WIRE_HELLO, generations: wire(many) })))).toBe(
      'LINK_PROTOCOL',
    );
  });

  test('long texts for people are cut by the sender, between characters', () => {
    const message = `${'x'.repeat(LINK_TEXT_CHARACTERS_MAX - 1)}😀 and more`;
    const back = decodeControl(encodeControl({ kind: 'failed', code: 'INTERNAL', message }));
    expect(back).toEqual({
      kind: 'failed',
      code: 'INTERNAL',
      message: `${'x'.repeat(LINK_TEXT_CHARACTERS_MAX - 1)}\ufffd`,
    });
    const done = decodeControl(encodeControl({ kind: 'command-done', epoch: 1, error: message }));
    expect(done.kind === 'command-done' && done.error?.length).toBe(LINK_TEXT_CHARACTERS_MAX);
  });

  test('what came back shares no memory with what was received', () => {
    const bytes = encodeHello(HELLO);
    const back = decodeHello(bytes);
    bytes.fill(0);
    expect(back).toEqual(HELLO);
  });
});

describe('Anything else is refused', () => {
  const spoilt: readonly [string, object][] = [
    ['an unknown member', { ...WIRE_HELLO, more: 1 }],
    ['a missing member', { ...WIRE_HELLO, epoch: undefined }],
    ['a name of wrong type', { ...WIRE_HELLO, node: 1 }],
    ['a node that no node can be called', { ...WIRE_HELLO, node: 'a b' }],
    ['a node with a long name', { ...WIRE_HELLO, node: 'n'.repeat(64) }],
    ['no volume', { ...WIRE_HELLO, volume: '' }],
    ['a volume with a long name', { ...WIRE_HELLO, volume: 'ä'.repeat(128) }],
    ['an id of 31 digits', { ...WIRE_HELLO, volumeId: ID.slice(1) }],
    ['an id in capitals', { ...WIRE_HELLO, volumeId: ID.toUpperCase() }],
    ['an id with a line end', { ...WIRE_HELLO, volumeId: `${ID}\n` }],
    ['an unsafe epoch', { ...WIRE_HELLO, epoch: 2 ** 53 }],
    ['an epoch of 64 bits', { ...WIRE_HELLO, epoch: 2n ** 64n - 1n }],
    ['half an epoch', { ...WIRE_HELLO, epoch: 0.5 }],
    ['an epoch before the first', { ...WIRE_HELLO, epoch: -1 }],
    ['no number', { ...WIRE_HELLO, epoch: NaN }],
    ['infinity', { ...WIRE_HELLO, epoch: Infinity }],
    ['an odd size', { ...WIRE_HELLO, sizeBytes: 4097 }],
    ['no size', { ...WIRE_HELLO, sizeBytes: 0 }],
    ['a size past the largest', { ...WIRE_HELLO, sizeBytes: 2 ** 50 + 4096 }],
    ['no lanes', { ...WIRE_HELLO, lanes: 0 }],
    ['17 lanes', { ...WIRE_HELLO, lanes: 17 }],
    ['lane 0', { ...WIRE_HELLO, lane: { token: ID, index: 0 } }],
    ['lane 16', { ...WIRE_HELLO, lane: { token: ID, index: 16 } }],
    ['a lane with more', { ...WIRE_HELLO, lane: { token: ID, index: 1, more: 1 } }],
    ['a generation by names', { ...WIRE_HELLO, generations: [GENERATIONS[0]] }],
    ['generation 0', { ...WIRE_HELLO, generations: [[0, ID, 1]] }],
    ['half a generation', { ...WIRE_HELLO, generations: [[1, ID]] }],
    [
      'a gap in the generations',
      {
        ...WIRE_HELLO,
        generations: [
          [1, ID, 1],
          [3, ID, 5],
        ],
      },
    ],
    [
      'generations backwards',
      {
        ...WIRE_HELLO,
        generations: [
          [2, ID, 1],
          [1, ID, 5],
        ],
      },
    ],
    [
      'a generation that began before',
      {
        ...WIRE_HELLO,
        generations: [
          [1, ID, 5],
          [2, ID, 4],
        ],
      },
    ],
    ['a list', [WIRE_HELLO]],
  ];

  test.each(spoilt)('hello: %s', (_, value) => {
    expect(codeOf(() => decodeHello(plain(value)))).toBe('LINK_PROTOCOL');
  });

  test('the unspoilt form is accepted, so each of these was refused for its own fault', () => {
    expect(decodeHello(plain(WIRE_HELLO))).toEqual(HELLO);
    expect(decodeWelcome(plain(WIRE_WELCOME))).toEqual(WELCOME);
  });

  test.each([
    ['a position without an epoch', { position: { generation: 1 } }],
    ['a position in generation 0', { position: { generation: 0, epoch: 1 } }],
    ['a run past the largest volume', { run: { id: ID, cursor: 2 ** 50 + 1 } }],
    ['a run without an id', { run: { id: '', cursor: 1 } }],
    ['a token that is none', { token: 'x'.repeat(32) }],
    ['more', { more: null }],
  ])('welcome: %s', (_, change) => {
    expect(codeOf(() => decodeWelcome(plain({ ...WIRE_WELCOME, ...change })))).toBe(
      'LINK_PROTOCOL',
    );
  });

  test.each([
    ['an unknown kind', { kind: 'reboot' }],
    ['no kind', { run: ID }],
    ['members of another kind', { kind: 'run-abort', run: ID, cursor: 1 }],
    ['a missing member', { kind: 'run-mark', run: ID, cursor: 1 }],
    ['a text that is too long', { kind: 'failed', code: 'A', message: 'x'.repeat(1025) }],
    ['a code that is none', { kind: 'failed', code: 'not a code', message: '' }],
    ['a truth that is a number', { ...CONTROLS[1], generations: [], full: 1 }],
    ['null', null],
    ['a command', COMMANDS[0]],
  ])('control message: %s', (_, value) => {
    expect(codeOf(() => decodeControl(plain(value)))).toBe('LINK_PROTOCOL');
  });

  test('command: a control message, an unknown kind, an odd id', () => {
    for (const value of [CONTROLS[11], { kind: 'melt', id: ID }, { kind: 'thaw', id: 'x' }]) {
      expect(codeOf(() => decodeCommand(plain(value)))).toBe('LINK_PROTOCOL');
    }
  });

  test('another version is told as such, whatever else stands there', () => {
    const hello = plain({ version: LINK_VERSION + 1, anything: ['else'] });
    expect(codeOf(() => decodeHello(hello))).toBe('PEER_VERSION');
    expect(codeOf(() => decodeWelcome(hello))).toBe('PEER_VERSION');
    expect(codeOf(() => decodeHello(plain({ version: 'x' })))).toBe('LINK_PROTOCOL');
  });

  test('every cut, and every message with a byte behind it', () => {
    const bytes = encodeHello(HELLO);
    for (let end = 0; end < bytes.length; end++) {
      expect(codeOf(() => decodeHello(bytes.subarray(0, end)))).toBe('LINK_PROTOCOL');
    }
    expect(codeOf(() => decodeHello(Buffer.concat([bytes, Buffer.from([0xc0])])))).toBe(
      'LINK_PROTOCOL',
    );
  });

  test('a message over its bound is not looked at', () => {
    const bytes = plain({ kind: 'failed', code: 'A', message: 'x'.repeat(LINK_MESSAGE_BYTES_MAX) });
    expect(() => decodeControl(bytes)).toThrow(/bytes, at most/);
  });

  test('what the peer wrote does not reach a log as it is', () => {
    const value = { kind: 'run-abort', run: ID, ['\u001b[31m\n'.repeat(100)]: 1 };
    let text = '';
    try {
      decodeControl(plain(value));
    } catch (error) {
      text = error instanceof BlockferryError ? error.message : '';
    }
    expect(text).toMatch(/^the other node sent a malformed control message/);
    expect(text).not.toMatch(/\p{Cc}/u);
    expect(text.length).toBeLessThan(300);
  });
});

describe('Bytes are plain data, or are not decoded', () => {
  const hostile: readonly [string, string][] = [
    ['a structure of records', 'd4724091a161 01'],
    ['a structure of two bytes', 'd572400091a16101'],
    ['a regular expression', 'd47800 92a12ba167'],
    ['a set', 'd473009101'],
    ['an error', 'd4650092a54572726f72a161'],
    ['a date', 'd6ff00000000'],
    ['a typed array', 'c7097407 0000000000000000'],
    ['bundled strings', 'd8620000000000000000000000000000 0000'],
    ['a reference to itself', 'd66900000001 81a161 d67000000001'],
    ['a number without end', 'c70842 0102030405060708'],
    ['bytes', 'c40100'],
    ['the byte that is never used', 'c1'],
    ['a negative number', 'ff'],
    ['a number of 32 bits', 'ca3f800000'],
    ['a table with a number as key', '810101'],
    ['a table with a list as key', '819001'],
    ['a list that claims more than there is', 'dcffff'],
    ['a list of four billion', 'ddffffffff'],
    ['a table of four billion', 'dfffffffff'],
    ['text of four billion bytes', 'dbffffffff'],
    ['text that is not UTF-8', 'a2c328'],
    ['text that ends too late', 'd90561'],
    ['depth', '9191919191c0'],
  ];

  test.each(hostile)('%s', (_, hex) => {
    const bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex');
    expect(isPlainData(bytes)).toBe(false);
    const inside = Buffer.concat([Buffer.from([0x81, 0xa1, 0x61]), bytes]);
    expect(isPlainData(inside)).toBe(false);
    expect(codeOf(() => decodeControl(inside))).toBe('LINK_PROTOCOL');
  });

  test('lists in lists without end cost no stack', () => {
    const deep = Buffer.alloc(LINK_MESSAGE_BYTES_MAX, 0x91);
    expect(codeOf(() => decodeControl(deep))).toBe('LINK_PROTOCOL');
  });

  test('a name that would be a prototype is a member like any other', () => {
    const bytes = Buffer.concat([
      Buffer.from([0x81, 0xa9]),
      Buffer.from('__proto__'),
      plain({ kind: 'run-abort', run: ID }),
    ]);
    expect(codeOf(() => decodeControl(bytes))).toBe('LINK_PROTOCOL');
    expect('run' in {}).toBe(false);
  });

  test('any bytes are refused or make a message that is the same again', () => {
    const sources = [...CONTROLS.map(encodeControl), encodeHello(HELLO), encodeWelcome(WELCOME)];
    const change = fc.tuple(
      fc.constantFrom(...sources),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 3 }),
    );
    fc.assert(
      fc.property(change, ([source, changes]) => {
        const bytes = Buffer.from(source);
        for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
        for (const again of [
          () => encodeControl(decodeControl(bytes)),
          () => encodeHello(decodeHello(bytes)),
          () => encodeWelcome(decodeWelcome(bytes)),
        ]) {
          const before = Buffer.from(bytes);
          let encoded: Buffer | null = null;
          const code = codeOf(() => {
            encoded = again();
          });
          expect(['accepted', 'LINK_PROTOCOL', 'PEER_VERSION']).toContain(code);
          if (encoded !== null) expect(isPlainData(encoded)).toBe(true);
          expect(bytes.equals(before)).toBe(true);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
