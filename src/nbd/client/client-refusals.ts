/** Why a server said no to an option, as an error that says what was asked and what it answered. */
import type { ErrorCode } from '../../io/errors.ts';
import { NBD_OPT, NBD_REP, nameOfOptionReply } from '../constants.ts';

export interface ClientRefusal {
  readonly code: ErrorCode;
  readonly why: string;
}

/** `replyType` is an error; `said` is the server's text, printable, or empty; `name` is the export, quoted. */
export function refusalOf(
  asked: number,
  replyType: number,
  said: string,
  name: string,
): ClientRefusal {
  const words = said === '' ? '' : ` (it says: ${said})`;
  if (replyType === NBD_REP.ERR_TLS_REQD) {
    const why = `it requires TLS: use nbds:// or nbds+unix://${words}`;
    return { code: 'MIRROR_REFUSED', why };
  }
  if (replyType === NBD_REP.ERR_SHUTDOWN) {
    return { code: 'MIRROR_REFUSED', why: `it is shutting down${words}` };
  }
  switch (asked) {
    case NBD_OPT.STARTTLS:
      return { code: 'MIRROR_REFUSED', why: `it offers no TLS${words}` };
    case NBD_OPT.BLOCKFERRY:
      return privateRefusal(replyType, words);
    default:
      return { code: 'MIRROR_REFUSED', why: exportReason(replyType, name) + words };
  }
}

function privateRefusal(replyType: number, words: string): ClientRefusal {
  switch (replyType) {
    case NBD_REP.ERR_UNSUP:
      return { code: 'MIRROR_REFUSED', why: `it is not, or no more, a blockferry node${words}` };
    case NBD_REP.ERR_POLICY:
      return { code: 'PEER_REFUSED', why: `it refuses to be the mirror${words}` };
    case NBD_REP.ERR_UNKNOWN: {
      const check = 'check there: name of the volume, node that it is a mirror of, TLS identity';
      return {
        code: 'MIRROR_REFUSED',
        why: `it expects no such mirror of this node${words}; ${check}`,
      };
    }
    default: {
      const why = `it refused to be the mirror with ${nameOfOptionReply(replyType)}${words}`;
      return { code: 'MIRROR_REFUSED', why };
    }
  }
}

function exportReason(replyType: number, name: string): string {
  switch (replyType) {
    case NBD_REP.ERR_UNKNOWN:
      return `it has no export ${name}`;
    case NBD_REP.ERR_POLICY:
      return `its configuration forbids ${name}`;
    default:
      return `it refused ${name} with ${nameOfOptionReply(replyType)}`;
  }
}
