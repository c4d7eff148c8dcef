/** What happened when, for a person: seconds since the start of the round, and what. */
export interface TimelineEntry {
  readonly atSeconds: number;
  readonly text: string;
}

export class Timeline {
  readonly entries: TimelineEntry[] = [];
  private readonly startMs = performance.now();
  private readonly print: (line: string) => void;

  constructor(print: (line: string) => void) {
    this.print = print;
  }

  get elapsedMs(): number {
    return performance.now() - this.startMs;
  }

  note(text: string): void {
    const seconds = (this.elapsedMs / 1000).toFixed(2);
    this.entries.push({ atSeconds: Number(seconds), text });
    this.print(`${seconds.padStart(7)} s  ${text}`);
  }
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB'];

export function sizeText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit] ?? 'B'}`;
}

export function countText(count: number): string {
  return count.toLocaleString('en-US');
}
