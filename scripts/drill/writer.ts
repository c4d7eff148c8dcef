/**
 * A host that leaves its place in history in the content, and writes down how long it waited: the same number into every one of
 * many scattered blocks, one write after the other, then a FLUSH, then the next number. So each state that the disk ever had
 * is known by its content (rounds.ts), and what a copy lacks is known to the single write.
 *
 * It is a process of its own: what it measures is not the drill. What it notes is in answers.ts. With several servers it goes on at
 * the next that takes writes when its own cuts it off, and sends again what was not answered; an error that a server answers ends it.
 */
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { type Answer, answersIn, longestWait, readAnswers } from './answers.ts';
import { Child, until } from './process.ts';
import type { RoundsArea } from './rounds.ts';

const PROGRAM = `
import itertools, os, signal, struct, sys, time
import nbd
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
first, blocks, spread, pause_ms = (int(text) for text in sys.argv[2:6])
uris = sys.argv[6:]
several = len(uris) > 1
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
def connect():
    while not ending:
        for uri in uris:
            try:
                h = nbd.NBD()
                h.connect_uri(uri)
                if not several or not h.is_read_only():
                    return h
            except nbd.Error:
                if not several:
                    raise
        time.sleep(0.02)
    sys.exit(0)
def timed(kind, number, work):
    global h
    begin = time.time()
    while True:
        try:
            work()
            break
        except nbd.Error:
            # An error that was answered is one; the loss of the connection is none where there is another server.
            if not several or h.aio_is_ready():
                raise
            h = connect()
    os.write(log, struct.pack('<4d', kind, number, begin * 1000, time.time() * 1000))
try:
    h = connect()
    for number in itertools.count(first):
        content = number.to_bytes(8, 'little') * 512
        for index in range(blocks):
            at = (index * 7 + number) % blocks * spread
            timed(0, (number - 1) * blocks + index + 1, lambda: h.pwrite(content, at))
            if ending:
                sys.exit(0)
            time.sleep(pause_ms / 1000)
        timed(1, number, lambda: h.flush())
except nbd.Error as error:
    print(error, file=sys.stderr)
    sys.exit(3)
`;
const END_MS_MAX = 8_000;
const PROGRESS_MS_MAX = 60_000;

export interface WriterOptions {
  /** Its server, and others where it may go on. */
  readonly uris: readonly [string, ...string[]];
  readonly directory: string;
  readonly area: RoundsArea;
  /** The round that it begins with. */
  readonly first: number;
  /** Between two writes. */
  readonly pauseMs: number;
}

let writers = 0;

export class Writer {
  readonly area: RoundsArea;
  private readonly first: number;
  private readonly logPath: string;
  private readonly child: Child;

  constructor(options: WriterOptions) {
    const { uris, directory, area, first, pauseMs } = options;
    const name = `writer-${++writers}`;
    this.area = area;
    this.first = first;
    this.logPath = join(directory, `${name}.answers`);
    closeSync(openSync(this.logPath, 'a'));
    const numbers = [first, area.blocks, area.spread, pauseMs].map(String);
    const words = ['-B', '-c', PROGRAM, this.logPath, ...numbers, ...uris];
    this.child = new Child('/usr/bin/python3', words, { logPath: join(directory, `${name}.log`) });
  }

  get running(): boolean {
    return this.child.running;
  }

  get answerCount(): number {
    return answersIn(this.logPath);
  }

  /** All answers so far, in their order. */
  answers(): Answer[] {
    return readAnswers(this.logPath);
  }

  /** How many writes the history has that were answered. */
  get writes(): number {
    const last = this.answers().findLast(({ flush }) => !flush);
    return last?.number ?? (this.first - 1) * this.area.blocks;
  }

  /** The same of those that a FLUSH was answered after. */
  get flushedWrites(): number {
    const last = this.answers().findLast(({ flush }) => flush);
    return (last?.number ?? this.first - 1) * this.area.blocks;
  }

  /** The round that a later writer begins with: one that was begun is written again, and becomes the same. */
  get next(): number {
    return Math.floor(this.writes / this.area.blocks) + 1;
  }

  /** The longest that it waited for one answer in a span of time, in milliseconds. */
  longestWaitMs(fromMs: number, toMs?: number): number {
    return longestWait(this.answers(), fromMs, toMs);
  }

  /** What of the answered writes a copy lacks that holds the first `shown` ones, and the time that they span until `atMs`. */
  lost(shown: number, atMs: number): { writes: number; spanMs: number } {
    const lost = this.answers().filter(({ flush, number }) => !flush && number > shown);
    const [first] = lost;
    return { writes: lost.length, spanMs: first === undefined ? 0 : atMs - first.endMs };
  }

  /** Waits until so many more answers have come. */
  async progress(more: number, signal: AbortSignal, timeoutMs = PROGRESS_MS_MAX): Promise<void> {
    const goal = this.answerCount + more;
    const what = `${more} more answers to the writer`;
    await until({ what, timeoutMs, everyMs: 5, signal }, () => {
      return this.answerCount >= goal || !this.running;
    });
    if (this.answerCount < goal) throw new Error(`the writer ended: ${this.child.tail()}`);
  }

  /** Ends it after the answer that it waits for; one that does not come is not waited for. */
  async stop(): Promise<void> {
    this.child.signal('SIGTERM');
    if (!(await this.child.waitForExit(END_MS_MAX))) await this.child.kill();
  }

  /** Waits until it has noticed that its server is gone. */
  async ended(): Promise<void> {
    if (await this.child.waitForExit(END_MS_MAX)) return;
    throw new Error(`the writer did not notice the end of its server: ${this.child.tail()}`);
  }
}
