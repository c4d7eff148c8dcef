/** Text for people: sizes, times, tables. Pure. */
import { styleText } from 'node:util';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** `1.0 GiB`; bytes below 1 KiB stay whole. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  // 1023.95 would print as 1024.0.
  while (value >= 1023.95 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${Math.round(value)} B` : `${value.toFixed(1)} ${UNITS[unit] ?? ''}`;
}

/** `0.4 s`, `3 min 20 s`, `2 h 5 min`; a dash while unknown. */
export function formatSeconds(seconds: number | null): string {
  if (seconds === null) return '-';
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Columns as wide as their widest cell, two spaces between, nothing at the end of a line. */
export function formatTable(rows: readonly (readonly string[])[], indent = ''): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    }
  }
  return rows
    .map((row) => {
      const cells = row.map((cell, column) => cell.padEnd(widths[column] ?? 0));
      return `${indent}${cells.join('  ').trimEnd()}\n`;
    })
    .join('');
}

/** One line whatever the text holds: control characters become escapes. */
export function oneLine(text: string): string {
  let line = '';
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    const isControl =
      code < 0x20 || (code >= 0x7f && code < 0xa0) || code === 0x2028 || code === 0x2029;
    line += isControl ? `\\u${code.toString(16).padStart(4, '0')}` : character;
  }
  return line;
}

export type Tone = 'good' | 'busy' | 'bad' | 'heading';

const STYLES = { good: 'green', busy: 'yellow', bad: 'red', heading: 'bold' } as const;

/** The text, coloured if the reader can see colour. */
export function paint(text: string, tone: Tone, colour: boolean): string {
  return colour ? styleText(STYLES[tone], text) : text;
}
