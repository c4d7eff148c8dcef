/** Snapshots of a node's volumes, by the command line that an operator types. */
import { join } from 'node:path';
import { readExport } from './compare.ts';
import type { TestNode } from './node.ts';
import { LIBNBD_SCRIPTS } from './libnbd.ts';
import { start, type ManagedProcess } from './process.ts';
import type { Scope } from './scope.ts';

/** Of one volume, or of several at one instant. */
export async function takeSnapshot(
  node: TestNode,
  volumes: string | readonly string[],
  name: string,
): Promise<void> {
  await node.cli(['snapshot', 'create', ...[volumes].flat(), name]);
}

export async function restoreSnapshot(node: TestNode, volume: string, name: string): Promise<void> {
  await node.cli(['snapshot', 'restore', `${volume}@${name}`]);
}

export async function deleteSnapshot(node: TestNode, volume: string, name: string): Promise<void> {
  await node.cli(['snapshot', 'delete', `${volume}@${name}`]);
}

/** The export of a snapshot, over the unix socket. */
export function snapshotUri(node: TestNode, volume: string, name: string): string {
  return node.uri(`${volume}@${name}`);
}

/** Copies a snapshot out with nbdcopy and returns the file. */
export async function copyOut(
  node: TestNode,
  volume: string,
  name: string,
  dir: string,
): Promise<string> {
  const file = join(dir, `${volume}-${name}.img`);
  await readExport(snapshotUri(node, volume, name), file);
  return file;
}

/** A script of test/clients/libnbd that goes on until it is told to stop or loses its server. */
export function startLibnbd(scope: Scope, script: string, args: readonly string[]): ManagedProcess {
  const file = join(LIBNBD_SCRIPTS, script);
  return start(scope, '/usr/bin/python3', ['-B', file, ...args]);
}
