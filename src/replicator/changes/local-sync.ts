/** A flush of the volume that no client asked for. */
import type { Clock } from '../../io/clock.ts';
import { DeviceRequest, PENDING, type Completer } from '../../io/device.ts';
import type { Volume } from '../../volume/volume.ts';

class SyncRequest extends DeviceRequest {
  override retain(): void {}
}

/** Makes durable what was applied before this call; `done` gets 0 or an errno, never before this returned. */
export function syncLocally(volume: Volume, clock: Clock, done: (status: number) => void): void {
  const request = new SyncRequest();
  const completer: Completer = { completed: (_, status) => done(status) };
  request.push(completer);
  const status = volume.flush(request);
  if (status === PENDING) return;
  request.pop(completer);
  clock.soon(() => done(status));
}
