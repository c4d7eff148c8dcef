/** How each client is told of certificates and keys: as URIs of libnbd and as objects of QEMU. */
import type { QemuTarget } from './qemu-io.ts';

export interface TlsTarget {
  /** `HOST:PORT` that the certificate names. */
  readonly address: string;
  readonly export: string;
}

/** For libnbd's tools: `directory` holds ca-cert.pem and, to show one, client-cert.pem and client-key.pem. */
export function x509Uri(target: TlsTarget, directory: string): string {
  const name = encodeURIComponent(target.export);
  return `nbds://${target.address}/${name}?tls-certificates=${directory}`;
}

export function pskUri(target: TlsTarget, user: string, pskFile: string): string {
  const name = encodeURIComponent(target.export);
  return `nbds://${user}@${target.address}/${name}?tls-psk-file=${pskFile}`;
}

/** `credentials`: properties of the object, `tls-creds-x509,dir=...`. */
function qemuTarget(target: TlsTarget, credentials: string): QemuTarget {
  const colon = target.address.lastIndexOf(':');
  const [host, port] = [target.address.slice(0, colon), target.address.slice(colon + 1)];
  return {
    objects: [`${credentials},id=tls0,endpoint=client`],
    options: `driver=nbd,host=${host},port=${port},export=${target.export},tls-creds=tls0`,
  };
}

/** As `x509Uri`. `priority` is GnuTLS's, to offer certain versions only. */
export function x509Qemu(target: TlsTarget, directory: string, priority?: string): QemuTarget {
  const more = priority === undefined ? '' : `,priority=${priority}`;
  return qemuTarget(target, `tls-creds-x509,dir=${directory},verify-peer=yes${more}`);
}

/** `directory` holds keys.psk. */
export function pskQemu(
  target: TlsTarget,
  user: string,
  directory: string,
  priority?: string,
): QemuTarget {
  const more = priority === undefined ? '' : `,priority=${priority}`;
  return qemuTarget(target, `tls-creds-psk,dir=${directory},username=${user}${more}`);
}
