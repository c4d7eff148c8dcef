/**
 * The volumes of a node as NBD clients see them: under the operator's rules.
 *
 * Invariants:
 * - Who may not have an export hears the same as of a name that is none; the log says why.
 * - The default export ('') tells nobody of a volume that the list would not: it is the only one that the client
 *   may have, those after STARTTLS included, and hidden ones and unlisted nodes left out.
 * - New rules are for handshakes that follow: a client that is connected keeps what it was given.
 */
import type { BlockDevice } from '../io/device.ts';
import { judgeAccess, needsTls } from '../nbd/access.ts';
import type { ClientFacts, ExportAccess, ExportSource, NbdExport } from '../nbd/server.ts';
import { policyOf, type ExportRules } from './export-rules.ts';

/** The devices that there are now, by name. */
export type Devices = ReadonlyMap<string, BlockDevice>;

const UNKNOWN: ExportAccess = Object.freeze({ kind: 'unknown' });

export class VolumeExports implements ExportSource {
  private readonly devices: Devices;
  private rules: ExportRules;

  constructor(devices: Devices, rules: ExportRules) {
    this.devices = devices;
    this.rules = rules;
  }

  /** In force from the next handshake on. */
  setRules(rules: ExportRules): void {
    this.rules = rules;
  }

  /** What the rules say of a name, whoever asks. */
  describe(name: string): { readOnly: boolean; hidden: boolean; needsTls: boolean } {
    const policy = policyOf(this.rules, name);
    const device = this.devices.get(name);
    return {
      readOnly: policy.readOnly || device?.readOnly === true,
      hidden: policy.hidden,
      needsTls: needsTls(policy),
    };
  }

  find(name: string, client: ClientFacts): ExportAccess {
    const device = this.devices.get(name);
    if (device !== undefined) return this.judge(name, device, client);
    return name === '' ? this.findDefault(client) : UNKNOWN;
  }

  list(client: ClientFacts): NbdExport[] | null {
    if (!this.rules.list) return null;
    return this.shown(client).flatMap((access) =>
      access.kind === 'granted' ? [access.export] : [],
    );
  }

  private findDefault(client: ClientFacts): ExportAccess {
    if (!this.rules.list) return UNKNOWN;
    const [only, ...others] = this.shown(client);
    return only === undefined || others.length > 0 ? UNKNOWN : only;
  }

  /** What is not hidden and not denied, sorted by name. */
  private shown(client: ClientFacts): ExportAccess[] {
    const names = [...this.devices.keys()].toSorted();
    return names.flatMap((name) => {
      const device = this.devices.get(name);
      if (device === undefined || policyOf(this.rules, name).hidden) return [];
      const access = this.judge(name, device, client);
      return access.kind === 'denied' ? [] : [access];
    });
  }

  private judge(name: string, device: BlockDevice, client: ClientFacts): ExportAccess {
    const policy = policyOf(this.rules, name);
    const verdict = judgeAccess(policy, client);
    if (verdict === 'tls-required') return { kind: verdict };
    if (verdict !== 'granted') return { kind: 'denied', reason: verdict.denied };
    const readOnly = policy.readOnly || device.readOnly;
    return { kind: 'granted', export: { name, device, readOnly } };
  }
}
