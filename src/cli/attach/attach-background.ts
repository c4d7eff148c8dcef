/**
 * Runs a keeper as a process of its own, and comes back when the device is there.
 *
 * Invariants: what keeps the device from being attached is said here, with the exit code that goes with it; the keeper
 * does not hold this terminal.
 */
import { spawn } from 'node:child_process';
import { EXIT_FAILED, print, printJson } from '../context.ts';

interface Attached {
  readonly device: string;
  readonly uri: string;
}

/** The command line of this process is the keeper's, but for how it runs. */
export async function keepInBackground(json: boolean): Promise<void> {
  // In a service the keeper says to the journal what it loses and finds.
  const inService = process.env['JOURNAL_STREAM'] !== undefined;
  const args = [...process.execArgv, ...process.argv.slice(1), '--foreground', '--json'];
  const keeper = spawn(process.execPath, args, {
    detached: true,
    stdio: ['ignore', 'pipe', inService ? 'inherit' : 'pipe'],
  });
  let said = '';
  let errors = '';
  keeper.stderr?.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const attached = await new Promise<Attached | number>((resolve, reject) => {
    keeper.on('error', reject);
    keeper.on('close', (code) => resolve(code ?? EXIT_FAILED));
    keeper.stdout?.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      if (said.includes('\n')) resolve(JSON.parse(said) as Attached);
    });
  });
  keeper.stdout?.destroy();
  keeper.stderr?.destroy();
  keeper.unref();
  if (typeof attached === 'number') {
    process.stderr.write(errors);
    process.exitCode = attached;
  } else if (json) printJson(attached);
  else
    print(
      `${attached.device} is attached to ${attached.uri}; process ${keeper.pid ?? ''} keeps it\n`,
    );
}
