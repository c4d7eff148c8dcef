/** Helpers of the socket tests: a recorder for what a connection hears, temporary paths, waiting. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

import type { Connection, ConnectionHandler, Listener } from '../../src/io/network.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { parseAddress } from '../../src/io/address.ts';

export class Recorder implements ConnectionHandler {
  readonly events: string[] = [];
  readonly chunks: Buffer[] = [];
  receivedBytes = 0;
  error: Error | null = null;
  onReceived: (buffer: Buffer, length: number) => void = () => {};

  received(buffer: Buffer, length: number): void {
    this.receivedBytes += length;
    this.chunks.push(Buffer.from(buffer.subarray(0, length)));
    this.onReceived(buffer, length);
  }
  drained(): void {
    this.events.push('drained');
  }
  ended(): void {
    this.events.push('ended');
  }
  closed(error: Error | null): void {
    this.error = error;
    this.events.push('closed');
  }
  get text(): string {
    return Buffer.concat(this.chunks).toString();
  }
  count(event: string): number {
    return this.events.filter((each) => each === event).length;
  }
}

export function temporaryDirectory(parent = tmpdir()): string {
  const path = mkdtempSync(join(parent, 'blockferry-io-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A listener that hands each accepted connection, started with a recorder, to the test. */
export async function listenRecording(
  address = '127.0.0.1:0',
  prepare: (connection: Connection, recorder: Recorder) => void = () => {},
): Promise<{ listener: Listener; accepted: { connection: Connection; heard: Recorder }[] }> {
  const accepted: { connection: Connection; heard: Recorder }[] = [];
  const listener = await nodeNetwork.listen(parseAddress(address), (connection) => {
    const heard = new Recorder();
    accepted.push({ connection, heard });
    prepare(connection, heard);
    connection.start(heard);
  });
  onTestFinished(async () => {
    for (const { connection } of accepted) connection.destroy();
    await listener.close();
  });
  return { listener, accepted };
}

export async function connectRecording(
  listener: Listener,
): Promise<{ connection: Connection; heard: Recorder }> {
  const connection = await nodeNetwork.connect(listener.address, 2000);
  const heard = new Recorder();
  connection.start(heard);
  onTestFinished(() => connection.destroy());
  return { connection, heard };
}

export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export const pauseFor = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

export function sendAll(connection: Connection, buffer: Buffer): Promise<void> {
  return new Promise((resolve) => connection.send(buffer, resolve));
}
