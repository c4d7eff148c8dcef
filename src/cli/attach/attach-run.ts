/** What `blockferry attach` and `blockferry detach` do. */
import { AttachRecords } from '../../io/kernel/attach-records.ts';
import { systemClock } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import {
  isAttached,
  processName,
  readKernelDevices,
  type KernelDevice,
} from '../../io/kernel/kernel-devices.ts';
import { ATTACH_CONNECTIONS_MAX, ATTACH_DEAD_S, ATTACH_SECONDS_MAX } from '../../io/limits.ts';
import { NBD_CLIENT, runNbdClient } from '../../io/kernel/nbd-client-tool.ts';
import { openNbdDriver } from '../../io/kernel/nbd-driver.ts';
import { ATTACH_REQUEST_S } from '../../io/limits.ts';
import { parseNbdUri, type NbdUri } from '../../nbd/uri/uri.ts';
import { keepInBackground } from './attach-background.ts';
import { Keeper, type KnownDevice } from './attach-keeper.ts';
import { openKernelLink } from './attach-link.ts';
import { attachedDevices, renderAttached, type AttachedDevice } from './attach-list.ts';
import {
  canPersist,
  chooseDevice,
  devicePath,
  explainNbdClient,
  nbdClientArguments,
  nbdClientVersion,
  parseDevice,
  shellWords,
  useOf,
  type AttachWishes,
} from './attach-plan.ts';
import { whereIs } from './attach-where.ts';
import { print, printJson, type SharedOptions } from '../context.ts';

export interface AttachFlags extends SharedOptions {
  readonly uri?: readonly string[];
  readonly connections?: string;
  readonly persist?: boolean;
  readonly timeout?: string;
  readonly wait?: string;
  readonly foreground?: boolean;
  readonly print?: boolean;
  readonly list?: boolean;
}

export interface DetachFlags extends SharedOptions {
  readonly force?: boolean;
}

export async function attach(
  name: string | undefined,
  device: string | undefined,
  flags: AttachFlags,
): Promise<void> {
  if (flags.list === true) return list(flags);
  if (name === undefined) throw new BlockferryError('USAGE', 'name the volume to attach');
  const wishes = wishesOf(flags);
  const wanted = device === undefined ? null : indexOf(device);
  const uris = await whereIs(name, flags.uri ?? [], flags);
  if (uris.length > 1 && !wishes.persist) {
    throw new BlockferryError('USAGE', 'several --uri need --persist');
  }
  if (uris.length > 1 && wishes.connections > 1) {
    const why = 'one server at a time is behind a device';
    throw new BlockferryError('USAGE', `several --uri need --connections 1: ${why}`);
  }
  if (flags.print === true) return await printCommand(uris, wanted, wishes);
  if (process.getuid?.() !== 0) {
    throw new BlockferryError('NOT_ROOT', 'only root may attach block devices');
  }
  if (!wishes.persist) return await attachOnce(first(uris), wanted, wishes, flags);
  if (flags.foreground === true) return await keep(uris, wanted, wishes, flags);
  return await keepInBackground(flags.json === true);
}

export async function detach(target: string, flags: DetachFlags): Promise<void> {
  const device = findAttached(target);
  const path = devicePath(device.index);
  if (device.users.length > 0 && flags.force !== true) {
    const users = device.users.join(', ');
    throw new BlockferryError('NBD_DEVICE_BUSY', `${path} is still in use: ${users}`);
  }
  if (process.getuid?.() !== 0) {
    throw new BlockferryError('NOT_ROOT', 'only root may detach block devices');
  }
  const driver = openNbdDriver();
  try {
    driver.disconnect(device.index);
  } finally {
    driver.close();
  }
  new AttachRecords().forget(device.index);
  if (flags.json === true) printJson({ device: path, uri: device.uri });
  else print(`detached ${path}\n`);
}

function list(flags: AttachFlags): void {
  const devices = attachedDevices(readKernelDevices().devices, new AttachRecords());
  if (flags.json === true) printJson({ devices });
  else print(renderAttached(devices));
}

function findAttached(target: string): KernelDevice & { readonly uri: string | null } {
  const records = new AttachRecords();
  const attached = readKernelDevices()
    .devices.filter((device) => device.attached)
    .map((device) => ({ ...device, uri: records.uriOf(device) }));
  const index = parseDevice(target);
  const found = attached.filter((device) =>
    index === null ? exportOf(device.uri) === target : device.index === index,
  );
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  if (only === undefined) {
    const what =
      index === null ? `no device is attached to ${target}` : `${target} is not attached`;
    throw new BlockferryError('NBD_DEVICE_NOT_ATTACHED', what);
  }
  const paths = found.map((device) => devicePath(device.index)).join(', ');
  throw new BlockferryError(
    'USAGE',
    `${target} is attached to several devices (${paths}): name one`,
  );
}

function exportOf(uri: string | null): string | null {
  try {
    return uri === null ? null : parseNbdUri(uri).exportName;
  } catch {
    // Another program's words.
    return null;
  }
}

async function printCommand(
  uris: readonly NbdUri[],
  wanted: number | null,
  wishes: AttachWishes,
): Promise<void> {
  const index = wanted ?? chooseDevice({ ...readKernelDevices(), driver: true }, null);
  const args = nbdClientArguments(first(uris), devicePath(index), wishes);
  if (wishes.persist) await warnOfOldClient();
  print(`${shellWords([NBD_CLIENT, ...args])}\n`);
}

async function warnOfOldClient(): Promise<void> {
  const { output } = await runNbdClient(['-V']).catch(() => ({ output: '' }));
  if (canPersist(nbdClientVersion(output))) return;
  process.stderr.write(
    'blockferry: this needs nbd-client 3.27; older ones fail requests when the server goes away, where blockferry attach --persist does not\n',
  );
}

async function attachOnce(
  uri: NbdUri,
  wanted: number | null,
  wishes: AttachWishes,
  flags: AttachFlags,
): Promise<void> {
  const index = chooseDevice(readKernelDevices(), wanted);
  const path = devicePath(index);
  const { code, output } = await runNbdClient(nbdClientArguments(uri, path, wishes));
  const device = readKernelDevices().devices.find((each) => each.index === index);
  if (code !== 0 || device?.pid === undefined || device.pid === null) {
    throw explainNbdClient(output, uri, path);
  }
  new AttachRecords().write(index, device.pid, uri.text);
  sayAttached({ ...device, uri: uri.text }, flags);
}

async function keep(
  uris: readonly NbdUri[],
  wanted: number | null,
  wishes: AttachWishes,
  flags: AttachFlags,
): Promise<void> {
  const view = readKernelDevices();
  const driver = openNbdDriver();
  const keeper = new Keeper({
    driver,
    uris,
    open: openKernelLink,
    clock: systemClock,
    connections: wishes.connections,
    waits: {
      requestSeconds: wishes.timeoutSeconds ?? ATTACH_REQUEST_S,
      deadSeconds: wishes.deadSeconds,
    },
    isAttached: (index) => isAttached(index),
    tell: (line) => void process.stderr.write(`blockferry: ${line}\n`),
  });
  const device = await attachOrTakeUp(keeper, view.devices, wanted, () =>
    chooseDevice(view, wanted),
  );
  sayAttached(
    {
      index: device.index,
      sizeBytes: device.sizeBytes,
      readOnly: device.readOnly,
      uri: keeper.uri.text,
    },
    flags,
  );
  await keeper.keep();
  driver.close();
}

/** A device whose keeper is gone is taken up: its connections may be lost, or will be. */
async function attachOrTakeUp(
  keeper: Keeper,
  devices: readonly KernelDevice[],
  wanted: number | null,
  choose: () => number,
): Promise<KnownDevice> {
  const left = devices.find((each) => each.index === wanted && each.backend === keeper.backend);
  if (left === undefined) return await keeper.attach(choose());
  if (left.pid !== null && processName(left.pid) === processName(process.pid)) {
    const by = `process ${left.pid} keeps it`;
    throw new BlockferryError(
      'NBD_DEVICE_BUSY',
      `${devicePath(left.index)} is in use: ${useOf(left)}; ${by}`,
    );
  }
  keeper.takeUp(left);
  return left;
}

function sayAttached(
  device: Pick<AttachedDevice, 'uri'> & KnownDevice,
  flags: Pick<AttachFlags, 'json' | 'persist'>,
): void {
  const path = devicePath(device.index);
  if (flags.json === true) {
    print(
      `${JSON.stringify({
        device: path,
        uri: device.uri,
        size_bytes: device.sizeBytes,
        read_only: device.readOnly,
        persist: flags.persist === true,
      })}\n`,
    );
  } else print(`${path} is attached to ${device.uri ?? ''}\n`);
}

function wishesOf(flags: AttachFlags): AttachWishes {
  const persist = flags.persist === true;
  if (!persist && (flags.wait !== undefined || flags.foreground === true)) {
    throw new BlockferryError('USAGE', '--wait and --foreground need --persist');
  }
  return {
    persist,
    connections: whole('--connections', flags.connections, ATTACH_CONNECTIONS_MAX) ?? 1,
    timeoutSeconds:
      whole('--timeout', flags.timeout, ATTACH_SECONDS_MAX) ?? (persist ? ATTACH_REQUEST_S : null),
    deadSeconds: whole('--wait', flags.wait, ATTACH_SECONDS_MAX) ?? ATTACH_DEAD_S,
  };
}

/** A number of an option, or null where it is not given. */
function whole(option: string, text: string | undefined, most: number): number | null {
  if (text === undefined) return null;
  const value = /^\d{1,7}$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= most) return value;
  throw new BlockferryError('USAGE', `${option} takes a whole number from 1 to ${most}`);
}

function indexOf(device: string): number {
  const index = parseDevice(device);
  if (index !== null) return index;
  throw new BlockferryError('USAGE', `${device} is no nbd device; name one as /dev/nbd0`);
}

function first(uris: readonly NbdUri[]): NbdUri {
  const [uri] = uris;
  if (uri === undefined) throw new TypeError('there is a URI');
  return uri;
}
