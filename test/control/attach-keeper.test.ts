/*
 * What keeps a device attached, with a kernel and servers of the test's own, on a clock that it moves: which server it turns to,
 * which it passes over, and how many connections it replaces.
 */
import { describe, expect, test } from 'vitest';
import { Keeper, type KeeperOptions } from '../../src/cli/attach/attach-keeper.ts';
import type { KernelLink } from '../../src/cli/attach/attach-link.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import type { NbdDriver } from '../../src/io/kernel/nbd-driver.ts';
import { systemError } from '../../src/io/system-error.ts';
import { judgeExport } from '../../src/nbd/client/client-export-info.ts';
import { DEFAULT_BLOCK_SIZES } from '../../src/nbd/client/client-export-info.ts';
import { NBD_FLAG } from '../../src/nbd/constants.ts';
import { parseNbdUri } from '../../src/nbd/uri/uri.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

const EBUSY = 16;
const WAITS = { requestSeconds: 3, deadSeconds: 60 };

interface Server {
  up: boolean;
  readOnly: boolean;
  sizeBytes: number;
  multiConn: boolean;
}

class World {
  readonly clock = new VirtualClock();
  readonly servers = new Map<string, Server>();
  /** Servers behind the connections that the kernel has. */
  readonly links: string[] = [];
  readonly told: string[] = [];
  dropped = 0;
  attached = true;
  busy = false;
  private events = 0;
  private readonly opened: string[] = [];

  server(host: string, more: Partial<Server> = {}): Server {
    const server = { up: true, readOnly: false, sizeBytes: 2 ** 20, multiConn: true, ...more };
    this.servers.set(host, server);
    return server;
  }

  /** The kernel lost a connection, to this server or whatever it was. */
  lose(position = 0): void {
    this.links.splice(position, 1);
    this.events += 1;
  }

  keeper(more: Partial<KeeperOptions> = {}): Keeper {
    const hosts = [...this.servers.keys()];
    return new Keeper({
      driver: this.driver,
      open: (uri) => this.open(uri.text),
      clock: this.clock,
      uris: hosts.map((host) => parseNbdUri(`nbd://${host}/v`)),
      connections: 1,
      waits: WAITS,
      isAttached: () => this.attached,
      tell: (line) => this.told.push(line),
      ...more,
    });
  }

  /** Lets the keeper go round for a while. */
  async pass(ms: number): Promise<void> {
    for (let at = 0; at < ms; at += 50) {
      await this.clock.run(50);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  private readonly driver: NbdDriver = {
    connect: (setup, sockets) => {
      if (this.busy) throw systemError(EBUSY, 'netlink');
      for (const socket of sockets) this.links.push(this.opened[socket] ?? '?');
      return setup.index ?? 0;
    },
    setWaits: () => {},
    offerSocket: (_index, _backend, socket) => {
      this.links.push(this.opened[socket] ?? '?');
    },
    disconnect: () => {},
    lostLinks: () => {
      const count = this.events;
      this.events = 0;
      return new Map([[0, count]]);
    },
    close: () => {},
  };

  private async open(text: string): Promise<KernelLink> {
    const host = new URL(text).hostname;
    const server = this.servers.get(host);
    if (server?.up !== true) throw new BlockferryError('ATTACH_SERVER', `${host} is away`);
    const flags =
      NBD_FLAG.HAS_FLAGS |
      (server.readOnly ? NBD_FLAG.READ_ONLY : 0) |
      (server.multiConn ? NBD_FLAG.CAN_MULTI_CONN : 0);
    const judged = judgeExport({ high: 0, low: server.sizeBytes }, flags, DEFAULT_BLOCK_SIZES);
    if ('wrong' in judged) throw new TypeError(judged.wrong);
    const drop = (): void => void (this.dropped += 1);
    return { info: judged.ok, socket: this.opened.push(host) - 1, handedOver: () => {}, drop };
  }
}

describe('a keeper', () => {
  test('attaches to the first server that takes writes', async () => {
    const world = new World();
    world.server('mirror', { readOnly: true });
    world.server('away', { up: false });
    world.server('primary');
    const keeper = world.keeper();
    expect(await keeper.attach(4)).toEqual({ index: 4, sizeBytes: 2 ** 20, readOnly: false });
    expect([world.links, world.dropped, keeper.uri.address]).toEqual([
      ['primary'],
      1,
      { kind: 'tcp', host: 'primary', port: 10809 },
    ]);
  });

  test('attaches read-only where nobody takes writes, and says what is in the way where nobody answers', async () => {
    const world = new World();
    const mirror = world.server('mirror', { readOnly: true });
    expect(await world.keeper().attach(0)).toMatchObject({ readOnly: true });
    mirror.up = false;
    await expect(world.keeper().attach(0)).rejects.toThrow('mirror is away');
  });

  test('gives its connections back when the kernel refuses the device', async () => {
    const world = new World();
    world.server('a');
    world.busy = true;
    const attaching = world.keeper({ connections: 3 }).attach(0);
    await expect(attaching).rejects.toMatchObject({ code: 'NBD_DEVICE_BUSY' });
    expect(world.dropped).toBe(3);
  });

  test('makes no second connection to a server that does not allow it', async () => {
    const world = new World();
    world.server('a', { multiConn: false });
    const attaching = world.keeper({ connections: 2 }).attach(0);
    await expect(attaching).rejects.toMatchObject({ code: 'ATTACH_SERVER' });
    expect(world.dropped).toBe(1);
  });

  test('waits for its server, and tells what is wrong once', async () => {
    const world = new World();
    const server = world.server('a');
    const keeper = world.keeper();
    await keeper.attach(0);
    const kept = keeper.keep();
    await world.pass(1000);
    server.up = false;
    world.lose();
    await world.pass(5000);
    expect(world.links).toEqual([]);
    server.up = true;
    await world.pass(1000);
    expect(world.links).toEqual(['a']);
    expect(world.told).toEqual([
      '/dev/nbd0 lost a connection to nbd://a:10809/v',
      'a is away',
      '/dev/nbd0 has a new connection to nbd://a:10809/v',
    ]);
    world.attached = false;
    await world.pass(1000);
    await kept;
  });

  test('replaces as many connections as were lost', async () => {
    const world = new World();
    world.server('a');
    const keeper = world.keeper({ connections: 4 });
    await keeper.attach(0);
    void keeper.keep();
    world.lose();
    world.lose();
    await world.pass(1000);
    expect(world.links).toHaveLength(4);
    await world.pass(5000);
    expect(world.links).toHaveLength(4);
  });

  test('passes over a mirror until it is promoted, and over another volume for ever', async () => {
    const world = new World();
    const primary = world.server('primary');
    const mirror = world.server('mirror', { readOnly: true });
    world.server('stranger', { sizeBytes: 2 ** 21 });
    const keeper = world.keeper();
    await keeper.attach(0);
    void keeper.keep();
    primary.up = false;
    world.lose();
    await world.pass(3000);
    expect(world.links).toEqual([]);
    mirror.readOnly = false;
    await world.pass(1000);
    expect(world.links).toEqual(['mirror']);
    expect(world.told.join('\n')).toContain('has 2097152 bytes, and the device 1048576');
  });

  test('stays with its server after a lost connection, unless that one lets requests wait', async () => {
    const world = new World();
    world.server('fenced');
    world.server('promoted');
    const keeper = world.keeper();
    await keeper.attach(0);
    void keeper.keep();
    await world.pass(60_000);
    world.lose();
    await world.pass(1000);
    expect(world.links).toEqual(['fenced']);
    await world.pass(2 * WAITS.requestSeconds * 1000); // when the kernel gave up waiting for it
    world.lose();
    await world.pass(1000);
    expect(world.links).toEqual(['promoted']);
  });

  test('takes up a device, and offers a connection for each that may be lost', async () => {
    const world = new World();
    world.server('a');
    const keeper = world.keeper({ connections: 2 });
    keeper.takeUp({ index: 0, sizeBytes: 2 ** 20, readOnly: false });
    void keeper.keep();
    await world.pass(2000);
    expect(world.links).toEqual(['a', 'a']);
  });
});
