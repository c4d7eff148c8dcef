/**
 * Sockets that the process was started with, by the protocol of systemd (sd_listen_fds(3)): descriptors from 3
 * on, told by LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES.
 *
 * Invariant: the variables are taken once and removed, so that no child takes them for its own.
 */
import { BlockferryError } from '../../io/errors.ts';
import { NBD_LISTENERS_MAX } from '../../io/limits.ts';

export interface Activation {
  /** Listening sockets for NBD clients. */
  readonly nbd: readonly number[];
  /** For the control API: the descriptor with the name `control`. */
  readonly control: number | null;
}

export const NO_ACTIVATION: Activation = Object.freeze({ nbd: [], control: null });

const FIRST_DESCRIPTOR = 3;
const CONTROL_NAME = 'control';

/**
 * The sockets meant for process `pid`, by its environment, from which the variables go.
 * @throws BlockferryError SOCKET_INVALID
 */
export function takeActivation(
  environment: Record<string, string | undefined>,
  pid: number,
): Activation {
  const { LISTEN_PID: forPid, LISTEN_FDS: fds, LISTEN_FDNAMES: names } = environment;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete environment[name];
  // Variables for another process came along with the environment of a parent.
  if (fds === undefined || forPid !== String(pid)) return NO_ACTIVATION;
  const count = /^\d{1,4}$/.test(fds) ? Number(fds) : -1;
  if (count < 0) throw invalid(`LISTEN_FDS is ${JSON.stringify(fds)}, no number of descriptors`);
  const nameList = names === undefined ? [] : names.split(':');
  if (names !== undefined && nameList.length !== count) {
    throw invalid(`LISTEN_FDS says ${count}, but LISTEN_FDNAMES has ${nameList.length} names`);
  }
  return sorted(count, nameList);
}

function sorted(count: number, names: readonly string[]): Activation {
  const nbd: number[] = [];
  let control: number | null = null;
  for (let index = 0; index < count; index++) {
    const descriptor = FIRST_DESCRIPTOR + index;
    if (names[index] !== CONTROL_NAME) nbd.push(descriptor);
    else if (control === null) control = descriptor;
    else throw invalid(`two sockets have the name "${CONTROL_NAME}"`);
  }
  if (nbd.length > NBD_LISTENERS_MAX) throw invalid(`there are ${nbd.length} of them`);
  return { nbd, control };
}

function invalid(why: string): BlockferryError {
  return new BlockferryError('SOCKET_INVALID', `cannot take the inherited sockets: ${why}`);
}
