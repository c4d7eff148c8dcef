/**
 * A database under load: sqlite3 commits one transaction after another, each synced, and tells of each. After a failover the
 * database on the copy that is left must be whole, and in sync mode have every transaction that was told of. Beside the rollback journal
 * only EXTRA makes a commit durable before it is told: it is the removal of the journal, which FULL does not sync.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { run } from './process.ts';

export const DATABASE_NAME = 'database.sqlite';
const BETWEEN_MS = 15;
const ROW_BYTES = 3000;
const END_MS_MAX = 10_000;

export class Database {
  /** The last transaction whose commit was told. */
  committed = 0;
  private readonly child: ChildProcess;
  private readonly ended: Promise<void>;
  private stopping = false;

  constructor(directory: string) {
    const child = spawn('sqlite3', ['-batch', join(directory, DATABASE_NAME)], {
      stdio: ['pipe', 'pipe', 'ignore'],
      detached: true,
    });
    this.child = child;
    this.ended = new Promise((resolve) => {
      child.once('close', () => resolve());
      child.once('error', () => resolve());
    });
    // What it is told after its end goes nowhere.
    child.stdin?.on('error', () => undefined);
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.committed = Number(text.trim().split('\n').at(-1) ?? this.committed);
      setTimeout(() => this.commitNext(), BETWEEN_MS);
    });
    child.stdin?.write(
      '.bail on\nPRAGMA synchronous=EXTRA;\n' +
        'CREATE TABLE paid (number INTEGER PRIMARY KEY, bytes BLOB);\n',
    );
    this.commitNext();
  }

  get running(): boolean {
    const { exitCode, signalCode } = this.child;
    return exitCode === null && signalCode === null;
  }

  async stop(): Promise<void> {
    this.stopping = true;
    this.child.kill('SIGKILL');
    const late = new Promise<void>((resolve) => setTimeout(resolve, END_MS_MAX).unref());
    await Promise.race([this.ended, late]);
  }

  /** A transaction of its own; its number is told when it is durable. */
  private commitNext(): void {
    if (this.stopping || !this.running) return;
    const number = this.committed + 1;
    this.child.stdin?.write(
      `INSERT INTO paid VALUES (${number}, randomblob(${ROW_BYTES})); SELECT ${number};\n`,
    );
  }
}

/** Transactions of the database in a directory; throws when it is damaged or has a gap. One that was never committed to has no table yet. */
export async function transactionsIn(directory: string): Promise<number> {
  const database = join(directory, DATABASE_NAME);
  const ask = async (sql: string): Promise<string[]> =>
    (await run('sqlite3', ['-batch', database, sql])).stdout.trim().split('\n');
  const begun = "SELECT count(*) FROM sqlite_master WHERE name = 'paid';";
  const [integrity = '', tables = ''] = await ask(`PRAGMA integrity_check; ${begun}`);
  if (integrity !== 'ok') throw new Error(`the database is damaged: ${integrity}`);
  if (tables === '0') return 0;
  const [counted = ''] = await ask('SELECT count(*), ifnull(max(number), 0) FROM paid;');
  const [count, last] = counted.split('|').map(Number);
  if (count !== last || count === undefined) throw new Error(`transactions are gone: ${counted}`);
  return count;
}
