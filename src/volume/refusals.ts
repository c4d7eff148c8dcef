/** What a volume does not let the node do that it is a mirror of. Pure data: the words stand in logs, in status and on command lines. */

export const REFUSALS = [
  /** Its snapshots go, or get another content, by its own operator alone. */
  'snapshot-delete',
  /** It begins to take writes by its own operator alone. */
  'handover',
] as const;

export type Refusal = (typeof REFUSALS)[number];

export function isRefusal(word: unknown): word is Refusal {
  return REFUSALS.some((known) => known === word);
}
