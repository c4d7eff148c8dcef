/**
 * What each option is answered with (protocol section 3, the rules that need no TLS, structured
 * replies or contexts), as a client of the whole server sees it. Method: a server over a fake network, options from an independent encoder.
 */
import { beforeEach, describe, expect, it } from 'vitest';

import { type FakeConnection, FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { MemoryDevice } from './support/memory-device.ts';
import {
  CLIENT_FLAGS,
  CMD,
  go,
  infoData,
  OPT,
  option,
  type OptionReply,
  optionReplies,
  REP,
  request,
  simpleReplies,
  u16,
  u32,
} from './support/wire.ts';

let world: FakeWorld;
let client: FakeConnection;

/** Sends options in one piece; the replies to them. */
const ask = (...options: readonly Buffer[]): OptionReply[] => {
  client.write(Buffer.concat(options));
  world.settle();
  return optionReplies(client.take());
};

const types = (replies: readonly OptionReply[]): number[] => replies.map(({ type }) => type);

beforeEach(async () => {
  world = await FakeWorld.create();
  client = world.connect();
  client.write(CLIENT_FLAGS);
  world.settle();
  client.take();
});

describe('unsupported options', () => {
  it.each([4, 12, 99, 0, 0xffffffff])('%i is consumed and refused', (kind) => {
    const replies = ask(option(kind, Buffer.alloc(1000, 0x49)), option(OPT.list));
    expect(types(replies)).toEqual([REP.unsup, REP.server, REP.ack]);
    expect(replies[0]?.option).toBe(kind);
    expect(client.over).toBe(false);
  });
});

describe('LIST', () => {
  it('names every export and describes it', () => {
    world.devices.set('other', Object.assign(new MemoryDevice(4096), { description: 'spare' }));
    const replies = ask(option(OPT.list));
    expect(types(replies)).toEqual([REP.server, REP.server, REP.ack]);
    expect(replies[0]?.payload).toEqual(Buffer.concat([u32(4), Buffer.from('vol0')]));
    expect(replies[1]?.payload).toEqual(Buffer.concat([u32(5), Buffer.from('otherspare')]));
  });

  it('refuses data', () => {
    expect(types(ask(option(OPT.list, Buffer.from('x'))))).toEqual([REP.invalid]);
  });

  it('works without any export', () => {
    world.devices.clear();
    expect(types(ask(option(OPT.list)))).toEqual([REP.ack]);
  });
});

describe('ABORT', () => {
  it.each([[Buffer.alloc(0)], [Buffer.from('data')]])('is acknowledged, then closed', (data) => {
    expect(types(ask(option(OPT.abort, data)))).toEqual([REP.ack]);
    expect(client.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
    expect(world.log).toEqual([]);
  });
});

describe.each([
  ['INFO', OPT.info],
  ['GO', OPT.go],
] as const)('%s', (_, kind) => {
  it('always sends INFO_EXPORT, and nothing that was not asked for', () => {
    const replies = ask(option(kind, infoData('vol0')));
    expect(types(replies)).toEqual([REP.info, REP.ack]);
    expect(replies[0]?.payload.toString('hex')).toBe('000000000000001000000d6d');
  });

  it('sends what is asked for and ignores unknown info types', () => {
    world.device.description = 'a disk';
    const replies = ask(option(kind, infoData('', [0, 1, 2, 3, 4, 0xffff])));
    expect(types(replies)).toEqual([REP.info, REP.info, REP.info, REP.info, REP.ack]);
    expect(replies.slice(1, 3).map(({ payload }) => payload)).toEqual([
      Buffer.concat([u16(1), Buffer.from('vol0')]),
      Buffer.concat([u16(2), Buffer.from('a disk')]),
    ]);
    expect(replies[3]?.payload.toString('hex')).toBe('0003000000010000100002000000');
  });

  it('says that an unknown export is unknown, and goes on', () => {
    expect(types(ask(option(kind, infoData('nobody'))))).toEqual([REP.unknown]);
    expect(types(ask(option(kind, infoData('vol0'))))).toEqual([REP.info, REP.ack]);
  });

  it('tells that the device is read-only', () => {
    world.device.readOnly = true;
    const replies = ask(option(kind, infoData('')));
    expect(replies[0]?.payload.toString('hex')).toBe('000000000000001000000d6f');
  });

  const wrong: readonly (readonly [string, Buffer])[] = [
    ['no data', Buffer.alloc(0)],
    ['five bytes', Buffer.alloc(5)],
    ['a name length of 0xffffffff', Buffer.concat([u32(0xffffffff), u16(0)])],
    ['a name one byte too long', Buffer.concat([u32(1), u16(0)])],
    ['a count without its list', Buffer.concat([u32(0), u16(1)])],
    ['a byte left over', Buffer.concat([infoData('vol0', [3]), Buffer.alloc(1)])],
    ['a count that is too small', Buffer.concat([u32(0), u16(1), u16(3), u16(3)])],
    ['a name of 4097 bytes', infoData('x'.repeat(4097))],
    ['a name with NUL', infoData('vol0\0')],
    ['a name that is not UTF-8', infoData(Buffer.from([0xff, 0xfe]))],
  ];
  it.each(wrong)('refuses %s and goes on', (_, data) => {
    expect(types(ask(option(kind, data)))).toEqual([REP.invalid]);
    expect(types(ask(option(OPT.list)))).toEqual([REP.server, REP.ack]);
  });

  it('echoes a name, and of a long one the beginning, cut between characters', () => {
    const [reply] = ask(option(kind, infoData('nobody')));
    expect(reply?.payload.toString()).toBe('no export "nobody"');
    const [longReply] = ask(option(kind, infoData(`x${'ä'.repeat(2047)}`)));
    expect(longReply?.type).toBe(REP.unknown);
    expect(longReply?.payload.toString()).toBe(`no export "x${'ä'.repeat(127)}"...`);
  });
});

it('answers an INFO and the GO behind it alike', () => {
  const data = infoData('', [1, 3]);
  const replies = ask(option(OPT.info, data), option(OPT.go, data));
  const half = replies.length / 2;
  expect(replies.slice(0, half).map(({ payload }) => payload)).toEqual(
    replies.slice(half).map(({ payload }) => payload),
  );
});

it('does not take an INFO for a choice', () => {
  ask(option(OPT.info, infoData('vol0')));
  expect(world.device.openedCount).toBe(0);
  expect(world.server.connectionsOf(world.device)).toBe(0);
});

it('handles requests that came in one piece with GO', () => {
  world.device.content.fill(7, 0, 4);
  client.write(Buffer.concat([go(), request(CMD.read, { cookie: 9, length: 4 })]));
  world.settle();
  const bytes = client.take();
  expect(types(optionReplies(bytes.subarray(0, 52)))).toEqual([REP.info, REP.ack]);
  const { replies } = simpleReplies(bytes.subarray(52), () => 4);
  expect(replies).toEqual([{ error: 0, cookie: 9n, data: Buffer.alloc(4, 7) }]);
  expect(world.server.connectionsOf(world.device)).toBe(1);
});

describe('EXPORT_NAME', () => {
  const refused: readonly (readonly [string, Buffer])[] = [
    ['an unknown name', Buffer.from('nobody')],
    ['a name of 4097 bytes', Buffer.alloc(4097, 0x61)],
    ['a name with NUL', Buffer.from('vol0\0')],
  ];
  it.each(refused)('closes on %s', (_, name) => {
    expect(ask(option(OPT.exportName, name))).toEqual([]);
    expect(client.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('enters the transmission', () => {
    client.write(option(OPT.exportName), request(CMD.flush, { cookie: 1 }));
    world.settle();
    const bytes = client.take();
    expect(bytes.subarray(0, 10).toString('hex')).toBe('00000000001000000d6d');
    expect(simpleReplies(bytes.subarray(10)).replies).toHaveLength(1);
  });
});
