/** What was asked of a node and not answered: each is heard once, and never after its process ended. */
import { BlockferryError } from '../../../src/io/errors.ts';
import { Wrong } from '../failure.ts';
import type { Node } from './node.ts';
import type { Process } from './world.ts';

interface Running {
  readonly process: Process | null;
  readonly what: string;
}

export class Operations {
  private readonly running = new Set<Running>();
  private heard: { readonly thrown: unknown } | null = null;

  /** What was not answered. */
  get names(): string[] {
    return [...this.running].map(({ what }) => what);
  }

  get count(): number {
    return this.running.size;
  }

  /** `done` or `refused` is called unless the process of `node` ended before. */
  operate<Result>(
    node: Node,
    what: string,
    promise: Promise<Result>,
    hooks: { done?: (result: Result) => void; refused?: (error: unknown) => void } = {},
  ): void {
    const own = { process: node.process, what };
    this.running.add(own);
    const end = (run: () => void): void => {
      // What a process says after its end nobody hears.
      if (this.running.delete(own)) this.hear(run);
    };
    promise.then(
      (result) => end(() => hooks.done?.(result)),
      (error: unknown) => end(() => (hooks.refused ?? refusal(node, what))(error)),
    );
  }

  ended(process: Process | null): void {
    for (const each of this.running) if (each.process === process) this.running.delete(each);
  }

  /** Runs what says what it finds wrong at the next `check`. */
  hear(run: () => void): void {
    try {
      run();
    } catch (thrown) {
      this.heard ??= { thrown };
    }
  }

  check(): void {
    if (this.heard === null) return;
    const { thrown } = this.heard;
    this.heard = null;
    throw thrown;
  }
}

/** Errors that verbs may have for reasons of the other side, or of this moment. */
const EXCUSED: readonly string[] = [
  'SHUTTING_DOWN',
  'MIRROR_UNREACHABLE',
  'MIRROR_REFUSED',
  'MIRROR_STATE',
  'MIRROR_EXISTS',
  'MIRROR_NOT_FOUND',
  'PEER_REFUSED',
  'LINK_LOST',
  'LINK_PROTOCOL',
];

export function refusal(node: Node, what: string): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof BlockferryError)) throw error;
    node.note(`${what}: ${error.line}`);
    if (EXCUSED.includes(error.code) || node.troubled) return;
    throw new Wrong(`${what} was refused for no reason: ${error.line}`);
  };
}
