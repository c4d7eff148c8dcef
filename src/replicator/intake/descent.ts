/**
 * Whether a history that a primary tells is the one that this copy is of: pure.
 *
 * The primary decides what is to be done with a mirror (generations.ts). This is what a mirror insists on whatever the
 * primary says: it takes nothing from an older generation, and nothing from a history that its own is no part of (I7).
 */
import { errorText } from '../../io/errors.ts';
import { checkHistory } from '../../volume/log/metadata-history.ts';
import type { VolumeState } from '../../volume/log/metadata-state.ts';
import type { Generation } from '../link/messages.ts';

/** Why epochs of `generation`, one of `told`, cannot follow what `state` holds; null: they can. */
export function faultInDescent(
  state: Pick<VolumeState, 'generations' | 'position'>,
  told: readonly Generation[],
  generation: number,
): string | null {
  try {
    checkHistory(told);
  } catch (thrown) {
    return errorText(thrown);
  }
  if (!told.some(({ number }) => number === generation)) {
    return `it does not name generation ${generation}, in which it writes`;
  }
  const own = state.generations.at(-1);
  if (own === undefined) return null;
  if (own.number > generation) {
    return `it writes in generation ${generation}, and this copy is of generation ${own.number}`;
  }
  if (!told.some(({ number, id }) => number === own.number && id === own.id)) {
    return `its history does not know generation ${own.number} of this copy, ${own.id}`;
  }
  const { position } = state;
  if (position === null || told.some(({ number }) => number === position.generation)) return null;
  return `its history does not know generation ${position.generation} of this copy`;
}

/** Whether two histories are the same. */
export function isSameHistory(one: readonly Generation[], other: readonly Generation[]): boolean {
  return (
    one.length === other.length &&
    one.every(({ number, id, firstEpoch }, index) => {
      const same = other[index];
      return same?.number === number && same.id === id && same.firstEpoch === firstEpoch;
    })
  );
}
