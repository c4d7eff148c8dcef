/**
 * The progress of one mirror as an explicit machine. Pure: an event goes in, the next state comes out.
 * Every transition is an event of the node under the name of the state it leads to.
 *
 * connecting      first contact, or contact again after `resume`; or a lost link is waited for, with everything staged
 * comparing       reading blocks that may differ, after a crash or because an operator asked
 * shipping        a delta run: sending the blocks that the bitmap marks, then what was staged meanwhile
 * not-converging  a delta run that the host outruns; goes on, and says so
 * streaming       every write follows in order
 * delta           out of contact, outrun, or between runs of a schedule: only bits are kept
 * paused          by an operator; only bits are kept
 * diverged        both sides wrote; needs an operator
 */
import type { MirrorState } from '../status.ts';

export type MirrorEvent =
  | { readonly kind: 'contact'; readonly suspect: boolean }
  | { readonly kind: 'compared' }
  | { readonly kind: 'shipped' }
  | { readonly kind: 'stuck' }
  | { readonly kind: 'unstuck' }
  | { readonly kind: 'interrupted' }
  | { readonly kind: 'rejoined' }
  | { readonly kind: 'lost' }
  | { readonly kind: 'outrun' }
  | { readonly kind: 'rested' }
  | { readonly kind: 'parted' }
  | { readonly kind: 'pause' }
  | { readonly kind: 'resume' };

/** Which states each state may lead to. */
export const TRANSITIONS: { readonly [State in MirrorState]: readonly MirrorState[] } = {
  connecting: ['comparing', 'shipping', 'streaming', 'delta', 'paused', 'diverged'],
  comparing: ['shipping', 'delta', 'paused'],
  shipping: ['streaming', 'not-converging', 'delta', 'paused'],
  'not-converging': ['shipping', 'streaming', 'delta', 'paused'],
  streaming: ['connecting', 'delta', 'paused'],
  delta: ['comparing', 'shipping', 'paused', 'diverged'],
  paused: ['connecting'],
  diverged: ['connecting', 'paused'],
};

/** The state that an event leads to, or null when it means nothing in this state. */
export function nextState(state: MirrorState, event: MirrorEvent): MirrorState | null {
  switch (event.kind) {
    case 'contact':
      if (state !== 'connecting' && state !== 'delta') return null;
      return event.suspect ? 'comparing' : 'shipping';
    case 'compared':
      return state === 'comparing' ? 'shipping' : null;
    case 'shipped':
      return state === 'shipping' || state === 'not-converging' ? 'streaming' : null;
    case 'stuck':
      return state === 'shipping' ? 'not-converging' : null;
    case 'unstuck':
      return state === 'not-converging' ? 'shipping' : null;
    case 'interrupted':
      return state === 'streaming' ? 'connecting' : null;
    case 'rejoined':
      return state === 'connecting' ? 'streaming' : null;
    case 'lost':
    case 'outrun':
    case 'rested':
      return state === 'paused' || state === 'delta' || state === 'diverged' ? null : 'delta';
    case 'parted':
      return state === 'connecting' || state === 'delta' ? 'diverged' : null;
    case 'pause':
      return state === 'paused' ? null : 'paused';
    case 'resume':
      return state === 'paused' || state === 'diverged' ? 'connecting' : null;
  }
}

/** `nextState`, checked against the table of legal transitions. */
export function step(state: MirrorState, event: MirrorEvent): MirrorState | null {
  const next = nextState(state, event);
  if (next !== null && !TRANSITIONS[state].includes(next)) {
    throw new Error(
      `illegal transition ${state} -> ${next} on ${event.kind}; allowed: ${TRANSITIONS[state].join(', ')}`,
    );
  }
  return next;
}
