/**
 * Containers: what the base layer of a volume may lie in, other than a file of its directory.
 *
 * Invariants:
 * - A container was there before the volume and stays behind it: it is never made, cut, lengthened or removed here.
 * - What it holds when the volume is made is the volume's content: every block of the base layer counts as data. So no
 *   map can be behind it, and after a stop that was not clean every block counts as data again.
 * - One volume has it at a time, as far as that can be told.
 */
import type { DiskFile } from '../io/disk.ts';
import { BlockferryError } from '../io/errors.ts';

/** Of which kinds there are: a block device or regular file, and an export of another server. */
export const CONTAINER_KINDS = ['device', 'nbd'] as const;
export type ContainerKind = (typeof CONTAINER_KINDS)[number];

/** Where a container is. */
export interface Place {
  readonly kind: ContainerKind;
  /** An absolute path, or an NBD URI in its canonical form. */
  readonly location: string;
}

/** An open container. */
export interface Container {
  readonly place: Place;
  /**
   * Its `sizeNow` is the capacity; `truncateNow` says what of it is needed, moves nothing, and throws ENOSPC past the capacity; `dataAfter` tells of no
   * extents. A `punchHole` that succeeds leaves zeroes.
   */
  readonly file: DiskFile;
  /** The calls on the calling thread may be used. Where not, `readNow` finds nothing and the others must not be called. */
  readonly canNow: boolean;
  /** The same for two names of one container, where that can be told. */
  readonly identity: string;
  /** Why it is out of reach now; null while it is not. */
  readonly trouble: string | null;
  /** Told when `trouble` begins, and with null when it is over. */
  onTrouble: ((trouble: string | null) => void) | null;
  /** Told once, when it lost what was answered: nothing that it says counts any more. */
  onLost: ((reason: string) => void) | null;
}

/** Finds and opens containers. */
export interface Containers {
  /**
   * The place that an operator names.
   * @throws BlockferryError CONTAINER_INVALID, URI_INVALID, CONTAINER_INSECURE
   */
  placeOf(location: string): Place;
  /**
   * Opens one for a volume to be, and sees that it can be used.
   * @throws BlockferryError CONTAINER_UNUSABLE, CONTAINER_IN_USE, CONTAINER_UNREACHABLE
   */
  claim(place: Place): Promise<Container>;
  /**
   * Opens that of a volume which needs `sizeBytes` of it. One that is out of reach may come later.
   * @throws BlockferryError CONTAINER_UNUSABLE, CONTAINER_IN_USE
   */
  open(place: Place, sizeBytes: number): Container;
}

/** Throws CONTAINER_TOO_SMALL. */
export function refuseIfTooLarge({ file, place }: Container, sizeBytes: number): void {
  const capacity = file.sizeNow();
  if (sizeBytes <= capacity) return;
  throw new BlockferryError(
    'CONTAINER_TOO_SMALL',
    `${place.location} has ${capacity} bytes, and a volume of ${sizeBytes} has no room there`,
  );
}
