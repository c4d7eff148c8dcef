/** A payload that no version of this program would have written. */
export class PayloadRefused extends Error {}

/** Throws PayloadRefused. */
export function refuseUnless(condition: boolean, message: string): asserts condition {
  if (!condition) throw new PayloadRefused(message);
}
