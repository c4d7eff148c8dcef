/**
 * The content of a layer's file against its map, by the extents that the file system tells.
 *
 * Invariants:
 * - Data outside the map counts only when it is not all zeroes: a file system rounds extents up, and a disk that
 *   cannot punch is written with zeroes.
 * - A hole where the map says data is no fault of its own: zeroes may be provisioned, and a hole that was punched just
 *   before a kill is not in the log. Only together with data outside the map it shows that this is another file.
 * - Work is done in bounded pieces, with a turn of the event loop between them, and reads are the pool's.
 */
import type { DiskFile } from '../../io/disk.ts';
import {
  BLOCK_BYTES,
  CHECK_PLACES_MAX,
  CHECK_READ_BYTES,
  CHECK_STEPS_PER_TURN,
} from '../../io/limits.ts';
import { atBlocks, atFile, finding } from './check-finding.ts';
import type { Finding, FindingCode } from './check-finding.ts';
import type { LayerMap } from '../maps/layer-map.ts';

/** What all parts of a check share. */
export interface CheckTools {
  /** Lets others have their turn. */
  turn(): Promise<void>;
  /** CHECK_READ_BYTES to read into. */
  readonly buffer: Buffer;
  /** Bytes of a device that holds a base layer. Throws what tells why it cannot be used. */
  readonly deviceBytes?: ((path: string) => number) | undefined;
}

export interface BlockRange {
  readonly first: number;
  readonly count: number;
}

/** Space of a file above that of its map that is not worth a word. */
const SPACE_SLACK_BYTES = 1024 * 1024;
const SPACE_SLACK_FRACTION = 16;

/** What it means that a file holds data which its map does not know. */
export type OutsideMeaning =
  /** The map lags behind the file: such data is taken up. */
  | 'adopt'
  /** The map is exact, and the layer takes writes with nothing below it: such data would be taken up at the next kill. */
  | 'fault'
  /** Nothing looks at it: a merge, a failed write or a power cut left it. */
  | 'unused'
  /** As `unused`, and a merge that goes on may have left blocks anywhere. */
  | 'merging';

const CODE_OF: Readonly<Record<OutsideMeaning, FindingCode>> = {
  adopt: 'data-to-adopt',
  fault: 'data-outside-map',
  unused: 'unused-data',
  merging: 'unused-data',
};

const TEXT_OF: Readonly<Record<OutsideMeaning, string>> = {
  adopt: 'was written after the last flush, and the next open takes it up',
  fault: 'is not in the map of the layer, which is exact',
  unused: 'is in no map, and nobody sees it: a merge, a failed write or a power cut left it',
  merging: 'was copied by a merge that did not end, and that will be done again',
};

/** Where file and map say something different. */
export async function checkContent(
  file: DiskFile,
  map: LayerMap,
  meaning: OutsideMeaning,
  tools: CheckTools,
): Promise<Finding[]> {
  const places = new Places(CODE_OF[meaning], file.path, TEXT_OF[meaning]);
  let dataBlocks = 0;
  let heldBlocks = 0;
  for (const run of fileRuns(file, map)) {
    if (run === null) {
      await tools.turn();
      continue;
    }
    dataBlocks += run.count;
    if (run.mapped) heldBlocks += run.count;
    else if (meaning === 'adopt') places.add(run);
    else await addWritten(file, run, places, tools);
  }
  const findings = places.findings();
  if (meaning === 'adopt') return findings;
  // What is taken and holds no data was provisioned.
  const taken = file.allocatedNow();
  const provisioned = Math.max(0, taken - dataBlocks * BLOCK_BYTES);
  const missing = (map.data.count - heldBlocks) * BLOCK_BYTES - provisioned;
  if (missing > 0) {
    const isOther = meaning !== 'merging' && places.any;
    findings.push(await missingFinding(file, map, { missing, isOther }, tools));
  }
  return [...findings, ...spaceAbove(file.path, taken, map)];
}

async function missingFinding(
  file: DiskFile,
  map: LayerMap,
  { missing, isOther }: { missing: number; isOther: boolean },
  tools: CheckTools,
): Promise<Finding> {
  const hole = await firstHole(file, map, tools);
  const place = hole === null ? atFile(file.path) : atBlocks(file.path, hole);
  if (isOther) {
    const what = `the file holds data where its map has none, and lacks ${missing} bytes that the map has: it is that of another layer`;
    return finding('layer-file-wrong', place, what);
  }
  const what = `${missing} bytes that the map calls data are holes: trimmed just before a crash, or lost`;
  return finding('data-missing', place, what);
}

function spaceAbove(path: string, taken: number, map: LayerMap): Finding[] {
  const mapped = map.data.count * BLOCK_BYTES;
  const slack = Math.max(SPACE_SLACK_BYTES, mapped / SPACE_SLACK_FRACTION);
  if (taken <= mapped + slack) return [];
  const what = `the map has ${mapped} bytes of data and the file takes ${taken}`;
  return [finding('space-above-map', atFile(path), what)];
}

interface FileRun extends BlockRange {
  /** The map calls these blocks data. */
  readonly mapped: boolean;
}

/** The blocks that are not holes in the file, in runs. Null: only time has passed. */
export function* fileRuns(file: DiskFile, map: LayerMap): Generator<FileRun | null> {
  const sizeBytes = map.blockCount * BLOCK_BYTES;
  let steps = 0;
  let block = 0;
  while (block < map.blockCount) {
    const extent = file.dataAfter(block * BLOCK_BYTES);
    if (extent === null || extent.start >= sizeBytes) return;
    block = Math.floor(extent.start / BLOCK_BYTES);
    const end = Math.ceil(Math.min(extent.end, sizeBytes) / BLOCK_BYTES);
    while (block < end) {
      steps += 1;
      if (steps % CHECK_STEPS_PER_TURN === 0) yield null;
      // The map of a volume in use may have become shorter meanwhile.
      if (end > map.blockCount) return;
      const stop = map.data.runEnd(block, end);
      yield { first: block, count: stop - block, mapped: map.data.has(block) };
      block = stop;
    }
  }
}

/** Adds the blocks of `range` that are not zeroes. */
async function addWritten(
  file: DiskFile,
  range: BlockRange,
  places: Places,
  tools: CheckTools,
): Promise<void> {
  const { buffer } = tools;
  const end = range.first + range.count;
  const pieceBlocks = CHECK_READ_BYTES / BLOCK_BYTES;
  for (let first = range.first; first < end; first += pieceBlocks) {
    const blocks = Math.min(pieceBlocks, end - first);
    const read = await readAt(file, buffer, blocks * BLOCK_BYTES, first * BLOCK_BYTES);
    if (read < 0) {
      places.unreadable({ first, count: blocks }, -read);
      continue;
    }
    for (const run of writtenRuns(buffer.subarray(0, read))) {
      places.add({ first: first + run.first, count: run.count });
    }
  }
}

function readAt(file: DiskFile, buffer: Buffer, length: number, position: number): Promise<number> {
  return new Promise((resolve) => file.read(buffer, 0, length, position, resolve));
}

const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);

/** Runs of blocks of `bytes` that are not all zeroes. */
export function* writtenRuns(bytes: Buffer): Generator<BlockRange> {
  let first = -1;
  let block = 0;
  for (let start = 0; start < bytes.length; start += BLOCK_BYTES, block += 1) {
    const part = bytes.subarray(start, start + BLOCK_BYTES);
    const zero = part.equals(ZERO_BLOCK.subarray(0, part.length));
    if (zero && first >= 0) {
      yield { first, count: block - first };
      first = -1;
    } else if (!zero && first < 0) first = block;
  }
  if (first >= 0) yield { first, count: block - first };
}

/** The first CHECK_PLACES_MAX places of one kind, and how many more there are. */
export class Places {
  private readonly code: FindingCode;
  private readonly file: string;
  private readonly text: string;
  private readonly ranges: BlockRange[] = [];
  private readonly failures: Finding[] = [];
  private more = 0;
  private moreBlocks = 0;

  constructor(code: FindingCode, file: string, text: string) {
    this.code = code;
    this.file = file;
    this.text = text;
  }

  add(range: BlockRange): void {
    const last = this.ranges.at(-1);
    if (last !== undefined && this.more === 0 && last.first + last.count === range.first) {
      this.ranges[this.ranges.length - 1] = {
        first: last.first,
        count: last.count + range.count,
      };
    } else if (this.ranges.length < CHECK_PLACES_MAX) {
      this.ranges.push(range);
    } else {
      this.more += 1;
      this.moreBlocks += range.count;
    }
  }

  get any(): boolean {
    return this.ranges.length > 0;
  }

  unreadable(range: BlockRange, errno: number): void {
    if (this.failures.length >= CHECK_PLACES_MAX) return;
    const what = `it could not be read (errno ${errno})`;
    this.failures.push(finding('unreadable', atBlocks(this.file, range), what));
  }

  findings(): Finding[] {
    const found = this.ranges.map((range, index) => {
      const rest =
        this.more > 0 && index === this.ranges.length - 1
          ? `; and ${this.more} places more (${this.moreBlocks} blocks)`
          : '';
      const what = `data of ${range.count * BLOCK_BYTES} bytes ${this.text}${rest}`;
      return finding(this.code, atBlocks(this.file, range), what);
    });
    return [...found, ...this.failures];
  }
}

/** The first run of blocks that the map calls data and that is a hole of the file. */
async function firstHole(
  file: DiskFile,
  map: LayerMap,
  tools: CheckTools,
): Promise<BlockRange | null> {
  let steps = 0;
  let block = 0;
  while (block < map.blockCount) {
    steps += 1;
    if (steps % CHECK_STEPS_PER_TURN === 0) await tools.turn();
    const run = map.data.nextRun(block, map.blockCount);
    if (run === null) return null;
    const extent = file.dataAfter(run.first * BLOCK_BYTES);
    const end = run.first + run.count;
    const start = extent === null ? end : Math.min(end, Math.floor(extent.start / BLOCK_BYTES));
    if (start > run.first) return { first: run.first, count: start - run.first };
    block = extent === null ? end : Math.max(run.first + 1, Math.floor(extent.end / BLOCK_BYTES));
    // A run may end before the extent does.
    if (block > end) block = end;
  }
  return null;
}
