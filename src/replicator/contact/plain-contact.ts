/** A mirror that is any NBD server: blocks are written where they belong, epochs one after another. */
import { BlockferryError } from '../../io/errors.ts';
import type { NbdClient } from '../../nbd/client/client.ts';
import { nameOfErrno } from '../../nbd/constants.ts';
import type { Contact, RunHooks, Sender, SenderHooks, Transfer } from './contact.ts';
import { DeltaRun } from '../runs/delta-run.ts';
import { EpochSender } from './epoch-sender.ts';
import type { MirrorBlocks } from '../mirror/mirror-blocks.ts';
import type { MirrorHost } from '../mirror/mirror-host.ts';
import type { SendLimit } from '../pace/send-limit.ts';

export class PlainContact implements Contact {
  readonly kind = 'nbd';
  /** While a delta run lasts its blocks are of different moments. */
  readonly alwaysConsistent = false;
  readonly position = null;
  private readonly client: NbdClient;
  private readonly host: MirrorHost;
  private readonly blocks: MirrorBlocks;
  private readonly limit: SendLimit;

  constructor(options: {
    client: NbdClient;
    host: MirrorHost;
    blocks: MirrorBlocks;
    limit: SendLimit;
  }) {
    this.client = options.client;
    this.host = options.host;
    this.blocks = options.blocks;
    this.limit = options.limit;
  }

  get open(): boolean {
    return this.client.open;
  }

  get onClosed(): ((error: BlockferryError) => void) | null {
    return this.client.onClosed;
  }

  set onClosed(handler: ((error: BlockferryError) => void) | null) {
    this.client.onClosed = handler;
  }

  /**
   * A connection that was lost may have left writes in the mirror's receive buffer. This flush, and the pause before the
   * attempt, give the mirror time to deal with them before new ones come.
   */
  ready(): Promise<void> {
    const { client } = this;
    return new Promise((resolve, reject) => {
      client.flush((errno) => {
        if (errno === 0) return resolve();
        const message = `mirror ${client.uri.text} failed a flush (${nameOfErrno(errno)})`;
        reject(new BlockferryError('MIRROR_REFUSED', message));
      });
    });
  }

  probe(): void {
    if (this.client.inFlight === 0) this.client.flush(() => {});
  }

  transfer(hooks: RunHooks): Transfer {
    const { client, blocks, host, limit } = this;
    const { volume, examiner } = host;
    return new DeltaRun({ volume, client, blocks, examiner, hooks, limit });
  }

  sender(after: number, hooks: SenderHooks, last: number | null): Sender {
    const { host, client, limit } = this;
    return new EpochSender({ host, client, after, last, hooks, limit });
  }

  close(): Promise<void> {
    return this.client.close();
  }

  destroy(): void {
    this.client.destroy();
  }
}
