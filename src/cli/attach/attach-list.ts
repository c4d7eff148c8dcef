/** What is attached to this machine's kernel, as people and programs read it. Pure. */
import type { AttachRecords } from '../../io/kernel/attach-records.ts';
import type { KernelDevice } from '../../io/kernel/kernel-devices.ts';
import { devicePath } from './attach-plan.ts';
import { formatBytes, formatTable, oneLine } from '../render/format.ts';

export interface AttachedDevice {
  readonly device: string;
  /** Null: attached by another program, which did not tell. */
  readonly uri: string | null;
  readonly size_bytes: number;
  readonly read_only: boolean;
  /** In words: who uses it. */
  readonly users: readonly string[];
}

export function attachedDevices(
  devices: readonly KernelDevice[],
  records: Pick<AttachRecords, 'uriOf'>,
): AttachedDevice[] {
  return devices
    .filter(({ attached }) => attached)
    .map((device) => ({
      device: devicePath(device.index),
      uri: records.uriOf(device),
      size_bytes: device.sizeBytes,
      read_only: device.readOnly,
      users: device.users,
    }));
}

export function renderAttached(devices: readonly AttachedDevice[]): string {
  if (devices.length === 0) return 'nothing is attached; attach with: blockferry attach VOLUME\n';
  const rows = devices.map(({ device, uri, size_bytes: size, read_only: readOnly, users }) => [
    device,
    formatBytes(size),
    readOnly ? 'read-only' : 'read-write',
    users.map(oneLine).join(', ') || '-',
    oneLine(uri ?? '-'),
  ]);
  return formatTable([['DEVICE', 'SIZE', 'ACCESS', 'USED', 'ATTACHED TO'], ...rows]);
}
