/** A read of the head: exact where nothing was under way, else each byte as some moment of the read had it. */
import { wrongUnless } from './failure.ts';
import { differs, shown, type Head } from './model.ts';
import { SECTOR, Sector, ZEROES, sectorsOf } from './sectors.ts';

export function checkRead(
  head: Head,
  range: { readonly offset: number; readonly length: number },
  bytes: Buffer,
  from: number,
): void {
  const { first, end } = sectorsOf(range.offset, range.length);
  for (let at = first; at < end; at += 1) {
    const start = Math.max(range.offset, at * SECTOR);
    const stop = Math.min(range.offset + range.length, (at + 1) * SECTOR);
    const found = bytes.subarray(start - range.offset, stop - range.offset);
    const within = start - at * SECTOR;
    const cut = (state: Buffer): Buffer => state.subarray(within, within + found.length);
    const sector = head.sector(at) ?? new Sector(at, ZEROES);
    const { states, known } = sector.now(from);
    if (sector.quietSince(from)) {
      const [state] = states;
      const same = state === undefined || found.equals(cut(state));
      wrongUnless(same, `a read, sector ${at}: ${differs(cut(state!), found)}`);
      continue;
    }
    const meanwhile = sector.momentsAfter(from).map((moment) => sector.now(moment));
    if (!known || meanwhile.some((each) => !each.known)) continue;
    const candidates = [...states, ...meanwhile.flatMap((each) => each.states)].map(cut);
    const same = found.every((byte, index) => candidates.some((each) => each[index] === byte));
    wrongUnless(same, `a read, sector ${at}: ${shown(found)} is of no moment of the read`);
  }
}
