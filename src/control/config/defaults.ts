/** What a node does when nobody says otherwise. Apart from the rest, since every verb needs it. */
import { join } from 'node:path';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Whether NBD clients may, or must, encrypt. */
export const TLS_MODES = ['off', 'allowed', 'required'] as const;
export type TlsMode = (typeof TLS_MODES)[number];

export const NBD_ADDRESS_DEFAULT = '127.0.0.1:10809';

/** Less than this of the data directory's file system is free: `disk-low`. */
export const DISK_WARN_PERCENT_DEFAULT = 10;

/** The user who runs the process. */
export interface UserSurroundings {
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly home: string;
  readonly isRoot: boolean;
}

/** Where volumes live: one place per user, whatever the working directory. */
export function defaultDataDirectory(user: UserSurroundings): string {
  if (user.isRoot) return '/var/lib/blockferry';
  const base = user.environment['XDG_DATA_HOME'];
  return join(base ? base : join(user.home, '.local', 'share'), 'blockferry');
}

/** The control address of a node that keeps its data there. */
export function defaultControlAddress(data: string): string {
  return `unix:${join(data, 'control.sock')}`;
}
