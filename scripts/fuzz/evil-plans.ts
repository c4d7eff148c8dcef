/** The wrong things that a hostile mirror may do, and where it begins with one of them. */
import type { Dice } from './dice.ts';

/** Wrong in the handshake: at a byte of what the server says, or in what it announces. */
export const HANDSHAKE_EVILS = [
  'close-at-byte',
  'reset-at-byte',
  'silence-at-byte',
  'garbage-at-byte',
  'drip-from-byte',
  'huge-reply',
  'endless-infos',
  'wrong-size',
  'wrong-flags',
  'wrong-blocks',
  'refusal',
  'no-go',
  'wrong-option',
  'reply-before-ask',
] as const;

/** Wrong at a request. */
export const REQUEST_EVILS = [
  'close',
  'reset',
  'close-in-reply',
  'silence',
  'wrong-magic',
  'wrong-cookie',
  'twice',
  'unasked',
  'error-once',
  'errors',
  'error-and-data',
  'chunk',
  'late-replies',
  'reversed-replies',
  'garbage',
  'endless-garbage',
  'drip',
] as const;

export type Evil = (typeof HANDSHAKE_EVILS)[number] | (typeof REQUEST_EVILS)[number] | 'none';

/** What may make a falsehood of an answer: bits of it are wrong, and it may still look like one. */
const LIES: ReadonlySet<Evil> = new Set<Evil>([
  'garbage-at-byte',
  'garbage',
  'endless-garbage',
  'wrong-cookie',
]);
export const mayLie = ({ evil }: EvilPlan): boolean => LIES.has(evil);

export interface EvilPlan {
  readonly evil: Evil;
  /** The byte of its output, or the number of its requests, where it begins. */
  readonly at: number;
}

export type RequestEvil = (typeof REQUEST_EVILS)[number];
export type ByteEvil = Extract<Evil, `${string}-byte`>;

export const isRequestEvil = (evil: Evil): evil is RequestEvil =>
  (REQUEST_EVILS as readonly Evil[]).includes(evil);
export const isByteEvil = (evil: Evil): evil is ByteEvil => evil.endsWith('-byte');

/** Bytes of the whole answer to a GO that asks for block sizes. */
const HANDSHAKE_BYTES = 18 + 32 + 34 + 20;

/** Something wrong, somewhere. */
export function evilPlan(dice: Dice, requestsMax: number): EvilPlan {
  if (dice.chance(45)) {
    return { evil: dice.pick(HANDSHAKE_EVILS), at: dice.below(HANDSHAKE_BYTES + 200) };
  }
  return { evil: dice.pick(REQUEST_EVILS), at: dice.skewed(requestsMax) };
}
