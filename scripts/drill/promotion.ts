/**
 * The half of the failover drill that begins with the death of the primary: its mirror is promoted and takes writes; the old primary
 * comes back, must take none, and becomes the mirror of the new one without losing what it alone had.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type DrilledNode, expectEqualExports, type SeenMirror, settled } from './node.ts';
import { judge } from './oracle.ts';
import { Child, pause, run, until } from './process.ts';
import type { RequestLog } from './request-log.ts';
import { sizeText } from './timeline.ts';

const PROMOTE_MS_MAX = 15_000;
const FENCE_MS_MAX = 15_000;
const IN_STEP_MS_MAX = 60_000;
/** How long a client of the fenced primary is watched while nothing may be answered to it. */
const HELD_MS = 2_000;
/** What the new primary gets before the old one comes back. */
const MORE_BYTES = 1024 * 1024;

export interface PromotionParts {
  readonly alpha: DrilledNode;
  readonly beta: DrilledNode;
  readonly volume: string;
  readonly sizeBytes: number;
  readonly directory: string;
  readonly signal: AbortSignal;
  readonly note: (text: string) => void;
  readonly violate: (text: string) => void;
}

export class Promotion {
  private readonly parts: PromotionParts;

  constructor(parts: PromotionParts) {
    this.parts = parts;
  }

  /** Returns the milliseconds from `killedAt` (performance.now) until the mirror was a volume that takes writes. */
  async promote(killedAt: number): Promise<number> {
    const { beta, volume, signal } = this.parts;
    const wait = { what: 'the mirror to be promoted', timeoutMs: PROMOTE_MS_MAX, everyMs: 20 };
    await until({ ...wait, signal }, async () => {
      const { code, stderr } = await beta.attempt(['promote', volume]);
      if (code === 0) return true;
      throw new Error(stderr.trim());
    });
    return Math.round(performance.now() - killedAt);
  }

  /** Clients write to the promoted volume. */
  async useIt(): Promise<void> {
    const { beta, volume, directory, note } = this.parts;
    const file = join(directory, 'more.raw');
    writeFileSync(file, randomBytes(MORE_BYTES));
    await run('nbdcopy', ['--flush', file, beta.uri(volume)]);
    note(`beta takes writes: ${sizeText(MORE_BYTES)}`);
  }

  /** The old primary is back: it must learn that it is the old one before it takes a write. */
  async fenced(): Promise<void> {
    const { alpha, volume, directory, signal, note, violate } = this.parts;
    await alpha.start(signal);
    const args = ['--flush', join(directory, 'more.raw'), alpha.uri(volume)];
    const client = new Child('nbdcopy', args, { logPath: join(directory, 'late-client.log') });
    try {
      const wait = { what: 'alpha to know that it is fenced', timeoutMs: FENCE_MS_MAX, signal };
      const why = await until(wait, async () => (await alpha.volume(volume)).fenced);
      await pause(HELD_MS, signal);
      if (client.running) note(`alpha is back and fenced, a client of it waits: ${why}`);
      else violate('the old primary answered a client that writes');
    } finally {
      await client.kill();
    }
  }

  /** The old primary becomes the mirror of the new one. `maxBytes`: what may have to be sent. */
  async failBack(log: RequestLog, maxBytes: number): Promise<void> {
    const { alpha, beta, volume, signal, note } = this.parts;
    await alpha.command('failback', volume, beta.name);
    await beta.command('mirror', 'add', volume, alpha.uri(volume), '--seeded');
    const wait = { what: 'alpha to be in step with beta', timeoutMs: IN_STEP_MS_MAX, signal };
    const mirror: SeenMirror = await until(wait, async () => {
      const seen = await beta.mirror(volume);
      return settled(seen) ? seen : null;
    });
    const sent = mirror.delta_bytes_sent;
    note(
      `alpha is the mirror of beta: compared ${sizeText(mirror.bytes_compared)}, sent ${sizeText(sent)}`,
    );
    if (sent > maxBytes) {
      this.parts.violate(
        `more was sent than ${sizeText(maxBytes)}, what either side may have changed`,
      );
    }
    await this.expectEqual();
    await this.expectKept(log);
  }

  private async expectEqual(): Promise<void> {
    const { alpha, beta, volume, note, violate } = this.parts;
    try {
      await expectEqualExports([alpha.uri(volume), beta.uri(volume)]);
      note('alpha and beta are equal, byte for byte');
    } catch (thrown) {
      violate(`alpha and beta differ after the failback: ${String(thrown)}`);
    }
  }

  /** Everything that the old primary ever answered is in the snapshot that it kept. */
  private async expectKept(log: RequestLog): Promise<void> {
    const { alpha, volume, sizeBytes, directory, note, violate } = this.parts;
    const listed = await alpha.command('snapshot', 'list', volume, '--json');
    const name = /"(diverged-[^"]+)"/.exec(listed)?.[1];
    if (name === undefined) {
      violate('the old primary kept nothing of what it alone had');
      return;
    }
    const image = join(directory, 'diverged.raw');
    await run('nbdcopy', [alpha.uri(`${volume}@${name}`), image]);
    const verdict = judge({ log, imagePath: image, sizeBytes, mode: 'sync' });
    if (verdict.ok) note(`${volume}@${name} has every write that alpha answered`);
    for (const { text } of verdict.violations) violate(`in ${volume}@${name}: ${text}`);
  }
}
