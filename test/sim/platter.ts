/**
 * The files and directories of a simulated machine, whatever process uses them. What became of a directory is durable
 * when it was synced; of the rest a power cut leaves, for each directory, the first few changes in their order.
 */
import type { Dice } from '../../scripts/fuzz/dice.ts';
import { Inode, type Survival } from './content.ts';

type Entry = Inode | Directory;
type EntryChange =
  | { readonly kind: 'put'; readonly name: string; readonly entry: Entry }
  | { readonly kind: 'gone'; readonly name: string }
  | { readonly kind: 'moved'; readonly name: string; readonly to: string };

function applyTo(entries: Map<string, Entry>, change: EntryChange): void {
  if (change.kind === 'put') {
    entries.set(change.name, change.entry);
    return;
  }
  const entry = entries.get(change.name);
  entries.delete(change.name);
  if (change.kind === 'moved' && entry !== undefined) entries.set(change.to, entry);
}

export class Directory {
  entries = new Map<string, Entry>();
  private durable = new Map<string, Entry>();
  private changes: EntryChange[] = [];

  change(change: EntryChange): void {
    applyTo(this.entries, change);
    this.changes.push(change);
  }

  sync(): void {
    this.durable = new Map(this.entries);
    this.changes = [];
  }

  afterPowerCut(dice: Dice, survival: Survival): Directory {
    const left = new Map(this.durable);
    const count =
      survival.percent === 100 ? this.changes.length : dice.below(this.changes.length + 1);
    const kept = survival.percent === 0 ? 0 : count;
    for (const change of this.changes.slice(0, kept)) applyTo(left, change);
    const after = new Directory();
    for (const [name, entry] of left) after.entries.set(name, entry.afterPowerCut(dice, survival));
    after.sync();
    return after;
  }
}

export function failure(code: string, errno: number, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code, errno: -errno });
}

const ENOENT = 2;

export class Platter {
  readonly root: Directory;
  /** 32 digits; another one after a power cut. */
  readonly bootId: string;
  /** Pages that there are. */
  pagesMax = Infinity;

  constructor(dice: Dice, root = new Directory()) {
    this.root = root;
    this.bootId = dice.bytes(16).toString('hex');
  }

  afterPowerCut(dice: Dice): Platter {
    const percent = dice.weighted([
      [2, 0],
      [2, 100],
      [3, 50],
      [1, 10],
      [1, 90],
    ]);
    const per = dice.pick(['sector', 'sector', 'write', 'file', 'early', 'late'] as const);
    return new Platter(dice, this.root.afterPowerCut(dice, { per, percent }));
  }

  pagesUsed(directory = this.root): number {
    let pages = 0;
    for (const entry of directory.entries.values()) {
      if (entry instanceof Directory) pages += this.pagesUsed(entry);
      else pages += entry.cache.pages.size + entry.cache.reserved.size;
    }
    return pages;
  }

  find(path: string): Entry | null {
    let entry: Entry | undefined = this.root;
    for (let at = 1; at > 0;) {
      if (!(entry instanceof Directory)) return null;
      const end = path.indexOf('/', at);
      entry = entry.entries.get(path.slice(at, end < 0 ? undefined : end));
      at = end + 1;
    }
    return entry ?? null;
  }

  file(path: string): Inode {
    const entry = this.find(path);
    if (!(entry instanceof Inode)) throw failure('ENOENT', ENOENT, path);
    return entry;
  }

  directory(path: string): Directory {
    const entry = this.find(path);
    if (!(entry instanceof Directory)) throw failure('ENOENT', ENOENT, path);
    return entry;
  }

  place(path: string): { directory: Directory; name: string } {
    const at = path.lastIndexOf('/');
    const directory = at === 0 ? this.root : this.directory(path.slice(0, at));
    return { directory, name: path.slice(at + 1) };
  }
}
