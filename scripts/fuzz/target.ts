/** What a target of the fuzzer is, and what it reports. */

export interface Failure {
  readonly error: Error;
  /** The case, as small as it could be made, in lines. */
  readonly details: string;
}

export interface Target {
  readonly name: string;
  /** Plays one iteration; null when all went well. Throws only when nothing more can be played. */
  iterate(seed: number, iteration: number): Promise<Failure | null>;
  /** What is to be said of the run so far, in a few words. */
  summary(): string;
  /** Ends what the target started. Throws when something is wrong at the end. */
  close(): Promise<void>;
}

/** What went wrong, without the numbers of the case. */
export const kindOf = ({ message }: Error): string =>
  message.replaceAll(/0x[0-9a-f]+|[0-9]+/g, '#').slice(0, 60);
