/** Steps that a host takes: reads, changes and flushes, and the size of its volume. */
import type { Volume } from '../../src/volume/volume.ts';
import { requestOf } from '../volume/support/request.ts';
import { wrongUnless } from './failure.ts';
import type { Operations } from './operations.ts';
import { BLOCK, clip, inBlocks, payloadOf, type StepOf } from './places.ts';
import { checkRead } from './read-check.ts';
import type { Change } from './sectors.ts';
import type { VolumeModel } from './volume-model.ts';

const EINVAL = 22;
const ENOSPC = 28;
const ENOTSUP = 95;

export class HostSteps {
  private readonly operations: Operations;

  constructor(operations: Operations) {
    this.operations = operations;
  }

  change(
    step: StepOf<'write' | 'zero' | 'trim'>,
    volume: Volume,
    model: VolumeModel,
  ): object | null {
    const { machine } = this.operations;
    const range =
      step.kind === 'trim' ? inBlocks(clip(step, model.safeBytes)) : clip(step, model.safeBytes);
    if (range.length === 0) return null;
    const payload = step.kind === 'write' ? payloadOf(step, range) : null;
    const request = requestOf(range, payload ?? undefined);
    request.free = step.kind === 'trim';
    if (step.kind === 'zero') {
      request.noHole = step.noHole;
      request.fastZero = step.fastZero;
    }
    const change: Change = { ...range, bytes: payload };
    const failed = volume.failed;
    model.begin(change, machine.tick());
    const span = model.reaches(range.offset + range.length);
    return this.operations.ask(
      request,
      (asked) => (payload === null ? volume.zero(asked) : volume.write(asked)),
      (status) => {
        model.spans.delete(span);
        wrongUnless(status !== 0 || !failed, `a volume that failed took a ${step.kind}`);
        if (status === 0) model.answered(change, machine.tick());
        else if (status === ENOTSUP && request.fastZero) model.refused(change);
        else {
          if (status !== ENOSPC || !span.cut) this.operations.mayFail(status, step.kind);
          model.failed(change);
        }
      },
    );
  }

  read(step: StepOf<'read'>, volume: Volume, model: VolumeModel): object | null {
    const { machine } = this.operations;
    const range = clip(step, model.safeBytes);
    if (range.length === 0) return null;
    const pin = { from: machine.now };
    model.pins.add(pin);
    const span = model.reaches(range.offset + range.length);
    const heads = model.heads.slice();
    const request = requestOf(range);
    return this.operations.ask(
      request,
      (asked) => volume.read(asked),
      (status) => {
        model.pins.delete(pin);
        model.spans.delete(span);
        if (status === EINVAL && span.cut) return;
        if (status !== 0) this.operations.mayFail(status, 'read');
        // Across a restore or a resize any mixture of before and after is allowed.
        else if (heads.length === 1 && model.heads.length === 1 && heads[0] === model.head) {
          checkRead(model.head, range, request.bytes, pin.from);
        }
      },
    );
  }

  flush(volume: Volume, model: VolumeModel): object {
    const { machine } = this.operations;
    const at = machine.tick();
    const failed = volume.failed;
    return this.operations.ask(
      requestOf({ offset: 0, length: 0 }),
      (asked) => volume.flush(asked),
      (status) => {
        wrongUnless(status !== 0 || !failed, 'a volume that failed answered a flush');
        if (status === 0) model.flushed(at);
        else this.operations.mayFail(status, 'flush');
      },
    );
  }

  resize(step: StepOf<'resize'>, volume: Volume, model: VolumeModel): object | null {
    const sizeBytes = Math.max(1, step.blocks) * BLOCK;
    if (model.headIsBusy || sizeBytes === model.head.sizeBytes) return null;
    const pending = model.beginResize(sizeBytes);
    return this.operations.operate(
      volume.resize(sizeBytes),
      () => {
        wrongUnless(volume.sizeBytes === sizeBytes, 'a resize was answered, and is not there');
        model.endHead(pending, true);
      },
      (error) => {
        this.operations.mayThrow(error, 'resize');
        model.endHead(pending, volume.failed ? null : false);
      },
    );
  }
}
