/** A host whose every request is written down, for the judge of scripts/drill/oracle.ts. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { judge, type OracleMode, type Verdict } from '../../../scripts/drill/oracle.ts';
import {
  Command,
  FLAG_FUA,
  readRequestLog,
  RequestLogWriter,
} from '../../../scripts/drill/request-log.ts';
import type { Rig } from './rig.ts';
import type { SparseImage } from './sparse-image.ts';

export class LoggedHost {
  private readonly rig: Rig;
  private readonly log: RequestLogWriter;
  private readonly directory: string;

  constructor(rig: Rig) {
    this.rig = rig;
    this.directory = `${rig.scope.tempDir('bf-log-')}/log`;
    mkdirSync(this.directory);
    rmSync(this.directory, { recursive: true });
    this.log = new RequestLogWriter(this.directory);
    rig.scope.defer('request log', () => this.log.close());
  }

  async write(offset: number, bytes: Buffer, fua = false): Promise<void> {
    this.rig.expected.write(offset, bytes);
    const event = this.issue(Command.WRITE, offset, bytes.length, { payload: bytes, fua });
    this.answered(event, await this.rig.host.write(offset, bytes, { fua }));
  }

  async zero(offset: number, length: number): Promise<void> {
    this.rig.expected.zero(offset, length);
    const event = this.issue(Command.WRITE_ZEROES, offset, length, { payload: null, fua: false });
    this.answered(event, await this.rig.host.zero(offset, length));
  }

  async flush(): Promise<void> {
    const event = this.issue(Command.FLUSH, 0, 0, { payload: null, fua: false });
    this.answered(event, await this.rig.host.flush());
  }

  /** What the judge says of `image` after what was asked and answered so far. */
  judge(image: SparseImage, mode: OracleMode = 'async'): Verdict {
    this.log.commit();
    const { sizeBytes } = this.rig.volume;
    const imagePath = `${this.directory}/image`;
    writeFileSync(imagePath, image.read(0, sizeBytes));
    return judge({ log: readRequestLog(this.directory), imagePath, sizeBytes, mode });
  }

  private issue(
    command: number,
    offset: number,
    length: number,
    { payload, fua }: { payload: Buffer | null; fua: boolean },
  ): number {
    const flags = fua ? FLAG_FUA : 0;
    return this.log.issue({ connection: 1, command, flags, offset, length, payload });
  }

  private answered(event: number, status: number): void {
    this.log.acknowledge(event, status, 1);
  }
}
