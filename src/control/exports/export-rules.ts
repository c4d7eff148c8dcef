/**
 * What the operator said of exports: one rule for each name, and one for all others.
 *
 * A rule that could never let anybody in is refused, and so is one for a name that no volume and no snapshot can
 * have. A volume of that name need not exist yet.
 */
import { errorText } from '../../io/errors.ts';
import { AddressList, SubjectList, type ExportPolicy } from '../../nbd/server/access.ts';
import { validateSnapshotName, validateVolumeName } from '../../volume/store.ts';
import type { ConfigFile } from '../config/config-file.ts';
import type { ExportValues } from '../config/config-schema.ts';
import { splitExportName } from './export-name.ts';
import type { TlsConfig } from '../config/tls-config.ts';

/** The name that stands for every volume without a rule of its own. */
export const ALL_OTHERS = '*';

export interface ExportRules {
  /** Whether clients may ask for the names. */
  readonly list: boolean;
  readonly named: ReadonlyMap<string, ExportPolicy>;
  readonly others: ExportPolicy;
}

/** Everyone may read and write. */
export const EXPORT_POLICY_DEFAULT: ExportPolicy = Object.freeze({
  readOnly: false,
  hidden: false,
  tls: 'any',
  allow: null,
  subjects: null,
});

/** Of a volume, or a snapshot as `volume@snapshot`: that has the rule of its volume if it has none of its own. */
export function policyOf(rules: ExportRules, name: string): ExportPolicy {
  const { named, others } = rules;
  return named.get(name) ?? named.get(splitExportName(name).volume) ?? others;
}

/** @throws BlockferryError CONFIG_INVALID */
export function resolveExports(
  file: ConfigFile,
  node: { list: boolean; tls: TlsConfig },
): ExportRules {
  const named = new Map<string, ExportPolicy>();
  for (const [name, values] of file.exports) {
    if (name !== ALL_OTHERS) checkName(file, name);
    checkReachable(file, { name, values, tls: node.tls });
    named.set(name, policyFrom(file, name, values));
  }
  const others = named.get(ALL_OTHERS) ?? EXPORT_POLICY_DEFAULT;
  named.delete(ALL_OTHERS);
  return { list: node.list, named, others };
}

function policyFrom(file: ConfigFile, name: string, values: ExportValues): ExportPolicy {
  const { read_only: readOnly, hidden, tls, allow, subjects } = values;
  const listed = <T>(key: string, texts: readonly string[], parse: Parse<T>): T => {
    for (const [index, text] of texts.entries()) {
      try {
        parse([text]);
      } catch (error) {
        throw file.fault(['export', name, key, index], errorText(error));
      }
    }
    return parse(texts);
  };
  return {
    readOnly: readOnly ?? false,
    hidden: hidden ?? false,
    tls: tls ?? 'any',
    allow: allow === undefined ? null : listed('allow', allow, (texts) => AddressList.parse(texts)),
    subjects:
      subjects === undefined
        ? null
        : listed('subjects', subjects, (texts) => SubjectList.parse(texts)),
  };
}

type Parse<T> = (texts: readonly string[]) => T;

function checkName(file: ConfigFile, name: string): void {
  try {
    const { volume, snapshot } = splitExportName(name);
    validateVolumeName(volume);
    if (snapshot !== null) validateSnapshotName(snapshot);
  } catch (error) {
    throw file.fault(['export', name], errorText(error));
  }
}

/** A rule that asks for what the node does not offer shuts everyone out: surely not what was meant. */
function checkReachable(
  file: ConfigFile,
  { name, values, tls }: { name: string; values: ExportValues; tls: TlsConfig },
): void {
  const fault = (key: string, why: string): Error => file.fault(['export', name, key], why);
  if (values.tls !== undefined && tls.mode === 'off') throw fault('tls', 'TLS is off');
  for (const subject of values.subjects ?? []) {
    if (tls.mode === 'off') throw fault('subjects', 'TLS is off');
    const isPsk = subject.startsWith('psk:');
    if (isPsk && tls.files.pskFile === undefined) {
      throw fault('subjects', `${JSON.stringify(subject)}: there are no pre-shared keys`);
    }
    if (!isPsk && tls.files.clientCa === undefined) {
      throw fault('subjects', `${JSON.stringify(subject)}: clients are not asked for certificates`);
    }
  }
}
