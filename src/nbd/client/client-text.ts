/** Text that strangers chose, made fit for one line of a log or a terminal. */

/** Control characters, line separators and the marks that reorder what a terminal shows. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu;
const LONE_SURROGATE = /\p{Surrogate}/gu;

/** `text` on one line, without control characters, cut to `charactersMax` with a mark of the cut. */
export function printable(text: string, charactersMax: number): string {
  // Cut before the work, so that its cost does not depend on a stranger.
  const clean = text
    .slice(0, charactersMax * 4)
    .replace(UNPRINTABLE, ' ')
    .replace(LONE_SURROGATE, '\ufffd')
    .trim();
  if (clean.length <= charactersMax && text.length <= charactersMax * 4) return clean;
  const cut = clean.slice(0, charactersMax).replace(LONE_SURROGATE, '');
  return `${cut}...`;
}
