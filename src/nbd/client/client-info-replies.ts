/**
 * What a server says of the export that was asked for with GO: infos, in any order and number up to a bound, then the ACK.
 * Each method returns what is wrong, in words, or null.
 */
import { NBD_CLIENT_INFOS_MAX } from '../../io/limits.ts';
import {
  DEFAULT_BLOCK_SIZES,
  judgeBlockSizes,
  judgeExport,
  type BlockSizes,
  type ExportInfo,
  type Judged,
} from './client-export-info.ts';
import { NBD_INFO, type Magic64 } from '../constants.ts';

const INFO_TYPE_BYTES = 2;
const INFO_EXPORT_BYTES = 12;
const INFO_BLOCK_SIZE_BYTES = 14;

export class InfoReplies {
  private count = 0;
  private size: Magic64 | null = null;
  private flags = 0;
  private blocks: BlockSizes = DEFAULT_BLOCK_SIZES;

  /** `data[0 .. length)` came in a reply of type INFO. */
  info(data: Buffer, length: number): string | null {
    this.count += 1;
    if (this.count > NBD_CLIENT_INFOS_MAX) return 'it sends infos without end';
    if (length < INFO_TYPE_BYTES) return 'an info has no type';
    switch (data.readUInt16BE(0)) {
      case NBD_INFO.EXPORT:
        return this.infoExport(data, length);
      case NBD_INFO.BLOCK_SIZE:
        return this.infoBlockSize(data, length);
      default:
        // Names, descriptions and what later versions add: nothing depends on them.
        return null;
    }
  }

  /** The ACK came. */
  judged(): Judged<ExportInfo> {
    if (this.size === null) return { wrong: 'it did not say how large the export is' };
    return judgedExport(this.size, this.flags, this.blocks);
  }

  private infoExport(data: Buffer, length: number): string | null {
    if (length !== INFO_EXPORT_BYTES) return 'INFO_EXPORT has a wrong length';
    this.size = { high: data.readUInt32BE(2), low: data.readUInt32BE(6) };
    this.flags = data.readUInt16BE(10);
    return null;
  }

  private infoBlockSize(data: Buffer, length: number): string | null {
    if (length !== INFO_BLOCK_SIZE_BYTES) return 'INFO_BLOCK_SIZE has a wrong length';
    const judged = judgeBlockSizes({
      minimum: data.readUInt32BE(2),
      preferred: data.readUInt32BE(6),
      maximum: data.readUInt32BE(10),
    });
    if ('wrong' in judged) return `it announces ${judged.wrong}`;
    this.blocks = judged.ok;
    return null;
  }
}

/** As `judgeExport`, in words about the server. */
export function judgedExport(
  size: Magic64,
  flags: number,
  blocks: BlockSizes = DEFAULT_BLOCK_SIZES,
): Judged<ExportInfo> {
  const judged = judgeExport(size, flags, blocks);
  return 'wrong' in judged ? { wrong: `it announces ${judged.wrong}` } : judged;
}
