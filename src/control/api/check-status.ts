/** The report of a check in the words of the API and of `--json` (docs/operating/check.md). */
import { describeStep } from '../../volume/check/check-finding.ts';
import type { Finding, FindingCode, Severity } from '../../volume/check/check-finding.ts';
import type { RepairResult } from '../../volume/check/check-repair.ts';

export interface FindingStatus {
  readonly code: FindingCode;
  readonly severity: Severity;
  readonly place: {
    readonly file: string;
    readonly bytes: { readonly offset: number; readonly length: number } | null;
    readonly blocks: { readonly first: number; readonly count: number } | null;
  };
  readonly what: string;
  /** What a repair would do; null when nothing is proven to be right. */
  readonly repair: string | null;
}

export interface RepairStatus {
  readonly code: FindingCode;
  readonly place: FindingStatus['place'];
  readonly repair: string;
  /** Null: done. */
  readonly error: string | null;
}

export interface VolumeCheckStatus {
  readonly id: string;
  readonly name: string | null;
  readonly faults: number;
  readonly warnings: number;
  readonly findings: readonly FindingStatus[];
}

export function volumeCheckStatus(
  id: string,
  name: string | null,
  findings: readonly Finding[],
): VolumeCheckStatus {
  return {
    id,
    name,
    faults: countOf(findings, 'fault'),
    warnings: countOf(findings, 'warning'),
    findings: findings.map(findingStatus),
  };
}

export function findingStatus({ code, severity, place, what, repair }: Finding): FindingStatus {
  return { code, severity, place, what, repair: repair === null ? null : describeStep(repair) };
}

export function repairStatus({ finding, step, error }: RepairResult): RepairStatus {
  return { code: finding.code, place: finding.place, repair: describeStep(step), error };
}

export function countOf(findings: readonly { severity: Severity }[], severity: Severity): number {
  return findings.filter((found) => found.severity === severity).length;
}
