/**
 * Certificates and pre-shared keys for tests, made by `openssl`. The names of the files are those that GnuTLS
 * programs look for in a directory (nbdkit `--tls-certificates`, libnbd `tls-certificates=`, qemu `dir=`), so
 * a directory made here can be handed to any of them, as server or as client.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Certificates {
  /** Holds everything: CA, server and client (CN=host1). */
  readonly directory: string;
  /** Holds the CA alone, for a client that shows no certificate. */
  readonly anonymous: string;
  readonly ca: string;
  /** For localhost, 127.0.0.1 and ::1. */
  readonly certificate: string;
  readonly key: string;
  readonly clientCertificate: string;
  readonly clientKey: string;
}

export interface Issued {
  readonly certificate: string;
  readonly key: string;
}

export interface Issue {
  /** As `openssl -subj` takes it, most general part first: `/O=x/CN=host1`. */
  readonly subject: string;
  readonly use: 'server' | 'client';
  /** `YYMMDDHHMMSSZ`, for certificates out of their time. */
  readonly from?: string;
  readonly until?: string;
  /** More arguments of `openssl req`. */
  readonly request?: readonly string[];
}

const CONFIG = `[req]
distinguished_name = none
[none]
[ca]
default_ca = here
[here]
database = index.txt
rand_serial = yes
unique_subject = no
new_certs_dir = issued
default_md = sha256
default_days = 2
policy = anything
preserve = yes
[anything]
countryName = optional
stateOrProvinceName = optional
localityName = optional
organizationName = optional
organizationalUnitName = optional
commonName = optional
emailAddress = optional
userId = optional
domainComponent = optional
[for_server]
extendedKeyUsage = serverAuth
keyUsage = digitalSignature
subjectAltName = DNS:localhost,IP:127.0.0.1,IP:::1
[for_client]
extendedKeyUsage = clientAuth
keyUsage = digitalSignature
`;

const EC_KEY = '-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes';
const CA_KEY_USE = 'basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign';

/** Fills `directory`, which is made if it is not there. Everything is valid for two days. */
export function makeCertificates(directory: string): Certificates {
  makeCa(directory, 'blockferry test CA');
  const server = issue(directory, 'server', { subject: '/CN=localhost', use: 'server' });
  const client = issue(directory, 'client', { subject: '/CN=host1', use: 'client' });
  const anonymous = join(directory, 'anonymous');
  mkdirSync(anonymous);
  copyFileSync(join(directory, 'ca-cert.pem'), join(anonymous, 'ca-cert.pem'));
  return {
    directory,
    anonymous,
    ca: join(directory, 'ca-cert.pem'),
    certificate: server.certificate,
    key: server.key,
    clientCertificate: client.certificate,
    clientKey: client.key,
  };
}

/** Makes `directory` with `ca-cert.pem` and `ca-key.pem`, able to `issue`. */
export function makeCa(directory: string, name: string): string {
  mkdirSync(join(directory, 'issued'), { recursive: true });
  writeFileSync(join(directory, 'openssl.cnf'), CONFIG);
  writeFileSync(join(directory, 'index.txt'), '');
  const command = `req -x509 -config openssl.cnf ${EC_KEY} -days 2 -addext ${CA_KEY_USE}`;
  openssl(directory, `${command} -keyout ca-key.pem -out ca-cert.pem`, ['-subj', `/CN=${name}`]);
  return join(directory, 'ca-cert.pem');
}

/** A certificate of the CA in `directory`, as `NAME-cert.pem` and `NAME-key.pem` there. */
export function issue(directory: string, name: string, wanted: Issue): Issued {
  const [certificate, key, request] = [`${name}-cert.pem`, `${name}-key.pem`, `${name}.csr`];
  openssl(
    directory,
    `req -new -config openssl.cnf ${EC_KEY} -utf8 -keyout ${key} -out ${request}`,
    ['-subj', wanted.subject, ...(wanted.request ?? [])],
  );
  const from = wanted.from === undefined ? '' : ` -startdate ${wanted.from}`;
  const until = wanted.until === undefined ? '' : ` -enddate ${wanted.until}`;
  const command = 'ca -batch -config openssl.cnf -notext -preserveDN -utf8';
  const signer = `-extensions for_${wanted.use} -cert ca-cert.pem -keyfile ca-key.pem`;
  openssl(directory, `${command} ${signer} -in ${request} -out ${certificate}${from}${until}`);
  rmSync(join(directory, request));
  return { certificate: join(directory, certificate), key: join(directory, key) };
}

/** A file of pre-shared keys as `psktool` writes it; the keys are hexadecimal. Gives back its path. */
export function makePskFile(path: string, keys: Readonly<Record<string, string>>): string {
  const lines = Object.entries(keys).map(([user, key]) => `${user}:${key}\n`);
  writeFileSync(path, lines.join(''), { mode: 0o600 });
  return path;
}

/** `command` is cut at its spaces; what may hold spaces goes into `more`. */
function openssl(directory: string, command: string, more: readonly string[] = []): void {
  const args = [...command.split(' '), ...more];
  try {
    execFileSync('openssl', args, { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    const { stderr } = error as { stderr?: Buffer };
    const why = stderr?.toString() ?? String(error);
    throw new Error(`openssl ${command}: ${why}`, { cause: error });
  }
}
