/**
 * The nbd driver of this machine's kernel, over generic netlink: connect a device to sockets, replace the sockets
 * that died, disconnect.
 *
 * Invariants:
 * - Nothing here waits: the kernel answers a request while it is sent.
 * - A socket that was handed over belongs to the kernel too: closing our descriptor does not end the connection.
 */
import { closeSync } from 'node:fs';

import { BlockferryError } from '../errors.ts';
import {
  CONTROL_FAMILY,
  CTRL_ATTR,
  CTRL_ATTR_MCAST,
  CTRL_CMD_GETFAMILY,
  dataOf,
  encodeRequest,
  nestedAttribute,
  numberOf,
  parseAttributes,
  parseMessages,
  textAttribute,
  textOf,
  u32Attribute,
  u64Attribute,
  type Attribute,
  type NetlinkMessage,
} from './generic-netlink.ts';
import { NETLINK_MESSAGE_BYTES_MAX } from '../limits.ts';
import { loadSyscalls, type NetlinkCalls } from '../syscalls.ts';
import { systemError } from '../system-error.ts';

const FAMILY = 'nbd';
const EVENTS = 'nbd_mc_group';
const COMMAND = Object.freeze({ CONNECT: 1, DISCONNECT: 2, RECONFIGURE: 3, LINK_DEAD: 4 } as const);
const ATTR = Object.freeze({
  INDEX: 1,
  SIZE_BYTES: 2,
  BLOCK_SIZE_BYTES: 3,
  TIMEOUT: 4,
  SERVER_FLAGS: 5,
  SOCKETS: 7,
  DEAD_CONN_TIMEOUT: 8,
  /** Shown in /sys/block/nbdN/backend, and asked for by RECONFIGURE. Linux 5.14. */
  BACKEND_IDENTIFIER: 10,
} as const);
const SOCK_ITEM = 1;
const SOCK_FD = 1;
const ENOENT = 2;
const EAGAIN = 11;
const EPROTO = 71;
const ENOBUFS = 105;

export interface DeviceWaits {
  /** Seconds after which an unanswered request is sent again on another connection, or on the next one. */
  readonly requestSeconds: number;
  /** Seconds without any connection after which requests fail. */
  readonly deadSeconds: number;
}

export interface DeviceSetup extends DeviceWaits {
  /** N of /dev/nbdN; null: one that is free, made if there is none. */
  readonly index: number | null;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  /** Transmission flags of the protocol. */
  readonly flags: number;
  readonly backend: string;
}

/** What the keeper of a device asks of the kernel. */
export interface NbdDriver {
  /** The N of the device. @throws the system's error: EBUSY, EPERM */
  connect(setup: DeviceSetup, sockets: readonly number[]): number;
  setWaits(index: number, backend: string, waits: DeviceWaits): void;
  /** Offers the socket in the place of a connection that died. If none did, the kernel does not take it, and does not say so. */
  offerSocket(index: number, backend: string, socket: number): void;
  disconnect(index: number): void;
  /** How many connections each device lost since the last call; `unknown` when there were too many to be told. */
  lostLinks(): ReadonlyMap<number, number> | 'unknown';
  close(): void;
}

/** @throws BlockferryError NBD_MODULE_MISSING, or ATTACH_UNSUPPORTED where system calls cannot be made */
export function openNbdDriver(): NbdDriver {
  const calls = loadSyscalls()?.netlink ?? null;
  if (calls === null) {
    const why = 'netlink cannot be used here: it needs Linux on x64 or arm64 and the koffi package';
    throw new BlockferryError('ATTACH_UNSUPPORTED', why);
  }
  return new NetlinkNbdDriver(calls);
}

class NetlinkNbdDriver implements NbdDriver {
  private readonly calls: NetlinkCalls;
  private readonly requests: number;
  private readonly events: number;
  private readonly family: number;
  private sequence = 0;
  private readonly buffer = Buffer.allocUnsafeSlow(NETLINK_MESSAGE_BYTES_MAX);

  constructor(calls: NetlinkCalls) {
    this.calls = calls;
    this.requests = checked(calls.open(), 'socket');
    this.events = checked(calls.open(), 'socket');
    const { family, group } = this.resolve();
    this.family = family;
    checked(calls.join(this.events, group), 'setsockopt');
  }

  connect(setup: DeviceSetup, sockets: readonly number[]): number {
    const answer = this.ask(COMMAND.CONNECT, [
      ...(setup.index === null ? [] : [u32Attribute(ATTR.INDEX, setup.index)]),
      u64Attribute(ATTR.SIZE_BYTES, setup.sizeBytes),
      u64Attribute(ATTR.BLOCK_SIZE_BYTES, setup.blockBytes),
      u64Attribute(ATTR.SERVER_FLAGS, setup.flags),
      textAttribute(ATTR.BACKEND_IDENTIFIER, setup.backend),
      ...waitsOf(setup),
      socketsAttribute(sockets),
    ]);
    const index = numberOf(answer, ATTR.INDEX) ?? setup.index;
    if (index === null) throw systemError(EPROTO, 'nbd connect');
    return index;
  }

  setWaits(index: number, backend: string, waits: DeviceWaits): void {
    this.ask(COMMAND.RECONFIGURE, [...deviceOf(index, backend), ...waitsOf(waits)]);
  }

  offerSocket(index: number, backend: string, socket: number): void {
    this.ask(COMMAND.RECONFIGURE, [...deviceOf(index, backend), socketsAttribute([socket])]);
  }

  disconnect(index: number): void {
    this.ask(COMMAND.DISCONNECT, [u32Attribute(ATTR.INDEX, index)]);
  }

  lostLinks(): ReadonlyMap<number, number> | 'unknown' {
    const lost = new Map<number, number>();
    for (;;) {
      const bytes = this.calls.receive(this.events, this.buffer);
      if (bytes === -ENOBUFS) return 'unknown';
      if (bytes === -EAGAIN || bytes === 0) return lost;
      checked(bytes, 'recv');
      for (const message of parseMessages(this.buffer.subarray(0, bytes))) {
        if (message.kind !== 'data' || message.command !== COMMAND.LINK_DEAD) continue;
        const index = numberOf(message.attributes, ATTR.INDEX);
        if (index !== null) lost.set(index, (lost.get(index) ?? 0) + 1);
      }
    }
  }

  close(): void {
    closeSync(this.requests);
    closeSync(this.events);
  }

  private resolve(): { family: number; group: number } {
    let answer: readonly Attribute[];
    try {
      const name = textAttribute(CTRL_ATTR.FAMILY_NAME, FAMILY);
      // Asked over the socket for events: one that never sent has no address, and hears of nothing.
      answer = this.ask(CTRL_CMD_GETFAMILY, [name], CONTROL_FAMILY, this.events);
    } catch (error) {
      this.close();
      if (!(error instanceof Error && 'errno' in error && error.errno === -ENOENT)) throw error;
      const what = 'the kernel has no nbd driver: the module nbd is not loaded';
      throw new BlockferryError('NBD_MODULE_MISSING', what, { cause: error });
    }
    const family = numberOf(answer, CTRL_ATTR.FAMILY_ID);
    const groups = parseAttributes(dataOf(answer, CTRL_ATTR.MCAST_GROUPS) ?? Buffer.alloc(0));
    const events = groups
      .map(({ data }) => parseAttributes(data))
      .find((group) => textOf(group, CTRL_ATTR_MCAST.NAME) === EVENTS);
    const group = events === undefined ? null : numberOf(events, CTRL_ATTR_MCAST.ID);
    if (family === null || group === null) throw systemError(EPROTO, 'nbd family');
    return { family, group };
  }

  /** What it answers, but for the status. Throws the system's error for a status that is none. */
  private ask(
    command: number,
    attributes: readonly Buffer[],
    family = this.family,
    socket = this.requests,
  ): readonly Attribute[] {
    this.sequence += 1;
    const { sequence } = this;
    const message = encodeRequest({ family, command, sequence, attributes });
    checked(this.calls.send(socket, message), 'send');
    let answer: readonly Attribute[] = [];
    for (;;) {
      const bytes = checked(this.calls.receive(socket, this.buffer), 'recv');
      // The next answer overwrites the buffer.
      const copy = Buffer.from(this.buffer.subarray(0, bytes));
      for (const part of parseMessages(copy).filter((each) => isAnswer(each, sequence))) {
        if (part.kind === 'data') answer = part.attributes;
        else if (part.errno === 0) return answer;
        else throw systemError(part.errno, 'netlink');
      }
    }
  }
}

function isAnswer(message: NetlinkMessage, sequence: number): boolean {
  return message.sequence === sequence;
}

function checked(result: number, call: string): number {
  if (result < 0) throw systemError(-result, call);
  return result;
}

function deviceOf(index: number, backend: string): Buffer[] {
  return [u32Attribute(ATTR.INDEX, index), textAttribute(ATTR.BACKEND_IDENTIFIER, backend)];
}

function waitsOf({ requestSeconds, deadSeconds }: DeviceWaits): Buffer[] {
  return [
    u64Attribute(ATTR.TIMEOUT, requestSeconds),
    u64Attribute(ATTR.DEAD_CONN_TIMEOUT, deadSeconds),
  ];
}

function socketsAttribute(sockets: readonly number[]): Buffer {
  const items = sockets.map((fd) => nestedAttribute(SOCK_ITEM, [u32Attribute(SOCK_FD, fd)]));
  return nestedAttribute(ATTR.SOCKETS, items);
}
