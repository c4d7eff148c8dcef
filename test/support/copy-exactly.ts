/**
 * Copies a directory with every hole and every block of zeroes as it is. A process that was killed leaves files whose
 * extents are the blocks that it wrote; `cp` drops blocks of zeroes, or fills holes.
 */
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { nodeDisk } from '../../src/io/node-disk.ts';

const PIECE = 1024 * 1024;

export function copyExactly(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) copyExactly(source, target);
    else if (entry.isFile()) copyFile(source, target);
  }
}

function copyFile(source: string, target: string): void {
  const read = nodeDisk.open(source, { create: false });
  const write = nodeDisk.open(target, { create: true });
  try {
    write.truncateNow(read.sizeNow());
    const buffer = Buffer.alloc(PIECE);
    for (let run = read.dataAfter(0); run !== null; run = read.dataAfter(run.end)) {
      for (let at = run.start; at < run.end; at += PIECE) {
        const length = Math.min(PIECE, run.end - at);
        const got = read.readBlocking(buffer, 0, length, at);
        if (got !== length || write.writeNow(buffer, 0, length, at) < 0) {
          throw new Error(`${source} cannot be copied`);
        }
      }
    }
  } finally {
    read.closeNow();
    write.closeNow();
  }
}
