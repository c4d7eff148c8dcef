/** What a fuzzing client does: plain data, so that a case can be printed, cut down and played again. */

export type Step =
  | { readonly do: 'send'; readonly bytes: Buffer; readonly note: string }
  /** Waits until all is answered that can be. */
  | { readonly do: 'settle' }
  /** Reads nothing for a while, or until the end of the case. */
  | { readonly do: 'stall'; readonly ms: number }
  | { readonly do: 'wait'; readonly ms: number }
  /** Says that it will send no more. */
  | { readonly do: 'half-close' }
  | { readonly do: 'reset' }
  /** Becomes a TLS client, if the server agreed to that. */
  | { readonly do: 'tls' };

export interface ClientScript {
  readonly steps: readonly Step[];
  /** How what is sent reaches the server. */
  readonly pieces: 'whole' | 'bytes' | 'random';
  /** For the pieces. */
  readonly seed: number;
}

const BYTES_SHOWN = 96;

function textOf(step: Step): string {
  switch (step.do) {
    case 'send': {
      const shown = step.bytes.subarray(0, BYTES_SHOWN).toString('hex');
      const more = step.bytes.length > BYTES_SHOWN ? '...' : '';
      return `send ${step.bytes.length} bytes (${step.note}): ${shown}${more}`;
    }
    case 'stall':
    case 'wait':
      return `${step.do} ${step.ms} ms`;
    case 'settle':
    case 'half-close':
    case 'reset':
    case 'tls':
      return step.do;
  }
}

/** One line a step. */
export const scriptText = ({ steps, pieces }: ClientScript): string =>
  [`pieces: ${pieces}`, ...steps.map(textOf)].map((line) => `    ${line}`).join('\n');

/** Cuts bytes as the script says; never into nothing. */
export function piecesOf(
  bytes: Buffer,
  pieces: ClientScript['pieces'],
  below: (end: number) => number,
): Buffer[] {
  if (pieces === 'whole' || bytes.length === 0) return [bytes];
  const cut: Buffer[] = [];
  // Single bytes of a large payload teach nothing that single bytes of its beginning do not.
  const single = pieces === 'bytes' ? Math.min(bytes.length, 256) : 0;
  for (let at = 0; at < single; at++) cut.push(bytes.subarray(at, at + 1));
  for (let at = single; at < bytes.length;) {
    const most = pieces === 'bytes' ? bytes.length : Math.max(1, 2 ** below(17));
    const end = Math.min(bytes.length, at + 1 + below(most));
    cut.push(bytes.subarray(at, end));
    at = end;
  }
  return cut;
}
