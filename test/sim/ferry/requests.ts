/** Requests of the simulation: their bytes are memory of the history. */
import { inlineExaminer, type Examiner } from '../../../src/workers/examiner.ts';
import { TestRequest, type Range } from '../../volume/support/request.ts';
import { takeBytes } from '../arena.ts';

export class SimRequest extends TestRequest {
  protected override memory(length: number): Buffer {
    return takeBytes(length);
  }
}

/** A request that carries nothing, or has rubbish where its answer comes to be. */
export function readOf({ offset, length }: Range): SimRequest {
  return writeOf(offset, takeBytes(length).fill(0xaa));
}

/** The bytes are its own from now on. */
export function writeOf(offset: number, bytes: Buffer): SimRequest {
  const request = new SimRequest();
  request.offset = offset;
  request.length = bytes.length;
  request.buffer = bytes;
  return request;
}

export const simExaminer: Examiner = {
  ...inlineExaminer,
  allocate: (bytes) => takeBytes(bytes).fill(0),
};
