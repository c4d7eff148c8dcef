/** Ids that no two nodes make alike. */
import type { Random } from '../io/random.ts';

const ID_BYTES = 16;

/** 32 hexadecimal digits. */
export function randomId(random: Random): string {
  return random.bytes(ID_BYTES).toString('hex');
}
