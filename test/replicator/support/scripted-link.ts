/** A link whose far end is the test: keeps what was sent, takes it when told to, and answers what the test says. */
import type { BlockferryError } from '../../../src/io/errors.ts';
import type { FrameHeader, Link, LinkHandler } from '../../../src/replicator/link/link-types.ts';
import type { ControlMessage } from '../../../src/replicator/link/messages.ts';

export interface SentFrame {
  readonly header: FrameHeader;
  /** What was to be sent, as it was when it was given to the link. */
  readonly copy: Buffer;
}

interface Queued {
  readonly frame: SentFrame;
  readonly chunks: readonly Buffer[];
  readonly sent: (() => void) | undefined;
}

export class ScriptedLink implements Link {
  open = true;
  readonly peer = 'the mirror';
  backlogBytes = 0;
  bytesSent = 0;
  readonly bytesReceived = 0;
  readonly frames: SentFrame[] = [];
  readonly controls: ControlMessage[] = [];
  heartbeatEpoch = 0;
  destroyedBy: BlockferryError | null = null;
  /** Whether the system takes everything at once. */
  flowing = true;
  /** Sees the memory that is sent. */
  onSend: ((chunk: Buffer) => void) | null = null;
  private queued: Queued[] = [];

  start(_handler: LinkHandler): void {}

  send(header: FrameHeader, payload: readonly Buffer[] = [], sent?: () => void): void {
    const copy = Buffer.concat(payload);
    const frame = { header: { ...header }, copy };
    if (!this.open) {
      sent?.();
      return;
    }
    for (const chunk of payload) this.onSend?.(chunk);
    this.frames.push(frame);
    this.backlogBytes += copy.length;
    this.queued.push({ frame, chunks: payload, sent });
    if (this.flowing) this.flow();
  }

  /** The system takes what waits. What it takes must be what was given. */
  flow(): void {
    for (const { frame, chunks, sent } of this.queued.splice(0)) {
      if (!Buffer.concat(chunks).equals(frame.copy)) throw new Error('bytes changed on their way');
      this.backlogBytes -= frame.copy.length;
      this.bytesSent += frame.copy.length;
      sent?.();
    }
  }

  /** The connection is gone: nothing that waits is sent, and its memory is free. */
  break(): void {
    this.open = false;
    this.backlogBytes = 0;
    for (const { sent } of this.queued.splice(0)) sent?.();
  }

  sendControl(message: ControlMessage): void {
    this.controls.push(message);
  }

  setHeartbeat(positions: { epoch: number; index: number; aux: number }): void {
    this.heartbeatEpoch = positions.epoch;
  }

  end(_reason: string): void {
    this.break();
  }

  destroy(error: BlockferryError): void {
    this.destroyedBy ??= error;
    this.break();
  }
}
