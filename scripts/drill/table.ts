/** The drills, in the order in which they are held. */
import { oldBackup, wrongMirror } from './drills/confusion.ts';
import { bothCrash, mirrorCrash, primaryCrash } from './drills/crashes.ts';
import { failback, split } from './drills/failback.ts';
import { fullDiskMirror, fullDiskPrimary, slow } from './drills/disks.ts';
import { linkOutage } from './drills/link-outage.ts';
import { powerCut } from './drills/power-cut.ts';
import { queueOverflow, redundancy } from './drills/queues.ts';
import { switchover } from './drills/switchover.ts';
import { upgrade } from './drills/upgrade.ts';
import { failover, restart } from './failover.ts';
import type { Drill } from './frame.ts';

export const DRILLS: readonly Drill[] = [
  linkOutage,
  queueOverflow,
  redundancy,
  mirrorCrash,
  primaryCrash,
  bothCrash,
  powerCut,
  failover,
  restart,
  switchover,
  failback,
  split,
  fullDiskMirror,
  fullDiskPrimary,
  slow,
  oldBackup,
  wrongMirror,
  upgrade,
];
