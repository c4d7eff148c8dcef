/** The options that a client sends, as bytes. */
import {
  NBD_INFO,
  NBD_META,
  NBD_OPTION_HEADER_BYTES,
  NBD_OPTION_MAGIC,
  type NbdOption,
} from '../constants.ts';

export function encodeOption(option: NbdOption, data: Buffer = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(NBD_OPTION_HEADER_BYTES + data.length);
  bytes.writeUInt32BE(NBD_OPTION_MAGIC.high, 0);
  bytes.writeUInt32BE(NBD_OPTION_MAGIC.low, 4);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  data.copy(bytes, NBD_OPTION_HEADER_BYTES);
  return bytes;
}

/** The data of GO, which asks for the block sizes too. */
export function goData(exportName: string): Buffer {
  const infos = Buffer.alloc(4);
  infos.writeUInt16BE(1, 0);
  infos.writeUInt16BE(NBD_INFO.BLOCK_SIZE, 2);
  return Buffer.concat([nameField(exportName), infos]);
}

/** The data of SET_META_CONTEXT that asks for base:allocation. */
export function allocationData(exportName: string): Buffer {
  const query = Buffer.from(NBD_META.BASE_ALLOCATION);
  const count = Buffer.alloc(8);
  count.writeUInt32BE(1, 0);
  count.writeUInt32BE(query.length, 4);
  return Buffer.concat([nameField(exportName), count, query]);
}

/** The name of the export with its length. */
function nameField(exportName: string): Buffer {
  const name = Buffer.from(exportName);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(name.length, 0);
  return Buffer.concat([length, name]);
}
