/** The progress of a mirror, state by state and event by event: the table of the design, written out again. */
import { describe, expect, it } from 'vitest';
import {
  nextState,
  step,
  TRANSITIONS,
  type MirrorEvent,
} from '../../src/replicator/mirror/progress.ts';
import { MIRROR_STATES, type MirrorState } from '../../src/replicator/status.ts';

const EVENTS: Readonly<Record<string, MirrorEvent>> = {
  clean: { kind: 'contact', suspect: false },
  suspect: { kind: 'contact', suspect: true },
  compared: { kind: 'compared' },
  shipped: { kind: 'shipped' },
  stuck: { kind: 'stuck' },
  unstuck: { kind: 'unstuck' },
  interrupted: { kind: 'interrupted' },
  rejoined: { kind: 'rejoined' },
  lost: { kind: 'lost' },
  outrun: { kind: 'outrun' },
  pause: { kind: 'pause' },
  resume: { kind: 'resume' },
};

/** What is not named means nothing. */
const EXPECTED: { readonly [State in MirrorState]: Partial<Record<string, MirrorState>> } = {
  connecting: {
    clean: 'shipping',
    suspect: 'comparing',
    rejoined: 'streaming',
    lost: 'delta',
    outrun: 'delta',
    pause: 'paused',
  },
  comparing: { compared: 'shipping', lost: 'delta', outrun: 'delta', pause: 'paused' },
  shipping: {
    shipped: 'streaming',
    stuck: 'not-converging',
    lost: 'delta',
    outrun: 'delta',
    pause: 'paused',
  },
  'not-converging': {
    shipped: 'streaming',
    unstuck: 'shipping',
    lost: 'delta',
    outrun: 'delta',
    pause: 'paused',
  },
  streaming: { interrupted: 'connecting', lost: 'delta', outrun: 'delta', pause: 'paused' },
  delta: { clean: 'shipping', suspect: 'comparing', pause: 'paused' },
  paused: { resume: 'connecting' },
  diverged: { resume: 'connecting', pause: 'paused' },
};

describe('the progress of a mirror', () => {
  for (const state of MIRROR_STATES) {
    for (const [name, event] of Object.entries(EVENTS)) {
      const expected = EXPECTED[state][name] ?? null;
      it(`goes from ${state} on ${name} to ${expected ?? 'nothing'}`, () => {
        expect(step(state, event)).toBe(expected);
      });
    }
  }

  it('has a table that allows every step it takes, and only states that exist', () => {
    for (const state of MIRROR_STATES) {
      for (const event of Object.values(EVENTS)) {
        const next = nextState(state, event);
        if (next !== null) expect(TRANSITIONS[state]).toContain(next);
      }
      for (const next of TRANSITIONS[state]) expect(MIRROR_STATES).toContain(next);
    }
  });

  it('throws on a step that the table does not allow, and says what it allows', () => {
    const table = TRANSITIONS.streaming as MirrorState[];
    const saved = table.splice(0);
    try {
      expect(() => step('streaming', EVENTS['lost']!)).toThrow(
        'illegal transition streaming -> delta on lost; allowed: ',
      );
    } finally {
      table.push(...saved);
    }
  });
});
