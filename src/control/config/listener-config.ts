/** Addresses of the configuration file, and who may open those that are files. */
import { parseAddress } from '../../io/address.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import type { Address, SocketRights } from '../../io/network.ts';
import { accountId } from './accounts.ts';
import type { ConfigFile } from './config-file.ts';
import type { ListenerValues } from './config-schema.ts';
import type { KeyPath } from './toml-lines.ts';

export interface ListenerConfig {
  readonly address: Address;
  /** Of the file of a unix socket; else empty. */
  readonly rights: SocketRights;
}

/** Null when the file names none. @throws BlockferryError CONFIG_INVALID or ADDRESS_INVALID */
export function fileListeners(
  file: ConfigFile,
  readFile: (path: string) => Buffer,
): ListenerConfig[] | null {
  const { nbd } = file.values;
  if (nbd === undefined) return null;
  return nbd.map((values, index) => {
    const key = ['nbd', index];
    const address = fileAddress(file, key, values.address);
    return { address, rights: rightsOf(file, key, { address, values, readFile }) };
  });
}

/** An address of the file; a socket's path is relative to it. @throws BlockferryError ADDRESS_INVALID */
export function fileAddress(file: ConfigFile, key: KeyPath, text: string): Address {
  try {
    const address = parseAddress(text);
    if (address.kind === 'tcp') return address;
    // Read again: the whole path may be too long for a socket.
    return parseAddress(`unix:${file.resolve(address.path)}`);
  } catch (error) {
    if (!(error instanceof BlockferryError)) throw error;
    throw file.fault(key, error.message, error.code);
  }
}

function rightsOf(
  file: ConfigFile,
  key: KeyPath,
  listener: { address: Address; values: ListenerValues; readFile: (path: string) => Buffer },
): SocketRights {
  const { mode, owner, group } = listener.values;
  if (listener.address.kind === 'tcp') {
    if (mode === undefined && owner === undefined && group === undefined) return {};
    throw file.fault(key, 'only a unix socket has mode, owner and group');
  }
  const id = (kind: 'user' | 'group', account: string | number, word: string): number => {
    try {
      return accountId(kind, account, listener.readFile);
    } catch (error) {
      throw file.fault([...key, word], errorText(error));
    }
  };
  return {
    ...(mode === undefined ? {} : { mode: Number.parseInt(mode, 8) }),
    ...(owner === undefined ? {} : { uid: id('user', owner, 'owner') }),
    ...(group === undefined ? {} : { gid: id('group', group, 'group') }),
  };
}
