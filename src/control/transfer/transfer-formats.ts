/**
 * Formats of image files: told by their first bytes, or on writing by the end of their name.
 *
 * A guest owns the bytes of its own raw disk, and could write there the header of a format that refers to other
 * files. So an image that refers to others is refused, unless the user says its format.
 */
import { z } from 'zod';
import { BlockferryError } from '../../io/errors.ts';
import type { ImageFile } from '../../io/image-file.ts';
import { runQemuImg } from '../../io/qemu-img.ts';

export const RAW = 'raw';

interface Magic {
  readonly format: string;
  readonly at: number;
  readonly bytes: Buffer;
}

const magic = (format: string, bytes: string, at = 0): Magic => ({
  format,
  at,
  bytes: Buffer.from(bytes, 'latin1'),
});

const MAGICS: readonly Magic[] = [
  magic('qcow2', 'QFI\xfb\0\0\0\x02'),
  magic('qcow2', 'QFI\xfb\0\0\0\x03'),
  magic('qcow', 'QFI\xfb\0\0\0\x01'),
  magic('qed', 'QED\0'),
  magic('vdi', '\x7f\x10\xda\xbe', 64),
  magic('vhdx', 'vhdxfile'),
  magic('vmdk', 'KDMV'),
  magic('vmdk', '# Disk DescriptorFile'),
  magic('vpc', 'conectix'),
  magic('parallels', 'WithoutFreeSpace'),
  magic('parallels', 'WithouFreSpacExt'),
];

const HEAD_BYTES = 512;

/** By the first bytes; RAW for all that is not known. */
export function formatOfImage(image: ImageFile): string {
  const head = Buffer.alloc(HEAD_BYTES);
  image.file.readBlocking(head, 0, HEAD_BYTES, 0);
  const found = MAGICS.find(({ at, bytes }) => head.subarray(at, at + bytes.length).equals(bytes));
  return found?.format ?? RAW;
}

const ENDINGS: Readonly<Record<string, string>> = {
  qcow2: 'qcow2',
  qcow: 'qcow2',
  qed: 'qed',
  vdi: 'vdi',
  vhd: 'vpc',
  vhdx: 'vhdx',
  vmdk: 'vmdk',
};

/** For a file that is to be made: `disk.qcow2` is qcow2, and what is not known is RAW. */
export function formatOfName(path: string): string {
  const ending = /\.([a-z0-9]+)$/i.exec(path)?.[1]?.toLowerCase() ?? '';
  return Object.hasOwn(ENDINGS, ending) ? (ENDINGS[ending] ?? RAW) : RAW;
}

const DETAILS = z.object({
  'data-file': z.string().optional(),
  extents: z.array(z.object({ filename: z.string().optional() })).optional(),
});
const INFO = z.object({
  'virtual-size': z.number().int().positive(),
  'backing-filename': z.string().optional(),
  'format-specific': z.object({ data: DETAILS }).optional(),
});

/**
 * Bytes of the disk inside an image.
 * @throws BlockferryError TOOL_MISSING, IMAGE_UNUSABLE
 */
export async function virtualSize(
  path: string,
  format: string,
  mayReferToOthers: boolean,
): Promise<number> {
  const text = await runQemuImg(['info', '--output=json', '-f', format, fileArgument(path)]);
  const parsed = INFO.safeParse(JSON.parse(text));
  if (!parsed.success) {
    throw new BlockferryError('IMAGE_UNUSABLE', `qemu-img does not tell the size of ${path}`);
  }
  const info = parsed.data;
  const details = info['format-specific']?.data ?? {};
  const parts = details.extents?.map(({ filename }) => filename ?? path) ?? [];
  const other =
    info['backing-filename'] ??
    details['data-file'] ??
    parts.find((part) => part !== path && part !== fileArgument(path));
  if (other !== undefined && !mayReferToOthers) {
    const message = `${path} refers to another file, ${other}, which would be read too`;
    throw new BlockferryError('IMAGE_UNUSABLE', message);
  }
  return info['virtual-size'];
}

/** A path as qemu-img takes it for one, whatever it looks like (`nbd:x`, `-n`). */
export function fileArgument(path: string): string {
  return `file:${path}`;
}
