/** fio against an NBD export: its own client (libnbd), its own checksums. */
import { run } from './process.ts';

export interface FioJob {
  readonly uri: string;
  readonly name: string;
  /** fio's own words, without dashes: `rw=randread`. */
  readonly options: readonly string[];
  readonly timeoutMs: number;
}

interface FioDirection {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
  readonly lat_ns: { readonly max: number };
}

export interface FioResult {
  readonly read: FioDirection;
  readonly write: FioDirection;
}

/** Runs one job; throws when fio reports any error, a checksum that does not match included. */
export async function fio(job: FioJob): Promise<FioResult> {
  const { stdout } = await run(
    'fio',
    [
      `--name=${job.name}`,
      '--ioengine=nbd',
      `--uri=${job.uri}`,
      '--thread=1',
      '--group_reporting=1',
      '--verify_state_save=0', // it would leave files in the working directory
      '--output-format=json',
      ...job.options.map((option) => `--${option}`),
    ],
    { timeoutMs: job.timeoutMs },
  );
  const report = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    jobs: (FioResult & { error: number })[];
  };
  const [result] = report.jobs;
  if (result === undefined || result.error !== 0) throw new Error(`fio failed:\n${stdout}`);
  return result;
}
