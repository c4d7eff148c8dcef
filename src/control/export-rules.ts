/**
 * What the operator said of exports: one rule for each name, and one for all others.
 *
 * A rule that could never let anybody in is refused, and so is one for a name that no volume can have. A volume
 * of that name need not exist yet.
 */
import { errorText } from '../io/errors.ts';
import { validateVolumeName } from '../volume/store.ts';
import type { ConfigFile } from './config-file.ts';
import type { ExportValues } from './config-schema.ts';
import type { TlsConfig } from './tls-config.ts';

/** The name that stands for every volume without a rule of its own. */
export const ALL_OTHERS = '*';

export interface ExportRule {
  readonly readOnly: boolean;
  /** Served to who knows the name; neither listed nor the default export. */
  readonly hidden: boolean;
  /** Networks and `unix`; null for everyone. */
  readonly allow: readonly string[] | null;
  readonly tlsRequired: boolean;
  /** Subjects of certificates, and `psk:USER`; null for everyone. */
  readonly subjects: readonly string[] | null;
}

export interface ExportRules {
  /** Whether clients may ask for the names. */
  readonly list: boolean;
  readonly named: ReadonlyMap<string, ExportRule>;
  readonly others: ExportRule;
}

/** Everyone may read and write. */
export const EXPORT_RULE_DEFAULT: ExportRule = Object.freeze({
  readOnly: false,
  hidden: false,
  allow: null,
  tlsRequired: false,
  subjects: null,
});

export function ruleOf(rules: ExportRules, name: string): ExportRule {
  return rules.named.get(name) ?? rules.others;
}

/** @throws BlockferryError CONFIG_INVALID */
export function resolveExports(
  file: ConfigFile,
  node: { list: boolean; tls: TlsConfig },
): ExportRules {
  const named = new Map<string, ExportRule>();
  for (const [name, values] of file.exports) {
    if (name !== ALL_OTHERS) checkName(file, name);
    checkReachable(file, { name, values, tls: node.tls });
    named.set(name, ruleFrom(values));
  }
  const others = named.get(ALL_OTHERS) ?? EXPORT_RULE_DEFAULT;
  named.delete(ALL_OTHERS);
  return { list: node.list, named, others };
}

function ruleFrom(values: ExportValues): ExportRule {
  return {
    readOnly: values.read_only ?? false,
    hidden: values.hidden ?? false,
    allow: values.allow ?? null,
    tlsRequired: values.tls !== undefined,
    subjects: values.subjects ?? null,
  };
}

function checkName(file: ConfigFile, name: string): void {
  try {
    validateVolumeName(name);
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
