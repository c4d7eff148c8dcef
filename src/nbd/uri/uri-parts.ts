/** How the parts of a URI are written and read. */

/** What is wrong, before it is wrapped with the URI that it is about. */
export class Invalid extends Error {}

/** `what` names the part. Throws Invalid. */
export function decode(encoded: string, what: string): string {
  if (/\p{Surrogate}/u.test(encoded)) throw new Invalid(`the ${what} is not valid Unicode`);
  try {
    return decodeURIComponent(encoded);
  } catch {
    throw new Invalid(`the ${what} has a wrong percent-encoding, or is not UTF-8`);
  }
}

/** Slashes, colons and at-signs stay: they are legal there, and people write them. */
export function encodePath(text: string): string {
  return encodeURIComponent(text).replace(/%2F|%3A|%40/g, decodeURIComponent);
}
