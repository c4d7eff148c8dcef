/**
 * The decision table of protocol section 7: may this request be handled, and if not, why. After `validate`
 * let a request through nothing is checked again, but what a payload says.
 */
import { NBD_PAYLOAD_BYTES_MAX } from '../../io/limits.ts';
import { NBD_CMD, NBD_CMD_FLAG, NBD_FLAG } from '../constants.ts';
import type { Negotiated, ReplyForm } from '../handshake/negotiated.ts';
import { type Refusal, REFUSED } from './refusals.ts';
import type { RequestForm, RequestHeader } from './request-header.ts';
import { statusPayloadBytes } from './status-payload.ts';

/**
 * A payload longer than this is not drained: the connection ends. Extended headers say that it should end
 * at the largest payload already (protocol section 3.2).
 */
export const drainBytesMax = (form: RequestForm): number =>
  form.extended ? NBD_PAYLOAD_BYTES_MAX : 2 * NBD_PAYLOAD_BYTES_MAX;

const NOT_OFFERED = -1;

/** What follows from the handshake of one connection. */
export interface CommandRules {
  /** For each command the flags that it may carry, or NOT_OFFERED. */
  readonly legalFlags: readonly number[];
  readonly readOnly: boolean;
  readonly form: ReplyForm;
  /** The longest payload of a BLOCK_STATUS: each context once. */
  readonly statusPayloadMax: number;
}

const flagIf = (flag: number, offer: boolean): number => (offer ? flag : 0);

/** The table of protocol section 1.7 for these transmission flags, this form and these contexts. */
export function commandRulesOf(
  negotiated: Pick<Negotiated, 'flags' | 'form' | 'contexts'>,
): CommandRules {
  const { form, contexts } = negotiated;
  const offered = (flag: number): boolean => (negotiated.flags & flag) !== 0;
  const fua = flagIf(NBD_CMD_FLAG.FUA, offered(NBD_FLAG.SEND_FUA));
  const extended = form === 'extended';
  const rules: number[] = Array.from<number>({ length: NBD_CMD.RESIZE + 1 }).fill(NOT_OFFERED);
  const df = form !== 'simple' && offered(NBD_FLAG.SEND_DF);
  rules[NBD_CMD.READ] = fua | flagIf(NBD_CMD_FLAG.DF, df);
  rules[NBD_CMD.WRITE] = fua | flagIf(NBD_CMD_FLAG.PAYLOAD_LEN, extended);
  if (offered(NBD_FLAG.SEND_FLUSH)) rules[NBD_CMD.FLUSH] = fua;
  if (offered(NBD_FLAG.SEND_TRIM)) rules[NBD_CMD.TRIM] = fua;
  if (offered(NBD_FLAG.SEND_CACHE)) rules[NBD_CMD.CACHE] = fua;
  if (offered(NBD_FLAG.SEND_WRITE_ZEROES)) {
    const fast = flagIf(NBD_CMD_FLAG.FAST_ZERO, offered(NBD_FLAG.SEND_FAST_ZERO));
    rules[NBD_CMD.WRITE_ZEROES] = fua | NBD_CMD_FLAG.NO_HOLE | fast;
  }
  if (form !== 'simple' && contexts.length > 0) {
    const filter = extended && offered(NBD_FLAG.BLOCK_STATUS_PAYLOAD);
    rules[NBD_CMD.BLOCK_STATUS] =
      fua | NBD_CMD_FLAG.REQ_ONE | flagIf(NBD_CMD_FLAG.PAYLOAD_LEN, filter);
  }
  return {
    legalFlags: rules,
    readOnly: offered(NBD_FLAG.READ_ONLY),
    form,
    statusPayloadMax: statusPayloadBytes(contexts.length),
  };
}

/** Why a request must not reach the device, or null. DISC never comes here. */
export function validate(
  header: RequestHeader,
  rules: CommandRules,
  sizeBytes: number,
): Refusal | null {
  const { command, length } = header;
  const legalFlags = rules.legalFlags[command] ?? NOT_OFFERED;
  if (legalFlags === NOT_OFFERED) {
    return command === NBD_CMD.BLOCK_STATUS ? REFUSED.NO_CONTEXTS : REFUSED.COMMAND;
  }
  if ((header.flags & ~legalFlags) !== 0) return REFUSED.FLAGS;
  const pastEnd = header.offset + length > sizeBytes;
  switch (command) {
    case NBD_CMD.READ:
      if (pastEnd) return REFUSED.PAST_END;
      if (length <= NBD_PAYLOAD_BYTES_MAX) return null;
      return rules.form === 'simple' ? REFUSED.READ_TOO_LONG_SIMPLE : REFUSED.READ_TOO_LONG;
    case NBD_CMD.WRITE:
      return validateWrite(header, rules, pastEnd);
    case NBD_CMD.WRITE_ZEROES:
      if (rules.readOnly) return REFUSED.READ_ONLY;
      return pastEnd ? REFUSED.PAST_END_WRITE : null;
    case NBD_CMD.TRIM:
      if (rules.readOnly) return REFUSED.READ_ONLY;
      return pastEnd ? REFUSED.PAST_END : null;
    case NBD_CMD.CACHE:
      return pastEnd ? REFUSED.PAST_END : null;
    case NBD_CMD.FLUSH:
      return header.offset !== 0 || length !== 0 ? REFUSED.FLUSH_RANGE : null;
    case NBD_CMD.BLOCK_STATUS:
      return validateStatus(header, rules, sizeBytes);
    default:
      return REFUSED.COMMAND;
  }
}

function validateWrite(
  header: RequestHeader,
  rules: CommandRules,
  pastEnd: boolean,
): Refusal | null {
  const hasPayload = (header.flags & NBD_CMD_FLAG.PAYLOAD_LEN) !== 0;
  if (rules.form === 'extended' && !hasPayload) return REFUSED.NO_PAYLOAD;
  if (rules.readOnly) return REFUSED.READ_ONLY;
  if (header.length > NBD_PAYLOAD_BYTES_MAX) return REFUSED.WRITE_TOO_LONG;
  return pastEnd ? REFUSED.PAST_END_WRITE : null;
}

/** With a payload, `length` is that of the payload: the range is in it, and checked when it is here. */
function validateStatus(
  header: RequestHeader,
  rules: CommandRules,
  sizeBytes: number,
): Refusal | null {
  if ((header.flags & NBD_CMD_FLAG.PAYLOAD_LEN) !== 0) {
    return header.length > rules.statusPayloadMax || header.length === 0
      ? REFUSED.STATUS_PAYLOAD
      : null;
  }
  return validateStatusRange(header.offset, header.length, sizeBytes);
}

/** The range of a BLOCK_STATUS, wherever it was said. */
export function validateStatusRange(
  offset: number,
  length: number,
  sizeBytes: number,
): Refusal | null {
  if (offset + length > sizeBytes) return REFUSED.PAST_END;
  return length === 0 ? REFUSED.EMPTY_STATUS : null;
}
