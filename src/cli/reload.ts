/** `blockferry reload` */
import type { Command } from 'commander';
import type { ReloadReport } from '../control/status.ts';
import { clientOf, print, printJson, type SharedOptions } from './context.ts';
import { leaf } from './verb.ts';

export function addReloadVerb(program: Command): void {
  leaf(
    program,
    'reload',
    'read certificates, keys, rules for exports and the bandwidth limit again',
  )
    .addHelpText(
      'after',
      `
The node reads its configuration file and the files of [tls] again. Connections that follow are served
by them; those that are there keep what they have. If anything is wrong, nothing changes, and the exit
code is 1. SIGHUP does the same. Other keys need a restart; the answer names those that changed.`,
    )
    .action(reload);
}

async function reload(options: SharedOptions): Promise<void> {
  const report = await clientOf(options).call<ReloadReport>('POST', '/v1/reload', {});
  if (options.json) return printJson(report);
  print('reloaded: TLS, rules for exports and the bandwidth limit\n');
  const { restart_needed: waiting } = report;
  if (waiting.length > 0)
    print(`changed too, but only a restart applies it: ${waiting.join(', ')}\n`);
}
