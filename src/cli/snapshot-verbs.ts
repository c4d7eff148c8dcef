/** `blockferry snapshot ...`: the verbs and their pages. */
import { Option, type Command } from 'commander';
import * as actions from './snapshot-actions.ts';
import { leaf } from './verb.ts';

const IN_USE = 'end the clients that use it, instead of leaving it alone';

export function addSnapshotVerbs(program: Command): void {
  const snapshot = program
    .command('snapshot')
    .summary('keep, restore, compare and delete states of a volume')
    .description(
      'Snapshots: states of a volume, kept under a name. VOLUME@NAME is also a read-only NBD export.',
    );
  addKeepingVerbs(snapshot);
  addContentVerbs(snapshot);
  addDiffVerb(snapshot);
  addMergeVerb(snapshot);
}

function addKeepingVerbs(snapshot: Command): void {
  leaf(snapshot, 'create <volume> <names...>', 'keep the present content of volumes')
    .usage('[options] VOLUME [VOLUME...] NAME')
    .addHelpText(
      'after',
      `
Takes no time and no space, whatever the size; space is taken by what is written afterwards. Several
volumes are kept at one instant. A snapshot is what a power cut would leave: flush a file system (sync,
fsfreeze) if it is to hold what was not flushed yet.

  blockferry snapshot create demo before-upgrade
  blockferry snapshot create data log before-upgrade`,
    )
    .action(actions.create);

  leaf(snapshot, 'list <volume>', 'list the snapshots of a volume, oldest first')
    .addHelpText(
      'after',
      `
  OWN     what deleting it would give back
  SHARED  what it shares with other snapshots, or with the volume

  blockferry snapshot list demo`,
    )
    .action(actions.list);

  leaf(snapshot, 'copy <volume@name> <copy>', 'give the content of a snapshot a second name')
    .addHelpText('after', '\n  blockferry snapshot copy demo@before-upgrade keep')
    .action(actions.copy);

  leaf(snapshot, 'clone <volume@name> <volume>', 'make a volume of its own of a snapshot')
    .addHelpText(
      'after',
      `
The new volume reads through the snapshot what it has not written itself: it takes no time and no space.
The snapshot, and its volume, stay as long as the clone does.

  blockferry snapshot clone demo@before-upgrade trial`,
    )
    .action(actions.clone);

  leaf(snapshot, 'delete <volume@name>', 'delete a snapshot')
    .option('--force', IN_USE)
    .addHelpText(
      'after',
      `
The name is gone at once; its space comes back as the merge goes on: blockferry snapshot merge VOLUME

  blockferry snapshot delete demo@before-upgrade`,
    )
    .action(actions.remove);
}

function addContentVerbs(snapshot: Command): void {
  leaf(snapshot, 'restore <volume@name>', 'give a volume the content of a snapshot')
    .option('--offset <bytes>', 'only from this byte on: 64M')
    .option('--length <bytes>', 'only so much: 4K')
    .option('--force', 'end the clients of the volume, instead of leaving it alone')
    .addHelpText(
      'after',
      `
What the volume held since is lost: take a snapshot of it first if you are not sure. Clients must have
detached, for what they have in memory would no longer fit. A volume with mirrors is left alone.
A range is of whole blocks of 4096 bytes; without one the volume as a whole is restored, in no time.

  blockferry snapshot restore demo@before-upgrade
  blockferry snapshot restore demo@before-upgrade --offset 1G --length 64M`,
    )
    .action(actions.restore);

  leaf(snapshot, 'refresh <volume@name>', 'let a snapshot take the present content of its volume')
    .option('--force', IN_USE)
    .addHelpText('after', '\n  blockferry snapshot refresh demo@hourly')
    .action(actions.refresh);

  leaf(snapshot, 'sync <volume@from> <volume@to>', 'let a snapshot take the content of another')
    .option('--force', IN_USE)
    .addHelpText('after', '\n  blockferry snapshot sync demo@hourly demo@daily')
    .action(actions.sync);
}

function addDiffVerb(snapshot: Command): void {
  leaf(
    snapshot,
    'diff <volume@from> [volume@to]',
    'print what changed since a snapshot, up to another or now',
  )
    .addHelpText(
      'after',
      `
A line for each range of blocks that were written in between: offset and length in bytes, and data or
zero (reads as zeroes now). The same bytes written again count as changed. With --json each line is a
JSON text.

  blockferry snapshot diff demo@monday demo@tuesday
  blockferry snapshot diff demo@monday | awk '{ sum += $2 } END { print sum }'`,
    )
    .action(actions.diff);
}

function addMergeVerb(snapshot: Command): void {
  leaf(snapshot, 'merge <volume>', 'show or steer the merging that follows a delete')
    .addOption(new Option('--pause', 'stop merging until --resume').conflicts('resume'))
    .addOption(new Option('--resume', 'go on, also after a failure'))
    .option('--limit <bytes>', 'at most so many bytes a second: 50M; off for no limit')
    .addHelpText(
      'after',
      `
What deleted snapshots alone held becomes one with its neighbours in the background. Pause and limit
hold until the node is restarted.

  blockferry snapshot merge demo
  blockferry snapshot merge demo --limit 50M`,
    )
    .action(actions.merge);
}
