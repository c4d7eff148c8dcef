/** The end of a history: everything is healed, and must find back by itself. */
import { Dice } from '../../../scripts/fuzz/dice.ts';
import type { Schedule } from '../../../src/replicator/policy/schedule.ts';
import type { MirrorRecord } from '../../../src/volume/log/metadata.ts';
import { answered } from '../../volume/support/request.ts';
import { wrongUnless } from '../failure.ts';
import type { MirrorNode } from './mirror-node.ts';
import type { Operator } from './operator.ts';
import { BLOCK, differences } from './oracle.ts';
import { readOf } from './requests.ts';
import type { Stage } from './stage.ts';

/** Virtual milliseconds within which everything must be as it should again. */
export const HEAL_MS_MAX = 180_000;

/** Of a line that is as it should be: each piece takes no longer. */
const HEALED_DELAY_MS = 40;
/** Virtual milliseconds for all blocks, under a limit that stays. */
const LIMITED_COPY_MS = 20_000;

export class Healing {
  private readonly stage: Stage;
  private readonly operator: Operator;

  constructor(stage: Stage, operator: Operator) {
    this.stage = stage;
    this.operator = operator;
  }

  /** Nothing goes wrong from now on. */
  makeRight(): void {
    this.stage.note('everything is healed');
    this.stage.world.dice = new Dice(this.stage.history.seed, 2);
    for (const mirror of this.stage.mirrors) this.stage.lines.heal(mirror.name);
    this.stage.lines.quicken(HEALED_DELAY_MS);
    for (const node of this.stage.nodes) {
      const { disk, process } = node;
      disk?.faults.splice(0);
      disk?.forgetEnding();
      if (process !== null) process.slowMs = 0;
      node.platter.pagesMax = Infinity;
      if (disk !== null) disk.platter.pagesMax = Infinity;
      if (!node.running) this.stage.startIn(node, 0);
    }
  }

  async heal(): Promise<void> {
    this.makeRight();
    if (this.stage.history.keepsSchedules) await this.keepSchedules();
    let asked = -Infinity;
    await this.stage.until(
      'the way back',
      HEAL_MS_MAX,
      () => {
        if (this.stage.world.time - asked > 2000) {
          asked = this.stage.world.time;
          this.bringBack();
        }
        return (
          this.stage.operations.count === 0 && this.stage.mirrors.every((node) => this.inStep(node))
        );
      },
      () => this.whyNot(),
    );
    await this.compare(() => true);
  }

  /** Those with a schedule hold everything by it. */
  private async keepSchedules(): Promise<void> {
    const { stage } = this;
    let asked = -Infinity;
    await stage.until(
      'a delta run by schedule',
      HEAL_MS_MAX,
      () => {
        const isDue = stage.world.time - asked > 2000;
        if (isDue) asked = stage.world.time;
        const scheduled = stage.mirrors.filter((node) => this.scheduleOf(node) !== 'stream');
        if (isDue) this.easeLimits();
        if (isDue) for (const node of scheduled) this.askForRun(node);
        const { count } = stage.operations;
        return (
          stage.primary.device !== null &&
          count === 0 &&
          scheduled.every((node) => this.isThrough(node))
        );
      },
      () => this.whyNot(),
    );
    await this.compare((node) => this.scheduleOf(node) !== 'stream');
  }

  private scheduleOf(node: MirrorNode): Schedule['kind'] {
    return this.recordOf(node)?.schedule.kind ?? 'stream';
  }

  private recordOf(node: MirrorNode): MirrorRecord | null {
    const { primary } = this.stage;
    const mirror = primary.mirrorOf(node.name);
    if (mirror === null) return null;
    return primary.volume.metadata.state.mirrors.get(mirror.id) ?? null;
  }

  /** What the schedule leaves to operators. */
  private askForRun(node: MirrorNode): void {
    const { state = 'paused', blocks = null } = this.stage.primary.mirrorOf(node.name) ?? {};
    if (state === 'paused' || state === 'diverged') {
      this.operator.verb(node, 'resume', this.stage.history.mirrors[0]!);
    } else if (this.scheduleOf(node) === 'on-demand' && blocks?.clean === false) {
      this.operator.sync(node);
    }
  }

  /** Between two runs, and nothing is missing. */
  private isThrough(node: MirrorNode): boolean {
    const mirror = this.stage.primary.mirrorOf(node.name);
    if (mirror === null || node.secondary === null) return false;
    const { applied, durable } = node.secondary.intake;
    return (
      mirror.state === 'delta' &&
      mirror.blocks.clean &&
      !mirror.inStream &&
      mirror.lastError === null &&
      applied?.epoch === durable?.epoch
    );
  }

  /** What an operator does who wants all mirrors in step. */
  private bringBack(): void {
    const { primary, mirrors, history } = this.stage;
    if (primary.device === null) return;
    this.easeLimits();
    for (const [index, node] of mirrors.entries()) {
      const options = history.mirrors[index]!;
      const mirror = primary.mirrorOf(node.name);
      if (mirror === null) this.operator.verb(node, 'add', options);
      else {
        const isScheduled = this.scheduleOf(node) !== 'stream';
        if (isScheduled) this.operator.setPolicy(node, { schedule: { kind: 'stream' } });
        if (mirror.state === 'paused') this.operator.verb(node, 'resume', options);
      }
    }
  }

  /** Lifts limits, or has them leave time enough for a few copies. */
  private easeLimits(): void {
    const { primary, mirrors, history } = this.stage;
    const { keepsLimits, blocks } = history;
    const enough = keepsLimits ? Math.ceil((blocks * BLOCK * 1000) / LIMITED_COPY_MS) : Infinity;
    const eased = keepsLimits ? enough : null;
    for (const node of mirrors) {
      const { limit = null } = this.recordOf(node) ?? {};
      if (limit !== null && limit < enough) this.operator.limit(node, eased);
    }
    const { nodeLimit } = primary;
    const together = enough * mirrors.length;
    if (nodeLimit === null || nodeLimit >= together) return;
    primary.nodeLimit = eased === null ? null : together;
  }

  inStep(node: MirrorNode): boolean {
    const { device } = this.stage.primary;
    const mirror = this.stage.primary.mirrorOf(node.name);
    if (device === null || mirror === null || node.secondary === null) return false;
    const { state, stagedBytes, blocks } = mirror;
    if (state !== 'streaming') return false;
    if (stagedBytes + blocks.dirtyBytes + blocks.suspectBytes > 0) return false;
    const { epoch } = device.position();
    if (mirror.settledEpoch < epoch || node.secondary.intake.applied?.epoch !== epoch) return false;
    const { refuses } = node.secondary.volume.metadata.state;
    // Its primary was told what it refuses.
    if (mirror.peer?.refuses.join() !== refuses.join()) return false;
    return this.stage.snapshots.difference(this.stage.primary, node) === null;
  }

  whyNot(): string {
    const stuck = this.stage.operations.names.join(', ');
    const states = this.stage.mirrors.map((node) => {
      const mirror = this.stage.primary.mirrorOf(node.name);
      const source = node.secondary?.sourceStatus();
      const wrong =
        this.stage.primary.running && node.secondary !== null
          ? this.stage.snapshots.difference(this.stage.primary, node)
          : null;
      return `${wrong ?? ''} ${node.name} is ${mirror?.state ?? 'no mirror'} (${mirror?.lastError ?? ''}; ${JSON.stringify(mirror?.status() ?? null)}; ${JSON.stringify(source ?? null)})`;
    });
    return `${states.join('; ')}; waiting: ${stuck}`;
  }

  private async compare(isMeant: (node: MirrorNode) => boolean): Promise<void> {
    const here = this.stage.primary.contentNow();
    const wrong = differences(this.stage.oracle.now, here);
    wrongUnless(
      wrong.length === 0,
      `the primary has other blocks than its host wrote: ${wrong.join(' ')}`,
    );
    this.stage.snapshots.ofPrimary(this.stage.primary);
    for (const node of this.stage.mirrors.filter((each) => isMeant(each))) {
      const secondary = node.secondary!;
      const request = readOf({ offset: 0, length: here.length });
      let status: number | null = null;
      void answered(request, (asked) => secondary.read(asked)).then((result) => (status = result));
      await this.stage.until(
        `a read of ${node.name}`,
        5000,
        () => status !== null,
        () => '',
      );
      wrongUnless(status === 0, `a read of ${node.name} was answered ${String(status)}`);
      const same = here.equals(request.bytes);
      const found = same ? [] : differences(blocksOf(here), request.bytes);
      wrongUnless(same, `${node.name} is in step, and blocks ${found.join(' ')} differ`);
      await this.stage.checks.probe(node, 'cut');
    }
  }
}

function blocksOf(bytes: Buffer): Buffer[] {
  return Array.from({ length: bytes.length / BLOCK }, (_, block) =>
    bytes.subarray(block * BLOCK, (block + 1) * BLOCK),
  );
}
