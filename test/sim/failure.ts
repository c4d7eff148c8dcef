/** What a history found wrong: not an error of the machine that plays it. */
export class Wrong extends Error {}

export function wrongUnless(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Wrong(what);
}
