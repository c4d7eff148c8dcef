/**
 * The `blockferry` command: parses the line, runs one verb, sets the exit code
 * (docs/reference/cli.md).
 */
import { Command, CommanderError } from 'commander';
import { VERSION } from '../control/version.ts';
import { addAttachVerbs } from './attach/attach-verbs.ts';
import { addCheckVerb } from './check.ts';
import { EXIT_FAILED, EXIT_OK, EXIT_USAGE, reportError } from './context.ts';
import { oneLine } from './render/format.ts';
import { addMirrorVerbs } from './mirror-verbs.ts';
import { addFailbackVerb } from './failback-verb.ts';
import { addPromoteVerb } from './promote-verb.ts';
import { addReloadVerb } from './reload.ts';
import { addServeVerb } from './serve.ts';
import { addSnapshotVerbs } from './snapshot-verbs.ts';
import { addSwitchoverVerbs } from './switchover-verbs.ts';
import { addStatusVerbs } from './status-verbs.ts';
import { addVolumeVerbs } from './volume-verbs.ts';

const OVERVIEW = `
A first session:
  blockferry serve --data /srv/blockferry                  start a node
  blockferry volume create demo 10G                        make a volume
  blockferry snapshot create demo clean                    keep its content; go back any time
  blockferry mirror add demo nbd://host2:10809/demo        keep a remote copy of it
  blockferry attach demo /dev/nbd0                         attach it (as root)
  blockferry status --watch                                watch the mirror

Every verb but serve and check --data talks to a running node: --control ADDR, or BLOCKFERRY_CONTROL,
or the socket of a node that runs with default settings. ADDR is host:port or unix:PATH.

Exit codes: 0 done, 1 refused or failed (one line on stderr says why and what to do), 2 usage.`;

/** All verbs, ready to parse. */
export function createProgram(): Command {
  const program = new Command('blockferry')
    .description(
      'Network block devices (NBD) that keep a remote, write-ordered copy of themselves.',
    )
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'explain a command')
    .addHelpText('after', OVERVIEW)
    .configureHelp({ showGlobalOptions: false })
    .configureOutput({
      outputError: (text, write) => {
        const message = oneLine(
          text
            .trim()
            .replace(/^error: /, '')
            .replace(/\.$/, ''),
        );
        write(`blockferry: ${message}; see blockferry --help\n`);
      },
    })
    .exitOverride();
  addServeVerb(program);
  addVolumeVerbs(program);
  addSnapshotVerbs(program);
  addMirrorVerbs(program);
  addPromoteVerb(program);
  addFailbackVerb(program);
  addSwitchoverVerbs(program);
  addAttachVerbs(program);
  addStatusVerbs(program);
  addReloadVerb(program);
  addCheckVerb(program);
  return program;
}

/** Runs the command line of this process. The entry point of bin/blockferry.cjs. */
export async function run(): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', endOfReader);
  try {
    await createProgram().parseAsync(process.argv);
  } catch (error) {
    process.exitCode = exitCodeOf(error);
  }
}

function exitCodeOf(error: unknown): number {
  if (!(error instanceof CommanderError)) return reportError(error);
  // Help and version were asked for; a verb that was left out is usage.
  return error.exitCode === 0 ? EXIT_OK : EXIT_USAGE;
}

/** Who read our output is gone (`| head`): nothing is left to do for the verbs; a node serves on. */
function endOfReader(error: NodeJS.ErrnoException): void {
  if (process.argv[2] === 'serve') return;
  process.exit(error.code === 'EPIPE' ? EXIT_OK : EXIT_FAILED);
}
