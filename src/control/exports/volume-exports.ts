/**
 * The volumes of a node and their snapshots as NBD clients see them: under the operator's rules.
 *
 * Invariants:
 * - Who may not have an export hears the same as of a name that is none; the log says why.
 * - The default export ('') tells nobody of a volume that the list would not: it is the only one that the client
 *   may have, those after STARTTLS included, and hidden ones and unlisted nodes left out. Snapshots do not count.
 * - A snapshot is under its own rule, else under that of its volume; it is listed only where its volume is.
 * - New rules are for handshakes that follow: a client that is connected keeps what it was given.
 */
import type { BlockDevice } from '../../io/device.ts';
import { judgeAccess, needsTls } from '../../nbd/server/access.ts';
import type {
  ClientFacts,
  ExportAccess,
  ExportSource,
  NbdExport,
} from '../../nbd/server/server.ts';
import { SNAPSHOTS_LISTED_MAX } from '../../io/limits.ts';
import { exportName } from './export-name.ts';
import { policyOf, type ExportRules } from './export-rules.ts';

/** What there is to export now. */
export interface Exported {
  /** Names, in any order. */
  volumes(): Iterable<string>;
  /** Names of the snapshots of a volume, in the order to list them. */
  snapshotsOf(volume: string): Iterable<string>;
  /** The device behind `volume` or `volume@snapshot`; null if there is none that can be attached. */
  find(name: string): BlockDevice | null;
}

const UNKNOWN: ExportAccess = Object.freeze({ kind: 'unknown' });

export class VolumeExports implements ExportSource {
  private readonly exported: Exported;
  private rules: ExportRules;

  constructor(exported: Exported, rules: ExportRules) {
    this.exported = exported;
    this.rules = rules;
  }

  /** In force from the next handshake on. */
  setRules(rules: ExportRules): void {
    this.rules = rules;
  }

  /** What the rules say of a name, whoever asks. */
  describe(name: string): { readOnly: boolean; hidden: boolean; needsTls: boolean } {
    const policy = policyOf(this.rules, name);
    const device = this.exported.find(name);
    return {
      readOnly: policy.readOnly || device?.readOnly === true,
      hidden: policy.hidden,
      needsTls: needsTls(policy),
    };
  }

  /** Why the rules keep a client from an export that is there, for the log; null when they do not. */
  whyDenied(name: string, client: ClientFacts): string | null {
    const verdict = judgeAccess(policyOf(this.rules, name), client);
    if (verdict === 'granted') return null;
    return verdict === 'tls-required' ? 'its rules require TLS' : verdict.denied;
  }

  find(name: string, client: ClientFacts): ExportAccess {
    const access = this.judge(name, client);
    if (access !== null) return access;
    return name === '' ? this.findDefault(client) : UNKNOWN;
  }

  /** Each volume, and after it its snapshots: SNAPSHOTS_LISTED_MAX of them in all. */
  list(client: ClientFacts): NbdExport[] | null {
    if (!this.rules.list) return null;
    const listed: NbdExport[] = [];
    let snapshots = 0;
    for (const access of this.shown(client)) {
      if (access.kind !== 'granted') continue;
      listed.push(access.export);
      const before = listed.length;
      this.listSnapshots(access.export.name, client, {
        into: listed,
        max: SNAPSHOTS_LISTED_MAX - snapshots,
      });
      snapshots += listed.length - before;
    }
    return listed;
  }

  private findDefault(client: ClientFacts): ExportAccess {
    if (!this.rules.list) return UNKNOWN;
    const [only, ...others] = this.shown(client);
    return only === undefined || others.length > 0 ? UNKNOWN : only;
  }

  private listSnapshots(
    volume: string,
    client: ClientFacts,
    { into, max }: { into: NbdExport[]; max: number },
  ): void {
    let left = max;
    for (const snapshot of this.exported.snapshotsOf(volume)) {
      if (left === 0) return;
      const name = exportName(volume, snapshot);
      if (policyOf(this.rules, name).hidden) continue;
      const access = this.judge(name, client);
      if (access?.kind !== 'granted') continue;
      into.push(access.export);
      left -= 1;
    }
  }

  /** Volumes that are not hidden and not denied, sorted by name. */
  private shown(client: ClientFacts): ExportAccess[] {
    return [...this.exported.volumes()].toSorted().flatMap((name) => {
      if (policyOf(this.rules, name).hidden) return [];
      const access = this.judge(name, client);
      return access === null || access.kind === 'denied' ? [] : [access];
    });
  }

  /** Null: there is nothing of that name. */
  private judge(name: string, client: ClientFacts): ExportAccess | null {
    const device = this.exported.find(name);
    if (device === null) return null;
    const policy = policyOf(this.rules, name);
    const verdict = judgeAccess(policy, client);
    if (verdict === 'tls-required') return { kind: verdict };
    if (verdict !== 'granted') return { kind: 'denied', reason: verdict.denied };
    const readOnly = policy.readOnly || device.readOnly;
    return { kind: 'granted', export: { name, device, readOnly } };
  }
}
