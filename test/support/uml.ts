/**
 * A Linux kernel that runs as a process (package user-mode-linux) and has what this machine's kernel
 * lacks: the nbd module. Its root is the host's file system; its init is a script of ours.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TapNamespace } from './namespace.ts';
import { ManagedProcess } from './process.ts';
import type { Scope } from './scope.ts';

export interface GuestOptions {
  readonly namespace: TapNamespace;
  /** Script on the host that the guest runs as init. */
  readonly init: string;
  /** Where the script leaves its result and logs. */
  readonly dir: string;
  /** Words of the kernel command line; init sees them as its environment. */
  readonly parameters: Readonly<Record<string, string | number>>;
  readonly timeoutMs: number;
}

function readIfThere(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8') : '(not there)';
}

/** Boots the guest and waits for its end. Returns the line that its script wrote to `result`. */
export async function runGuest(scope: Scope, options: GuestOptions): Promise<string> {
  const { namespace, dir } = options;
  const [command = '', ...prefix] = namespace.prefix;
  const guest = new ManagedProcess(
    command,
    [
      ...prefix,
      'linux.uml',
      'mem=512M',
      'root=/dev/root',
      'rootfstype=hostfs',
      'rootflags=/',
      'rw',
      `init=${options.init}`,
      `uml_dir=${dir}`, // its console socket; the default is the home directory
      `vec0:transport=tap,ifname=${namespace.tap},depth=128,gro=1`,
      'con=null',
      'con0=null,fd:1',
      'panic=-1', // a panic ends the process instead of hanging it
      ...Object.entries(options.parameters).map(([key, value]) => `${key}=${value}`),
    ],
    // The kernel is several processes: a group of their own ends them all and nothing else.
    { group: true },
  );
  scope.defer('kill the guest kernel', () => guest.kill());
  scope.reportOnFailure('guest kernel', () => guest.output.slice(-8192));
  scope.reportOnFailure('guest script', () => readIfThere(join(dir, 'guest.log')));
  scope.reportOnFailure('guest dmesg', () => readIfThere(join(dir, 'guest-dmesg.log')));
  if (!(await guest.waitForExit(options.timeoutMs))) {
    await guest.kill();
    throw new Error(`the guest did not end within ${options.timeoutMs} ms`);
  }
  return readIfThere(join(dir, 'result')).trim();
}
