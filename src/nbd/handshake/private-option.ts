/**
 * The private option: how a client that is more than an NBD client asks to talk otherwise from here on. What its data
 * means, and what is spoken then, is the business of whoever answers; this room carries bytes.
 *
 * The client sends NBD_OPT_BLOCKFERRY. Accepted: one NBD_REP_BLOCKFERRY with data, then NBD_REP_ACK; from the next byte
 * on, both ways, the connection is no NBD any more. Refused: an error, and the handshake goes on. Every other server knows
 * nothing of it and says NBD_REP_ERR_UNSUP.
 */
import type { Connection, ConnectionHandler } from '../../io/network.ts';
import type { ClientFacts } from '../server/exports.ts';

/** What goes on with a connection after its handshake. */
export interface Successor {
  /** Gets all that comes from now on, and `closed`. */
  readonly handler: ConnectionHandler;
  /** The server is stopping: the connection is to end soon. It is cut after NBD_DRAIN_MS_MAX. */
  stop(): void;
}

export type PrivateAnswer =
  | {
      readonly kind: 'accept';
      /** Data of the reply, at most NBD_OPTION_BYTES_MAX bytes. */
      readonly reply: Buffer;
      /** For the log: what the connection is for. */
      readonly purpose: string;
      /** Called once, when the answer was sent. It may send at once; what comes is given to the handler from then on. */
      takeOver(connection: Connection): Successor;
    }
  | {
      readonly kind: 'refuse';
      /** `invalid`: the data is none. `unknown` is for whoever must not learn what there is; `policy` says why. */
      readonly as: 'invalid' | 'unknown' | 'policy';
      /** The client hears it. */
      readonly text: string;
      /** For the log alone: what was asked for, and why it was refused. */
      readonly denied: { readonly name: string; readonly reason: string };
    };

/** Answers the private option. The data is valid only during the call; whatever a client may send stands in it. */
export type PrivateOption = (data: Buffer, client: ClientFacts) => PrivateAnswer;
