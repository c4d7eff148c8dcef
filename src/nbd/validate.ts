/**
 * The decision table of protocol section 7: may this request be handled, and if not, which error. After
 * `validate` answered OK nothing is checked again.
 */
import { NBD_PAYLOAD_BYTES_MAX } from '../io/limits.ts';
import { NBD_CMD, NBD_CMD_FLAG, NBD_ERRNO, NBD_FLAG, type NbdErrno } from './constants.ts';
import type { RequestHeader } from './request-header.ts';

/** A WRITE longer than this is not drained: the connection ends. */
export const NBD_DRAIN_BYTES_MAX: number = 2 * NBD_PAYLOAD_BYTES_MAX;

/** Bytes of payload that follow the header of a request, in the compact form. */
export const payloadBytesOf = (header: RequestHeader): number =>
  header.command === NBD_CMD.WRITE ? header.length : 0;

const NOT_OFFERED = -1;

/** What one connection negotiated: for each command the flags that it may carry, or NOT_OFFERED. */
export type CommandRules = readonly number[];

/** The rules that follow from the transmission flags sent to the client. */
export function commandRulesOf(transmissionFlags: number): CommandRules {
  const offered = (flag: number): boolean => (transmissionFlags & flag) !== 0;
  const fua = offered(NBD_FLAG.SEND_FUA) ? NBD_CMD_FLAG.FUA : 0;
  const rules: number[] = Array.from<number>({ length: NBD_CMD.RESIZE + 1 }).fill(NOT_OFFERED);
  rules[NBD_CMD.READ] = fua;
  rules[NBD_CMD.WRITE] = fua;
  if (offered(NBD_FLAG.SEND_FLUSH)) rules[NBD_CMD.FLUSH] = fua;
  if (offered(NBD_FLAG.SEND_TRIM)) rules[NBD_CMD.TRIM] = fua;
  if (offered(NBD_FLAG.SEND_WRITE_ZEROES)) rules[NBD_CMD.WRITE_ZEROES] = fua | NBD_CMD_FLAG.NO_HOLE;
  return rules;
}

/** What validation needs to know of a device. */
export interface DeviceBounds {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

/** The answer to a request that must not reach the device, or OK. DISC never comes here. */
export function validate(
  header: RequestHeader,
  rules: CommandRules,
  device: DeviceBounds,
): NbdErrno {
  const legalFlags = rules[header.command] ?? NOT_OFFERED;
  if (legalFlags === NOT_OFFERED) return NBD_ERRNO.EINVAL;
  if ((header.flags & ~legalFlags) !== 0) return NBD_ERRNO.EINVAL;
  const pastEnd = header.offset + header.length > device.sizeBytes;
  switch (header.command) {
    case NBD_CMD.READ:
      if (pastEnd) return NBD_ERRNO.EINVAL;
      return header.length > NBD_PAYLOAD_BYTES_MAX ? NBD_ERRNO.EINVAL : NBD_ERRNO.OK;
    case NBD_CMD.WRITE:
      if (device.readOnly) return NBD_ERRNO.EPERM;
      if (header.length > NBD_PAYLOAD_BYTES_MAX) return NBD_ERRNO.EINVAL;
      return pastEnd ? NBD_ERRNO.ENOSPC : NBD_ERRNO.OK;
    case NBD_CMD.WRITE_ZEROES:
      if (device.readOnly) return NBD_ERRNO.EPERM;
      return pastEnd ? NBD_ERRNO.ENOSPC : NBD_ERRNO.OK;
    case NBD_CMD.TRIM:
      if (device.readOnly) return NBD_ERRNO.EPERM;
      return pastEnd ? NBD_ERRNO.EINVAL : NBD_ERRNO.OK;
    case NBD_CMD.FLUSH:
      return header.offset !== 0 || header.length !== 0 ? NBD_ERRNO.EINVAL : NBD_ERRNO.OK;
    default:
      return NBD_ERRNO.EINVAL;
  }
}
