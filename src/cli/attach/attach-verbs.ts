/** `blockferry attach` and `blockferry detach`: their options and pages. */
import type { Command } from 'commander';
import type { AttachFlags, DetachFlags } from './attach-run.ts';
import { leaf } from '../verb.ts';

const collect = (value: string, before: readonly string[] | undefined): string[] => [
  ...(before ?? []),
  value,
];

export function addAttachVerbs(program: Command): void {
  leaf(program, 'attach [volume] [device]', 'make a volume a block device of this machine')
    .usage('[options] VOLUME[@SNAPSHOT] [/dev/nbdN]')
    .option('--uri <uri>', 'where the volume is (default: as the node says); see below', collect)
    .option('--connections <n>', 'connections to the server (default: 1)')
    .option('--persist', 'wait for a server that goes away, and connect again; I/O does not fail')
    .option('--timeout <s>', 'send an unanswered request again after this time')
    .option(
      '--wait <s>',
      'with --persist: fail I/O after this time without a server (default: 1 day)',
    )
    .option('--foreground', 'with --persist: stay here, for a service manager')
    .option('--print', 'print the command of nbd-client that does it, and do nothing')
    .option('--list', 'list what is attached')
    .addHelpText(
      'after',
      `
Needs root and the kernel module nbd (modprobe nbd). Without a device the first free one is taken.
Without --persist it is nbd-client that attaches (Debian: apt install nbd-client).

With --persist a process stays and connects again when the server was restarted, or the address moved
to another node. Several --uri are tried in turn, and only one that takes writes is taken: the mirror,
once it was promoted. --timeout is 10 s then: above what a synchronous mirror may delay a write.

  blockferry attach demo
  blockferry attach demo /dev/nbd3 --uri nbd://host1/demo --persist
  blockferry attach orders --persist --uri nbd://alpha/orders --uri nbd://beta/orders
  blockferry attach demo@monday
  blockferry attach --list

Services, fstab, failover, timeouts, databases: docs/operating/clients.md.`,
    )
    .action(async (volume: string | undefined, device: string | undefined, flags: AttachFlags) => {
      const { attach } = await import('./attach-run.ts');
      await attach(volume, device, flags);
    });

  leaf(program, 'detach <volume-or-device>', 'take a block device of this machine away')
    .option('--force', 'also while it is mounted: what was not written is lost')
    .addHelpText(
      'after',
      `
  blockferry detach demo
  blockferry detach /dev/nbd3`,
    )
    .action(async (target: string, flags: DetachFlags) => {
      const { detach } = await import('./attach-run.ts');
      await detach(target, flags);
    });
}
