/** What became of a volume that changed its role, as a person reads it. Pure. */
import type { FailbackStatus, PromotionStatus } from '../../control/status.ts';
import { formatBytes, oneLine } from './format.ts';

export function renderPromotion({ name, promotion, given_up: lost }: PromotionStatus): string {
  if (lost !== null) {
    return `${oneLine(name)} takes writes again, without its damaged journal
of epochs ${lost.first_epoch} to ${lost.last_epoch} of generation ${lost.generation} it has a part: check what is on it
`;
  }
  if (promotion === null) return `${oneLine(name)} takes writes again, on its own\n`;
  const { position, consistent_at, age_seconds, dropped_epochs, at, kept_as } = promotion;
  const lines = [
    `${oneLine(name)} takes writes, from position ${position.generation}:${position.epoch}, the primary's state of ${consistent_at}, ${age_seconds.toFixed(1)} s old`,
    dropped_epochs === 0
      ? 'nothing is known of the primary that is not here'
      : `dropped: ${dropped_epochs} epochs that the primary had closed and that are not here whole`,
  ];
  if (at !== null) lines.push(`its content is that of @${at}; what it held is @${kept_as ?? ''}`);
  return `${lines.join('\n')}\n`;
}

export function renderFailback({ name, source, failback }: FailbackStatus): string {
  const { kept_as, common, bytes_that_may_differ: bytes, uri } = failback;
  const volume = oneLine(name);
  const node = oneLine(source?.node ?? '');
  const differs =
    common === null
      ? 'where the two parted is not known: add it with --seeded, and everything is compared'
      : `at most ${formatBytes(bytes)} changed here since position ${common.generation}:${common.epoch}`;
  return `${volume} waits for node ${node}; what it held is @${kept_as}; ${differs}
there: blockferry mirror add ${volume} ${uri === null ? `URI-OF-${volume}-HERE` : oneLine(uri)}
`;
}
