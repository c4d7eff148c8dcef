/** A verb of a running node, with the options that they all take. */
import type { Command } from 'commander';

/** Adds `signature` (`create <name> <size>`) to `parent`. */
export function leaf(parent: Command, signature: string, description: string): Command {
  return parent
    .command(signature)
    .description(`${description.charAt(0).toUpperCase()}${description.slice(1)}.`)
    .summary(description)
    .option('--control <address>', 'the node: host:port or unix:PATH (or set BLOCKFERRY_CONTROL)')
    .option('--json', 'print JSON');
}
