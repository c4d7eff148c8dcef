/**
 * What is to be done to attach an export: which device, which command line for nbd-client, and what its words mean.
 * Pure, but for a look at which files for TLS there are.
 */
import { BlockferryError } from '../../io/errors.ts';
import type { KernelDevice, KernelView } from '../../io/kernel/kernel-devices.ts';
import { ATTACH_INDEX_MAX } from '../../io/limits.ts';
import { tlsClientDirectory } from '../../io/tls/tls-client.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';

export interface AttachWishes {
  readonly connections: number;
  /** Null: for ever. */
  readonly timeoutSeconds: number | null;
  /** Wait for a server that is away. */
  readonly persist: boolean;
  /** With `persist`: seconds, and then requests fail. */
  readonly deadSeconds: number;
}

/** The first nbd-client that waits for a server with a device that is in use. */
const PERSISTS: readonly [number, number] = [3, 27];

export function devicePath(index: number): string {
  return `/dev/nbd${index}`;
}

/** The N of `/dev/nbdN` or `nbdN`; null: it is no name of a device. */
export function parseDevice(text: string): number | null {
  const digits = /^(?:\/dev\/)?nbd(0|[1-9]\d{0,3})$/.exec(text)?.[1];
  return digits === undefined || Number(digits) > ATTACH_INDEX_MAX ? null : Number(digits);
}

/**
 * The device to attach to: the wanted one, or the first that is free. One that is not there yet can be made.
 * @throws BlockferryError NBD_MODULE_MISSING, NBD_DEVICE_BUSY
 */
export function chooseDevice({ driver, devices }: KernelView, wanted: number | null): number {
  if (!driver) {
    const what = 'there is no nbd device: the module nbd is not loaded';
    throw new BlockferryError('NBD_MODULE_MISSING', what);
  }
  const taken = new Map(
    devices.filter((device) => device.attached || device.users.length > 0).map((d) => [d.index, d]),
  );
  if (wanted !== null) {
    const device = taken.get(wanted);
    if (device !== undefined) throw busy(device);
    return wanted;
  }
  for (let index = 0; index <= ATTACH_INDEX_MAX; index += 1) {
    if (!taken.has(index)) return index;
  }
  throw new BlockferryError('NBD_DEVICE_BUSY', 'no nbd device is free');
}

function busy(device: KernelDevice): BlockferryError {
  const path = devicePath(device.index);
  return new BlockferryError('NBD_DEVICE_BUSY', `${path} is in use: ${useOf(device)}`);
}

/** What a device is attached to, and who uses it, in words. */
export function useOf({ attached, backend, pid, users }: KernelDevice): string {
  const by = backend ?? `a server that process ${pid ?? '?'} knows`;
  return [...(attached ? [`attached to ${by}`] : []), ...users].join(', ');
}

/**
 * The arguments of nbd-client.
 * @throws BlockferryError ATTACH_TLS for pre-shared keys, which it does not know
 */
export function nbdClientArguments(
  uri: NbdUri,
  device: string,
  wishes: AttachWishes,
): readonly string[] {
  const { address } = uri;
  const where =
    address.kind === 'unix' ? ['-unix', address.path] : [address.host, String(address.port)];
  return [
    ...where,
    device,
    '-name',
    uri.exportName,
    ...(wishes.connections === 1 ? [] : ['-connections', String(wishes.connections)]),
    ...(wishes.timeoutSeconds === null ? [] : ['-timeout', String(wishes.timeoutSeconds)]),
    ...(wishes.persist ? ['-persist', '-dead-timeout', String(wishes.deadSeconds)] : []),
    ...tlsArguments(uri),
  ];
}

function tlsArguments({ tls, text }: NbdUri): readonly string[] {
  if (tls === null) return [];
  if (tls.pskFile !== null) {
    const what = `${text}: nbd-client knows certificates only, not pre-shared keys`;
    throw new BlockferryError('ATTACH_TLS', what);
  }
  if (tls.certificates === null) {
    throw new BlockferryError('ATTACH_TLS', `${text} does not say whom to trust`);
  }
  const { ca, certificate, key } = tlsClientDirectory(tls.certificates);
  return [
    '-enable-tls',
    ...(ca === undefined ? [] : ['-cacertfile', ca]),
    ...(certificate === undefined ? [] : ['-certfile', certificate]),
    ...(key === undefined ? [] : ['-keyfile', key]),
    '-tlshostname',
    tls.serverName,
  ];
}

/** Of what `nbd-client -V` prints; null: it does not say. */
export function nbdClientVersion(output: string): readonly [number, number] | null {
  const match = /\b(\d+)\.(\d+)(?:\.\d+)?\b/.exec(output);
  return match === null ? null : [Number(match[1]), Number(match[2])];
}

/** Whether that version waits for a server that went away, with a device that is in use. */
export function canPersist(version: readonly [number, number] | null): boolean {
  if (version === null) return false;
  const [major, minor] = version;
  return major > PERSISTS[0] || (major === PERSISTS[0] && minor >= PERSISTS[1]);
}

/** As a shell reads it back. */
export function shellWords(words: readonly string[]): string {
  return words
    .map((word) =>
      /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`,
    )
    .join(' ');
}

/** Why nbd-client did not attach, of what it printed. */
export function explainNbdClient(output: string, uri: NbdUri, device: string): BlockferryError {
  const said = lastWords(output);
  const at = `${uri.text}: nbd-client says: ${said}`;
  if (/Socket failed|CONNECT failed|getaddrinfo failed|Connection refused/.test(output)) {
    return new BlockferryError('ATTACH_SERVER', at);
  }
  if (/TLS|certificate|gnutls|Policy|handshake/i.test(output)) {
    return new BlockferryError('ATTACH_TLS', at);
  }
  if (/returned by server|Server said|server closed|Read failed/i.test(output)) {
    return new BlockferryError('ATTACH_SERVER', at);
  }
  if (/netlink family|module is loaded|Cannot open NBD/.test(output)) {
    return new BlockferryError('NBD_MODULE_MISSING', `${device}: nbd-client says: ${said}`);
  }
  return new BlockferryError('ATTACH_FAILED', `${device}: nbd-client says: ${said}`);
}

/** The last line that is not a farewell. */
function lastWords(output: string): string {
  const lines = output
    .split('\n')
    .map((line) => line.replace(/^Negotiation: \.*/, '').trim())
    .filter((line) => line !== '' && line !== 'Exiting.');
  return lines.at(-1) ?? 'nothing';
}
