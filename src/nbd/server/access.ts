/**
 * Who may use an export, decided from what is known of the client.
 *
 * Invariants:
 * - Whoever is kept out by its address is kept out before anything is said of TLS.
 * - A list of subjects asks for TLS: without it nobody has one.
 */
import { AddressList } from './address-list.ts';
import type { ClientFacts } from './exports.ts';
import { SubjectList } from './subject-list.ts';
import { quoted } from '../handshake/option-codec.ts';

export { AddressList, SubjectList };

/** What an operator demands of the clients of one export. */
export interface ExportPolicy {
  readonly readOnly: boolean;
  /** Not listed; whoever knows the name may use it. */
  readonly hidden: boolean;
  readonly tls: 'any' | 'required';
  /** Null: from everywhere. */
  readonly allow: AddressList | null;
  /** Null: everybody. */
  readonly subjects: SubjectList | null;
}

export type Verdict = 'granted' | 'tls-required' | { readonly denied: string };

/** `denied` says why, for the log alone: the client must not learn that there is such an export. */
export function judgeAccess(
  policy: Pick<ExportPolicy, 'tls' | 'allow' | 'subjects'>,
  { ip, tls }: ClientFacts,
): Verdict {
  const { allow, subjects } = policy;
  if (allow !== null && !allow.has(ip)) {
    return { denied: `${ip ?? 'a unix socket'} is not among its addresses` };
  }
  if (tls === null) return needsTls(policy) ? 'tls-required' : 'granted';
  if (subjects !== null && !subjects.has(tls))
    return { denied: `${whoIs(tls)} is not among its subjects` };
  return 'granted';
}

export const needsTls = ({ tls, subjects }: Pick<ExportPolicy, 'tls' | 'subjects'>): boolean =>
  tls === 'required' || subjects !== null;

function whoIs({ kind, identity }: NonNullable<ClientFacts['tls']>): string {
  if (kind === 'anonymous') return 'a client that showed no certificate';
  return `${kind === 'psk' ? 'PSK user' : 'subject'} ${quoted(identity)}`;
}
