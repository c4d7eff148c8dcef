/** What a history has started and what was answered: each is heard once, and never after its process ended. */
import { BlockferryError } from '../../src/io/errors.ts';
import { answered } from '../volume/support/request.ts';
import type { TestRequest } from '../volume/support/request.ts';
import { wrongUnless } from './failure.ts';
import type { Machine } from './machine.ts';

const ESHUTDOWN = 108;

export class Operations {
  readonly machine: Machine;
  /** What was started and not answered. */
  readonly running = new Set<object>();

  constructor(machine: Machine) {
    this.machine = machine;
  }

  ask(
    request: TestRequest,
    call: (request: TestRequest) => number,
    done: (status: number) => void,
  ): object {
    return this.operate(answered(request, call), done, (error) => {
      throw error;
    });
  }

  operate<Result>(
    promise: Promise<Result>,
    done: (result: Result) => void,
    refused: (error: unknown) => void,
  ): object {
    const { machine, running } = this;
    const own = {};
    const { disk } = machine;
    running.add(own);
    const end = (run: () => void) => {
      // What a process says after its end nobody hears.
      if (disk.ended !== null || machine.disk !== disk) return;
      running.delete(own);
      machine.hear(run);
    };
    const hear = async (): Promise<void> => {
      let said: () => void;
      try {
        const result = await promise;
        said = () => done(result);
      } catch (error) {
        said = () => refused(error);
      }
      end(said);
    };
    void hear();
    return own;
  }

  /** Only trouble with the disk, or a stop, excuses an error. */
  mayFail(status: number, what: string): void {
    if (status === ESHUTDOWN) return;
    wrongUnless(this.machine.troubled, `a ${what} was answered ${status} for no reason`);
  }

  mayThrow(error: unknown, what: string): void {
    if (!(error instanceof BlockferryError)) throw error;
    if (error.code === 'SHUTTING_DOWN') return;
    wrongUnless(this.machine.troubled, `${what} was refused for no reason: ${error.line}`);
  }

  /** Nothing else may come of it than this refusal. */
  async refusedWith(code: string, promise: Promise<unknown>): Promise<void> {
    try {
      await this.machine.done(promise, code);
    } catch (thrown) {
      const wanted = thrown instanceof BlockferryError && thrown.code === code;
      if (!wanted) this.mayThrow(thrown, `something that is refused with ${code}`);
      return;
    }
    wrongUnless(this.machine.disk.ended !== null, `nothing was refused with ${code}`);
  }
}
