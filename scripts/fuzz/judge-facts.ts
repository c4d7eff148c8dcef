/** What the judge is told of the server it judges, and how it says that something is wrong. */

/** The server did what the protocol, or its own promise, forbids. */
export class Fault extends Error {}

export function demand(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Fault(what);
}

/** A range of a device that answers `errno` (of NBD) instead of doing this. */
export interface BadRange {
  readonly operation: 'read' | 'write' | 'zero' | 'trim' | 'flush';
  readonly offset: number;
  readonly length: number;
  /** What the client must hear. */
  readonly error: number;
}

export interface JudgedExport {
  readonly name: string;
  readonly size: number;
  readonly readOnly: boolean;
  readonly description: string;
  /** Meta contexts that it offers. */
  readonly contexts: readonly string[];
  readonly badRanges: readonly BadRange[];
  /** Only under TLS. */
  readonly tlsOnly: boolean;
}

export interface ServerFacts {
  /** All that this client may use. */
  readonly exports: readonly JudgedExport[];
  /** What '' stands for; null if nothing. */
  readonly defaultName: string | null;
  readonly tls: 'none' | 'allowed' | 'required';
  readonly listing: boolean;
  /** There is a private option, which some may have. */
  readonly privately: boolean;
  /** Options in a handshake; one more may end it. */
  readonly optionsMax: number;
}

export const exportOf = (facts: ServerFacts, name: string): JudgedExport | null =>
  facts.exports.find((each) => each.name === (name === '' ? facts.defaultName : name)) ?? null;

export type Form = 'simple' | 'structured' | 'extended';

/** What a client may use after the handshake, in the judge's eyes. */
export interface JudgedSession {
  readonly exported: JudgedExport;
  readonly form: Form;
  /** Transmission flags as the client heard them. */
  readonly flags: number;
  /** Selected contexts by id. */
  readonly contexts: ReadonlyMap<number, string>;
  /** False where the protocol leaves open whether the selection holds. */
  readonly contextsCertain: boolean;
}
