/** What users may ask of a volume: its name and its size. */
import { BLOCK_BYTES, VOLUME_BYTES_MAX, VOLUME_NAME_BYTES_MAX } from '../io/limits.ts';
import { BlockferryError } from '../io/errors.ts';

const SUFFIX_POWER: Readonly<Record<string, number>> = { '': 0, K: 1, M: 2, G: 3, T: 4, P: 5 };

/** Bytes of a size such as `512M`, `10G` or `4096`; suffixes are powers of 1024. Throws SIZE_INVALID. */
export function parseSize(text: string): number {
  const match = /^(\d{1,16})([KMGTP]?)$/i.exec(text);
  const power = SUFFIX_POWER[match?.[2]?.toUpperCase() ?? '?'];
  if (match?.[1] === undefined || power === undefined) {
    throw new BlockferryError('SIZE_INVALID', `the size ${JSON.stringify(text)} cannot be read`);
  }
  return validateSize(Number(match[1]) * 1024 ** power);
}

/** Returns `sizeBytes` if a volume can have it, else throws SIZE_INVALID. */
export function validateSize(sizeBytes: number): number {
  const refuse = (why: string): never => {
    throw new BlockferryError('SIZE_INVALID', `a volume of ${sizeBytes} bytes ${why}`);
  };
  if (!Number.isFinite(sizeBytes) || sizeBytes > VOLUME_BYTES_MAX) {
    refuse(`is larger than ${VOLUME_BYTES_MAX} bytes`);
  }
  if (sizeBytes <= 0) refuse('has no block');
  if (sizeBytes % BLOCK_BYTES !== 0) refuse(`is not a multiple of ${BLOCK_BYTES} bytes`);
  return sizeBytes;
}

/** Returns `name` if a volume can have it, else throws VOLUME_NAME_INVALID. */
export function validateVolumeName(name: string): string {
  const refuse = (why: string): never => {
    const shown = JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}...` : name);
    throw new BlockferryError('VOLUME_NAME_INVALID', `the volume name ${shown} ${why}`);
  };
  const bytes = Buffer.byteLength(name, 'utf8');
  if (bytes === 0) refuse('is empty');
  if (bytes > VOLUME_NAME_BYTES_MAX) refuse(`is longer than ${VOLUME_NAME_BYTES_MAX} bytes`);
  if (Buffer.from(name, 'utf8').toString('utf8') !== name) refuse('is not valid Unicode');
  if (/[/@]/.test(name)) refuse('holds a / or @');
  if (/\p{Cc}/u.test(name)) refuse('holds a control character');
  if (name === '.' || name === '..') refuse('is not a name');
  return name;
}
