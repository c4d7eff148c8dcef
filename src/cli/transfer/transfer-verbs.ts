/** `blockferry volume import` and `blockferry volume export`: their options and pages. */
import type { Command } from 'commander';
import { leaf } from '../verb.ts';
import type { TransferFlags } from './transfer-run.ts';

const SHARED = `
FILE is a raw image, or one of a format that qemu-img knows (qcow2, vmdk, vdi, vhdx, ...), which then has
to be installed. URI is nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH.

Holes stay holes. A copy of raw images and exports that was interrupted goes on where it was when the same
command is run again. Progress is a bar on a terminal, lines elsewhere, and one JSON object a line with
--json.`;

export function addTransferVerbs(volume: Command): void {
  transferVerb(volume, 'import <name> <file-or-uri>', 'fill a volume from a file or an NBD export')
    .option('--force', 'replace what the volume holds')
    .addHelpText(
      'after',
      `
A volume that does not exist is made, as large as the source. A larger one is zeroes behind it.
${SHARED}

  blockferry volume import demo /srv/images/demo.raw
  blockferry volume import demo debian-12.qcow2
  blockferry volume import demo nbd://host2:10809/disk`,
    )
    .action(async (name: string, from: string, flags: TransferFlags) => {
      const { importVolume } = await import('./transfer-import.ts');
      await importVolume(name, from, flags);
    });

  transferVerb(
    volume,
    'export <name[@snapshot]> <file-or-uri>',
    'copy a volume or a snapshot to a file or an NBD export',
  )
    .option('--force', 'replace the file, or what the target holds')
    .addHelpText(
      'after',
      `
The end of the name of a file says its format (disk.qcow2), unless --format does. A volume that is in use
changes while it is copied: export a snapshot instead.
${SHARED}

  blockferry volume export demo /backup/demo.raw
  blockferry volume export demo@monday /backup/monday.qcow2
  blockferry volume export demo nbd://host2:10809/disk`,
    )
    .action(async (name: string, to: string, flags: TransferFlags) => {
      const { exportVolume } = await import('./transfer-export.ts');
      await exportVolume(name, to, flags);
    });
}

/** Loaded only when they run: other verbs need nothing of them. */
function transferVerb(volume: Command, signature: string, description: string): Command {
  return leaf(volume, signature, description)
    .option('--format <format>', 'format of the file: raw, qcow2, or another one of qemu-img')
    .option('--restart', 'begin again, whatever an earlier run copied')
    .option('--nbd <address>', 'reach the NBD server of the node here: host:port or unix:PATH');
}
