/** What a client and the server agreed on in the handshake: all that the transmission knows of it. */
import type { BlockDevice, StatusContext } from '../../io/device.ts';

/** How replies are written: the form of the whole connection (protocol sections 2 and 5). */
export type ReplyForm = 'simple' | 'structured' | 'extended';

/** A context that the client chose with SET_META_CONTEXT for the export that it then opened. */
export interface SelectedContext {
  /** Unique on the connection; what replies carry. */
  readonly id: number;
  readonly context: StatusContext;
}

export interface Negotiated {
  readonly exportName: string;
  readonly device: BlockDevice;
  /** The transmission flags that the client was told; READ_ONLY may come from the export's policy. */
  readonly flags: number;
  /** `extended` also means that requests have the 32-byte header. */
  readonly form: ReplyForm;
  /** Empty when none were chosen. */
  readonly contexts: readonly SelectedContext[];
}
