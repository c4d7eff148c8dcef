/** Whether what a mirror is sent may be compressed, and what came of it since the node started, over all of its links. */
import type { LinkCompression, WireLimit } from '../link/link-types.ts';
import type { CompressionStatus, CompressMode } from '../status.ts';

export class MirrorCompression {
  mode: CompressMode;
  private readonly limit: WireLimit;
  private link: LinkCompression | null = null;
  /** Of links that are over. */
  private bytesIn = 0;
  private bytesOut = 0;

  /** `limit`: what holds back who sends to this mirror. */
  constructor(mode: CompressMode, limit: WireLimit) {
    this.mode = mode;
    this.limit = limit;
  }

  /** In force at once. */
  set(mode: CompressMode): void {
    this.mode = mode;
    this.link?.set(mode, this.limit);
  }

  /** The link to the mirror from now on; null: one whose ends have no codec in common. */
  attach(link: LinkCompression | null): void {
    this.bytesIn += this.link?.bytesIn ?? 0;
    this.bytesOut += this.link?.bytesOut ?? 0;
    this.link = link;
    link?.set(this.mode, this.limit);
  }

  status(): CompressionStatus {
    const { mode, link } = this;
    return {
      mode,
      active: link?.active ?? false,
      ratio: link?.share ?? null,
      bytes_in: this.bytesIn + (link?.bytesIn ?? 0),
      bytes_out: this.bytesOut + (link?.bytesOut ?? 0),
    };
  }
}
