/** Helpers of the TLS tests: a server whose connections turn to TLS when the client asks, and clients that ask. */
import * as net from 'node:net';
import * as tls from 'node:tls';
import { onTestFinished } from 'vitest';

import { parseAddress } from '../../src/io/address.ts';
import type { Connection, Listener, TlsPeer } from '../../src/io/network.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { loadTlsServerContext, type TlsServerFiles } from '../../src/io/tls/tls.ts';
import { makeCertificates, type Certificates } from '../support/certificates.ts';
import { Recorder, temporaryDirectory, until } from './wire.ts';

/** What a client sends to ask for TLS, and what it hears in clear before it may begin. */
export const ASK = 'STARTTLS';
export const GRANT = 'OK';

export interface SecureEnd {
  readonly connection: Connection;
  readonly heard: Recorder;
  peer: TlsPeer | null;
}

export function certificates(): Certificates {
  return makeCertificates(temporaryDirectory());
}

export function serverFiles(made: Certificates): TlsServerFiles {
  return { certificate: made.certificate, key: made.key };
}

/** The grant is sent as a handshake machine does it: in a cork, right before TLS begins, inside `received`. */
export async function listenTls(
  files: TlsServerFiles,
  address = '127.0.0.1:0',
  secured: (end: SecureEnd) => void = () => {},
): Promise<{ listener: Listener; ends: SecureEnd[] }> {
  const context = loadTlsServerContext(files);
  const ends: SecureEnd[] = [];
  const listener = await nodeNetwork.listen(parseAddress(address), (connection) => {
    const heard = new Recorder();
    const end: SecureEnd = { connection, heard, peer: null };
    ends.push(end);
    heard.onReceived = () => {
      if (heard.text !== ASK) return;
      heard.onReceived = () => {};
      heard.chunks.length = 0;
      heard.receivedBytes = 0;
      connection.cork();
      connection.send(Buffer.from(GRANT), () => {});
      connection.startTls(context, (peer) => {
        end.peer = peer;
        secured(end);
      });
      connection.uncork();
    };
    connection.start(heard);
  });
  onTestFinished(async () => {
    for (const { connection } of ends) connection.destroy();
    await listener.close();
  });
  return { listener, ends };
}

/** Waits until the server knows its client. */
export const peerOf = (ends: readonly SecureEnd[], index = 0): Promise<void> =>
  until(() => (ends[index]?.peer ?? null) !== null, 'the peer');

/** A plain socket that was granted TLS and has not begun it. */
export async function grantedSocket(
  listener: Listener,
  { halfOpen = false } = {},
): Promise<net.Socket> {
  const { address } = listener;
  const target =
    address.kind === 'unix' ? { path: address.path } : { port: address.port, host: address.host };
  const socket = net.connect({ ...target, allowHalfOpen: halfOpen });
  onTestFinished(() => void socket.destroy());
  socket.on('error', () => {});
  let text = '';
  const hear = (chunk: Buffer): void => {
    text += chunk.toString('latin1');
  };
  socket.on('data', hear);
  socket.write(ASK);
  await until(() => text.length >= GRANT.length || socket.closed, 'the grant');
  if (text !== GRANT) throw new Error(`heard ${JSON.stringify(text)} instead of the grant`);
  socket.off('data', hear);
  socket.pause();
  return socket;
}

export interface SecureClient {
  readonly socket: tls.TLSSocket;
  readonly chunks: Buffer[];
  error: NodeJS.ErrnoException | null;
  /** The peer said in good order that it has no more. */
  ended: boolean;
  closed: boolean;
}

/** Begins TLS; `settled` comes when the client finds it secure, or is closed. */
export async function secureClient(
  listener: Listener,
  options: tls.ConnectionOptions,
): Promise<SecureClient> {
  return secureOver(await grantedSocket(listener), options);
}

/** The same on a socket that was granted TLS. What is written to `plain` afterwards goes past TLS. */
export async function secureOver(
  plain: net.Socket,
  options: tls.ConnectionOptions,
): Promise<SecureClient> {
  const socket = tls.connect({ servername: 'localhost', ...options, socket: plain });
  const client: SecureClient = { socket, chunks: [], error: null, ended: false, closed: false };
  socket.on('data', (chunk: Buffer) => client.chunks.push(chunk));
  socket.on('error', (error) => (client.error ??= error));
  socket.on('end', () => (client.ended = true));
  socket.on('close', () => (client.closed = true));
  onTestFinished(() => void socket.destroy());
  let secure = false;
  socket.once('secureConnect', () => (secure = true));
  await until(() => secure || client.closed, 'the handshake');
  return client;
}

/** What a client with a key says; `ciphers` picks the suites of TLS 1.2. */
export function pskOptions(
  user: string,
  key: string,
  more: tls.ConnectionOptions = {},
): tls.ConnectionOptions {
  return {
    pskCallback: () => ({ psk: Buffer.from(key, 'hex'), identity: user }),
    checkServerIdentity: () => undefined,
    ciphers: 'PSK+HIGH:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384',
    ...more,
  };
}
