/*
 * The client that asks what is allocated: it agrees on structured replies and base:allocation, reads in chunks
 * what it reads without them otherwise, and tells holes as nbdinfo does. A server without any of that is used
 * without. A server that answers in chunks what was not asked, or not all of it, loses its connection and
 * nothing else; chunks may be cut anywhere.
 *
 * Method: nbdkit, qemu-nbd and nbd-server, judged by their own tools; then a scripted server.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import type { NbdClient } from '../../src/nbd/client/client.ts';
import { nbdinfoMap, type Run } from '../support/maps.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { closed, flush, pattern, read, write, zero } from './support/calls.ts';
import {
  fakeServer,
  FLAGS,
  Gone,
  GREETING,
  infoExport,
  ACK as GO_ACK,
  open,
  optionReply,
  simpleReply,
  u16,
  u32,
  u64,
  type FakeServer,
  type Wire,
  type WireRequest,
} from './support/fake-server.ts';
import { nbdkit, nbdServer, qemuNbd, type RealServer } from './support/real-servers.ts';

const MIB = 1024 * 1024;
const SIZE = 16 * MIB;
const CONTEXT = 77;

/** The whole map, joined as `nbdinfoMap` joins its own. */
async function mapOf(client: NbdClient): Promise<Run[]> {
  const runs: Run[] = [];
  let at = 0;
  while (at < client.info.sizeBytes) {
    const from = at;
    const errno = await new Promise<number>((resolve) => {
      const report = (bytes: number, flags: number): void => {
        const length = Math.min(bytes, client.info.sizeBytes - at);
        const last = runs.at(-1);
        if (last?.flags === flags) runs.splice(-1, 1, { ...last, length: last.length + length });
        else runs.push({ start: at, length, flags });
        at += length;
      };
      client.allocation(from, client.info.sizeBytes - from, report, resolve);
    });
    expect(errno).toBe(0);
    expect(at).toBeGreaterThan(from);
  }
  return runs;
}

async function exercise(client: NbdClient): Promise<void> {
  const expected = Buffer.alloc(SIZE);
  for (const [index, length] of [512, 65536, MIB, 3 * MIB].entries()) {
    const payload = pattern(length, index);
    payload.copy(expected, index * 4 * MIB);
    expect(await write(client, payload, index * 4 * MIB)).toBe(0);
  }
  expected.fill(0, 13 * MIB, 14 * MIB);
  expect(await zero(client, 13 * MIB, MIB)).toBe(0);
  expect(await flush(client)).toBe(0);
  const content = Buffer.alloc(SIZE, 0xcc);
  expect(await read(client, content, 0)).toBe(0);
  expect(content.equals(expected)).toBe(true);
}

describe('a real server', () => {
  beforeEach((context) => requireTools(context, 'nbdkit', 'qemu-nbd', 'nbd-server', 'nbdinfo'));

  it.each<[string, () => Promise<RealServer>]>([
    ['nbdkit', () => nbdkit(testScope(), [], ['memory', `size=${SIZE}`])],
    ['qemu-nbd', () => qemuNbd(testScope(), SIZE, 'demo')],
  ])('%s tells its holes and reads the same in chunks', async (_name, start) => {
    const { uri } = await start();
    const client = await open(testScope(), uri, { allocation: true });
    expect(client.knowsAllocation).toBe(true);
    await exercise(client);
    const map = await mapOf(client);
    expect(map.length).toBeGreaterThan(4);
    await client.close();
    expect(map).toEqual(await nbdinfoMap(uri.text));
  });

  it.each<[string, readonly string[]]>([
    ['structured replies', ['--no-sr']],
    ['fixed newstyle', ['--mask-handshake=0']],
  ])('without %s is used without', async (_what, options) => {
    const { uri } = await nbdkit(testScope(), options, ['memory', `size=${SIZE}`]);
    const client = await open(testScope(), uri, { allocation: true });
    expect(client.knowsAllocation).toBe(false);
    await exercise(client);
  });

  it('that knows neither option is used without', async () => {
    const scope = testScope();
    const image = join(scope.tempDir(), 'raw');
    writeFileSync(image, Buffer.alloc(SIZE));
    const { uri } = await nbdServer(scope, image, 'demo');
    const client = await open(scope, uri, { allocation: true });
    await exercise(client);
  });
});

const contextReply = (id: number, name: string): Buffer =>
  optionReply(10, 4, Buffer.concat([u32(id), Buffer.from(name)]));

/** The way of the options, up to transmission. */
async function negotiate(wire: Wire): Promise<void> {
  wire.send(GREETING);
  await wire.take(4);
  const answers = [
    [optionReply(8, 1)],
    [contextReply(CONTEXT, 'base:allocation'), optionReply(10, 1)],
    [infoExport(MIB, FLAGS), GO_ACK],
  ];
  for (const answer of answers) {
    const header = await wire.take(16);
    await wire.take(header.readUInt32BE(12));
    wire.send(...answer);
  }
}

const chunk = (cookie: Buffer, type: number, data: Buffer, done = true): Buffer =>
  Buffer.concat([u32(0x668e33ef), u16(done ? 1 : 0), u16(type), cookie, u32(data.length), data]);

const dataChunk = (request: WireRequest, from: number, data: Buffer, done = true): Buffer =>
  chunk(request.cookie, 1, Buffer.concat([u64(request.offset + from), data]), done);

const holeChunk = (request: WireRequest, from: number, length: number, done = true): Buffer =>
  chunk(request.cookie, 2, Buffer.concat([u64(request.offset + from), u32(length)]), done);

const errorChunk = (cookie: Buffer, errno: number, text: string, done = true): Buffer =>
  chunk(cookie, 0x8001, Buffer.concat([u32(errno), u16(text.length), Buffer.from(text)]), done);

/** Answers each request with what `reply` makes of it. */
function serverOf(reply: (request: WireRequest) => Buffer): Promise<FakeServer> {
  return fakeServer(testScope(), async (wire) => {
    await negotiate(wire);
    for (;;) {
      const request = await wire.request();
      if (request.command === 2) throw new Gone('done');
      wire.send(reply(request));
    }
  });
}

const status = (request: WireRequest, ...words: readonly number[]): Buffer =>
  chunk(request.cookie, 5, Buffer.concat(words.map(u32)));

describe('replies in chunks', () => {
  it('go to their places, in any order, with holes as zeroes, wherever the stream is cut', async () => {
    const parts = pattern(8192, 3);
    const answer = (request: WireRequest): Buffer => {
      if (request.command !== 0) return chunk(request.cookie, 0, Buffer.alloc(0));
      return Buffer.concat([
        dataChunk(request, 6000, parts.subarray(6000), false),
        holeChunk(request, 1000, 5000, false),
        dataChunk(request, 0, parts.subarray(0, 1000), false),
        chunk(request.cookie, 0, Buffer.alloc(0)),
      ]);
    };
    const expected = Buffer.from(parts).fill(0, 1000, 6000);
    const server = await fakeServer(testScope(), async (wire) => {
      wire.socket.setNoDelay(true);
      await negotiate(wire);
      for (let piece = 1; ; piece += 7) {
        const bytes = answer(await wire.request());
        for (let at = 0; at < bytes.length; at += piece) {
          wire.send(bytes.subarray(at, at + piece));
          if (at % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
        }
      }
    });
    const client = await server.connect({ allocation: true });
    for (let round = 0; round < 12; round += 1) {
      const target = Buffer.alloc(8192, 0xcc);
      expect(await read(client, target, 65536)).toBe(0);
      expect(target.equals(expected)).toBe(true);
    }
    expect(await write(client, Buffer.alloc(512), 0)).toBe(0);
  });

  it('carry errors, which end one request and not the connection', async () => {
    const server = await serverOf((request) => {
      if (request.offset === 0) return errorChunk(request.cookie, 5, 'a bad sector');
      if (request.offset === 4096) {
        return Buffer.concat([
          errorChunk(request.cookie, 28, '', false),
          chunk(request.cookie, 0, Buffer.alloc(0)),
        ]);
      }
      if (request.offset === 8192) return simpleReply(request.cookie, 22);
      return dataChunk(request, 0, Buffer.alloc(request.length, 9));
    });
    const client = await server.connect({ allocation: true });
    const target = Buffer.alloc(4096);
    const errnos: number[] = [];
    for (const offset of [0, 4096, 8192, 12288]) errnos.push(await read(client, target, offset));
    expect(errnos).toEqual([5, 28, 22, 0]);
    expect(target.every((byte) => byte === 9)).toBe(true);
  });

  it('of block status come as extents', async () => {
    const server = await serverOf((request) => status(request, CONTEXT, 4096, 3, 8192, 0));
    const client = await server.connect({ allocation: true });
    const seen: number[][] = [];
    const errno = await new Promise<number>((resolve) => {
      client.allocation(0, MIB, (length, flags) => void seen.push([length, flags]), resolve);
    });
    expect([errno, seen]).toEqual([
      0,
      [
        [4096, 3],
        [8192, 0],
      ],
    ]);
  });

  const none = Buffer.alloc(0);
  it.each<[string, (request: WireRequest) => Buffer, RegExp]>([
    ['a wrong magic', () => Buffer.alloc(64, 7), /wrong magic/],
    ['an unknown cookie', () => chunk(u64(99), 0, none), /not outstanding/],
    ['a read without data', (r) => chunk(r.cookie, 0, none), /lacks a part/],
    ['a part of a read', (r) => dataChunk(r, 0, Buffer.alloc(100)), /lacks a part/],
    ['data before the read', (r) => dataChunk(r, -1, Buffer.alloc(4096)), /outside/],
    ['data behind the read', (r) => dataChunk(r, 1, Buffer.alloc(4096)), /outside/],
    ['a hole behind the read', (r) => holeChunk(r, 0, 4097), /outside/],
    ['a hole of no bytes', (r) => holeChunk(r, 0, 0), /outside/],
    ['a chunk of data without data', (r) => dataChunk(r, 0, none), /does not fit/],
    ['a hole of a wrong length', (r) => chunk(r.cookie, 2, Buffer.alloc(13)), /does not fit/],
    ['a status for a read', (r) => status(r, CONTEXT, 4096, 0), /does not fit/],
    ['an unknown chunk', (r) => chunk(r.cookie, 9, none), /does not fit/],
    ['an end that is none', (r) => chunk(r.cookie, 0, none, false), /does not fit/],
    ['an error without an errno', (r) => chunk(r.cookie, 0x8001, u32(5)), /does not fit/],
    ['an endless error', (r) => chunk(r.cookie, 0x8001, Buffer.alloc(9000)), /does not fit/],
    [
      'a simple reply with data',
      (r) => simpleReply(r.cookie, 0, Buffer.alloc(4096)),
      /simple reply/,
    ],
  ])('with %s end the connection', async (_what, reply, reason) => {
    const server = await serverOf(reply);
    const client = await server.connect({ allocation: true });
    const ended = closed(client);
    expect(await read(client, Buffer.alloc(4096), 4096)).toBe(5);
    const error = await ended;
    expect(error.code).toBe('PROTOCOL');
    expect(error.message).toMatch(reason);
  });

  it.each<[string, (request: WireRequest) => Buffer]>([
    ['another context', (r) => status(r, CONTEXT + 1, 4096, 0)],
    ['an extent of no bytes', (r) => status(r, CONTEXT, 0, 0)],
    ['no extent', (r) => status(r, CONTEXT)],
    ['half an extent', (r) => chunk(r.cookie, 5, Buffer.concat([u32(CONTEXT), u32(1)]))],
    ['no status', (r) => chunk(r.cookie, 0, none)],
    ['data', (r) => dataChunk(r, 0, Buffer.alloc(512))],
    ['a simple reply', (r) => simpleReply(r.cookie)],
  ])('of block status with %s end the connection', async (_what, reply) => {
    const server = await serverOf(reply);
    const client = await server.connect({ allocation: true });
    const ended = closed(client);
    const errno = await new Promise<number>((resolve) => {
      client.allocation(0, MIB, () => {}, resolve);
    });
    expect(errno).toBe(5);
    expect((await ended).code).toBe('PROTOCOL');
  });
});
