/** What goes wrong with nodes, their disks and the lines between them, and orderly stops. */
import type { Step } from './history.ts';
import { MirrorNode } from './mirror-node.ts';
import type { Node } from './node.ts';
import { refusal } from './operations.ts';
import { PrimaryNode } from './primary-node.ts';
import type { Stage } from './stage.ts';

/** Virtual milliseconds that an orderly stop may take. */
const CLOSE_MS_MAX = 60_000;

export class Troubles {
  private readonly stage: Stage;

  constructor(stage: Stage) {
    this.stage = stage;
  }

  setBack(mirror: MirrorNode): void {
    if (mirror.backup === null) return;
    if (mirror.running) mirror.end('kill');
    mirror.restoreBackup(this.stage.dice);
    this.stage.startIn(mirror, 0);
  }

  diskStep(step: Extract<Step, { kind: 'fault' | 'full' | 'room' | 'slow' }>): void {
    const node = this.stage.nodes[step.node % this.stage.nodes.length]!;
    const { disk, process } = node;
    if (disk === null || process === null) return;
    if (step.kind === 'fault') disk.faults.push({ ...step });
    else if (step.kind === 'slow') process.slowMs = step.slowMs;
    else {
      const { platter } = disk;
      platter.pagesMax = step.kind === 'room' ? Infinity : platter.pagesUsed() + step.pages;
    }
  }

  endLater(step: Extract<Step, { kind: 'kill' | 'cut' }>): void {
    const node = this.stage.nodes[step.node % this.stage.nodes.length]!;
    const { disk } = node;
    if (disk === null) return;
    this.stage.startIn(node, step.downMs);
    if (step.calls === 0) disk.endNow(step.kind);
    else disk.endAfter(step.kind, step.calls);
  }

  async close(node: Node, downMs: number): Promise<void> {
    if (!node.running || node.closing) return;
    if (!(node instanceof MirrorNode) && !(node instanceof PrimaryNode)) return;
    let over = false;
    const ended = (): void => {
      over = true;
    };
    node.note('is asked to stop');
    await this.commandsOf(node);
    if (!node.running) return;
    this.stage.operations.operate(node, `the stop of ${node.name}`, node.close(), {
      done: ended,
      refused: (error) => {
        refusal(node, 'a stop')(error);
        ended();
      },
    });
    const { process } = node;
    await this.stage.until(
      `the stop of ${node.name}`,
      CLOSE_MS_MAX,
      () => over || process?.over === true,
      () => this.stage.operations.names.join(', '),
    );
    if (process?.over === true) return;
    if (node === this.stage.primary && !node.troubled)
      this.stage.oracle.flushed(this.stage.oracle.change);
    this.stage.startIn(node, downMs);
    node.end('kill');
    await this.stage.ended(node);
  }

  /** New commands are refused before a node stops, and those under way awaited. */
  private async commandsOf(node: PrimaryNode | MirrorNode): Promise<void> {
    node.closing = true;
    if (!(node instanceof PrimaryNode)) return;
    await this.stage.until(
      `the commands of ${node.name}`,
      CLOSE_MS_MAX,
      () => !this.stage.snapshots.busy(node),
      () => this.stage.operations.names.join(', '),
    );
  }

  line(mirror: MirrorNode, how: Extract<Step, { kind: 'line' }>['how']): void {
    const { lines } = this.stage;
    switch (how) {
      case 'cut':
      case 'cut-lane':
        lines.cut(mirror.name, how === 'cut-lane');
        return;
      case 'refused':
      case 'silent':
        lines.setState(mirror.name, how);
        lines.cut(mirror.name, false);
        return;
      case 'stall-forth':
        lines.stall(mirror.name, ['to-listener']);
        return;
      case 'stall-back':
        lines.stall(mirror.name, ['to-connector']);
        return;
      case 'stall':
        lines.setState(mirror.name, 'silent');
        lines.stall(mirror.name, ['to-listener', 'to-connector']);
    }
  }
}
