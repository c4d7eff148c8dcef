/** The names that clients attach by: of a volume, or of a snapshot as `volume@snapshot`. Pure. */

export interface ExportNameParts {
  readonly volume: string;
  /** Null: the volume itself. */
  readonly snapshot: string | null;
}

/** Neither part can hold an @. */
export function splitExportName(name: string): ExportNameParts {
  const at = name.indexOf('@');
  if (at < 0) return { volume: name, snapshot: null };
  return { volume: name.slice(0, at), snapshot: name.slice(at + 1) };
}

export function exportName(volume: string, snapshot: string): string {
  return `${volume}@${snapshot}`;
}
