/** What a server exports, and what it promises of it. */
import type { BlockDevice } from '../../io/device.ts';
import { NBD_PAYLOAD_BYTES_MAX } from '../../io/limits.ts';
import type { TlsPeer } from '../../io/network.ts';
import { NBD_BLOCK_SIZE, NBD_FLAG } from '../constants.ts';
import type { ReplyForm } from '../handshake/negotiated.ts';
import type { BlockSizes } from '../handshake/option-codec.ts';

/** Who asks: what access is decided by. */
export interface ClientFacts {
  /** As `Connection.remoteIp`. */
  readonly ip: string | null;
  /** Null before STARTTLS. */
  readonly tls: TlsPeer | null;
}

/**
 * What a listener wants of its clients. `off`: there is no TLS. `allowed`: clients may start it, and must
 * for exports that require it. `required`: nothing goes before it.
 */
export type TlsMode = 'off' | 'allowed' | 'required';

/** One export as a client that may use it sees it: the same for each of its connections. */
export interface NbdExport {
  /** Under NBD_STRING_BYTES_MAX bytes; also what the default export ('') is really called. */
  readonly name: string;
  readonly device: BlockDevice;
  /** Writes are refused, whatever the device could do. */
  readonly readOnly: boolean;
}

/** The answer to a name. `denied` is for the log; the client hears the same as for `unknown`. */
export type ExportAccess =
  | { readonly kind: 'granted'; readonly export: NbdExport }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'tls-required' }
  | { readonly kind: 'denied'; readonly reason: string };

/** The names that clients may ask for. The source decides what '' (the default export) is. */
export interface ExportSource {
  find(name: string, client: ClientFacts): ExportAccess;
  /** What this client may see, in the order to show it; null when listing is switched off. */
  list(client: ClientFacts): readonly NbdExport[] | null;
}

/** Offered, never demanded: requests of any size and offset are served. */
export const BLOCK_SIZES: BlockSizes = Object.freeze({
  minimum: 1,
  preferred: NBD_BLOCK_SIZE.PREFERRED_DEFAULT,
  maximum: NBD_PAYLOAD_BYTES_MAX,
});

/**
 * One device object serves all connections and its flush covers all of them, so multi-conn holds
 * (protocol section 6.3).
 */
const FLAGS: number =
  NBD_FLAG.HAS_FLAGS |
  NBD_FLAG.SEND_FLUSH |
  NBD_FLAG.SEND_FUA |
  NBD_FLAG.SEND_TRIM |
  NBD_FLAG.SEND_WRITE_ZEROES |
  NBD_FLAG.CAN_MULTI_CONN |
  NBD_FLAG.SEND_CACHE |
  NBD_FLAG.SEND_FAST_ZERO;

/**
 * The transmission flags (protocol section 1.6) of an export for a client that negotiated replies of
 * `form` and, if `filters`, contexts of this export.
 */
export function transmissionFlagsOf(
  exported: NbdExport,
  form: ReplyForm,
  filters: boolean,
): number {
  let flags = FLAGS;
  if (exported.readOnly || exported.device.readOnly) flags |= NBD_FLAG.READ_ONLY;
  if (form !== 'simple') flags |= NBD_FLAG.SEND_DF;
  if (form === 'extended' && filters) flags |= NBD_FLAG.BLOCK_STATUS_PAYLOAD;
  return flags;
}
