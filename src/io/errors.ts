/**
 * The one catalogue of operating errors.
 *
 * Every error that a user, a peer or a script can meet has a stable `code` here, a class that says
 * whose move it is, and one sentence. The sentence of a code says what to do; the message of an
 * instance says what happened and why. Callers match on `code`, never on the text. Programmer errors
 * are not here: those are `node:assert` failures.
 */

/** Who can do something about an error. */
export type FaultClass = 'usage' | 'operator' | 'peer' | 'environment';

interface CatalogueEntry {
  readonly fault: FaultClass;
  /** HTTP status on the control API. */
  readonly status: number;
  /** What the reader should do; ends the line that is printed. */
  readonly remedy: string;
}

const entry = (fault: FaultClass, status: number, remedy: string): CatalogueEntry => ({
  fault,
  status,
  remedy,
});

export const ERROR_CATALOGUE = {
  ADDRESS_IN_USE: entry('operator', 409, 'stop the other process or choose another address'),
  ADDRESS_INVALID: entry('usage', 400, 'use host:port or unix:PATH'),
  ADDRESS_UNAVAILABLE: entry('environment', 500, 'choose an address that this host can listen on'),
  ATTACH_FAILED: entry('environment', 500, 'see what dmesg says'),
  ATTACH_SERVER: entry('peer', 502, 'start the node, and check address, export name and rights'),
  ATTACH_TLS: entry(
    'operator',
    400,
    'name files for TLS: --uri nbds://HOST/VOLUME?tls-certificates=DIR, as docs/operating/clients.md says',
  ),
  ATTACH_TOOL_MISSING: entry(
    'environment',
    501,
    'install it (Debian: apt install nbd-client; Fedora: dnf install nbd), or attach with --persist, which needs none',
  ),
  ATTACH_UNSUPPORTED: entry('environment', 501, 'attach without --persist, or from another system'),
  BUSY: entry('operator', 503, 'try again when the commands under way are done'),
  CHECK_FOUND_FAULTS: entry(
    'environment',
    500,
    'look its code up in docs/operating/check.md; a mirror may have what is lost',
  ),
  CONFIG_INVALID: entry('usage', 400, 'correct the configuration file'),
  CONTAINER_IN_USE: entry('operator', 409, 'name another one, or end its other use'),
  CONTAINER_INSECURE: entry(
    'operator',
    400,
    'use nbds:// and TLS, or start the node with --insecure on a trusted network',
  ),
  CONTAINER_INVALID: entry(
    'usage',
    400,
    'name a block device or file by its absolute path, or an export by its NBD URI',
  ),
  CONTAINER_REMOTE: entry(
    'operator',
    409,
    'keep the volume in the data directory or on a device, or copy what is behind the export by its own means',
  ),
  CONTAINER_TOO_SMALL: entry('operator', 409, 'grow the container first, or give a smaller size'),
  CONTAINER_UNREACHABLE: entry('peer', 502, 'start that server and check address and export name'),
  CONTAINER_UNUSABLE: entry('operator', 400, 'check what it is, and who may write to it'),
  CONTROL_UNREACHABLE: entry('operator', 503, 'start the node, or name its socket with --control'),
  DATA_DIR_FORMAT_NEWER: entry(
    'operator',
    409,
    'use the blockferry version that wrote it, or newer',
  ),
  DATA_DIR_IN_USE: entry('operator', 409, 'stop the other node or give this one its own --data'),
  DATA_DIR_UNUSABLE: entry(
    'environment',
    500,
    'check the path, its permissions and its free space',
  ),
  FILE_EXISTS: entry('operator', 409, 'add --force to replace it, or name another file'),
  FILE_IN_USE: entry('operator', 409, 'wait until the other process is done with it'),
  FILE_UNUSABLE: entry('operator', 400, 'check the path and its permissions'),
  IMAGE_UNUSABLE: entry('operator', 400, 'check the image with qemu-img info, or say its --format'),
  INSECURE_ADDRESS: entry(
    'operator',
    400,
    'require TLS (NBD only), listen on loopback or a unix socket, or add --insecure',
  ),
  HANDOVER_FAILED: entry('operator', 409, 'see why, and try again; writes go on where they were'),
  HANDOVER_IN_DOUBT: entry(
    'operator',
    409,
    'bring the other node back; or, if it is gone for good: blockferry promote VOLUME --force',
  ),
  INTERNAL: entry('environment', 500, 'see the log of the node; this is a bug worth reporting'),
  MIRROR_DIVERGED: entry(
    'operator',
    409,
    'decide whose writes count: remove this mirror, delete and create it anew on the other node, and add it again',
  ),
  MIRROR_EMPTY: entry(
    'operator',
    409,
    'wait for the first delta run to be committed, or delete it and create a volume',
  ),
  MIRROR_EXISTS: entry('operator', 409, 'remove it first, or name another URI'),
  MIRROR_INSECURE: entry(
    'operator',
    400,
    'use nbds:// and TLS, or start the node with --insecure on a trusted network',
  ),
  MIRROR_LIMIT: entry('operator', 409, 'remove a mirror first'),
  MIRROR_NEWER: entry(
    'operator',
    409,
    'stop writing here: the mirror, or the node it follows, was promoted and is the newer copy',
  ),
  MIRROR_NOT_FOUND: entry('operator', 404, 'list the mirrors with: blockferry status VOLUME'),
  MIRROR_READ_ONLY: entry('peer', 409, 'export it writable, or name another export'),
  MIRROR_REFUSED: entry('peer', 502, 'check the export name and the log of the mirror'),
  MIRROR_SELF: entry('usage', 409, 'name an export of another node'),
  MIRROR_SIZE_FIXED: entry(
    'operator',
    409,
    'remove the mirror, resize the volume, create the mirror with the new size, and add it again',
  ),
  MIRROR_STATE: entry('operator', 409, 'see its state with: blockferry status VOLUME'),
  MIRROR_TLS: entry('peer', 502, 'check the certificates or keys of both sides'),
  MIRROR_TOO_SMALL: entry('peer', 409, 'grow the mirror to at least the size of the volume'),
  MIRROR_UNRELATED: entry(
    'operator',
    409,
    'name the mirror of this volume, or delete and create it anew on the other node',
  ),
  MIRROR_UNREACHABLE: entry('peer', 502, 'start the mirror and check address and port'),
  LINK_ENDED: entry('operator', 409, 'none is needed: a link that is wanted is made again'),
  LINK_LOST: entry(
    'peer',
    502,
    'check the network and the other node; it is tried again by itself',
  ),
  JOURNAL_UNUSABLE: entry(
    'environment',
    500,
    'check the disk. A mirror: create it again, and it gets all. A promoted volume: blockferry promote VOLUME --force',
  ),
  LINK_PROTOCOL: entry('peer', 502, 'check that both nodes have the same version of blockferry'),
  METADATA_CORRUPT: entry(
    'environment',
    500,
    'restore the volume from its mirror; nothing was changed',
  ),
  METADATA_WRITE_FAILED: entry(
    'environment',
    507,
    'free space on, or replace, the disk under --data',
  ),
  NBD_DEVICE_BUSY: entry(
    'operator',
    409,
    'name another device or none, or end that use; see: blockferry attach --list',
  ),
  NBD_DEVICE_NOT_ATTACHED: entry(
    'operator',
    404,
    'list what is attached with: blockferry attach --list',
  ),
  NBD_MODULE_MISSING: entry(
    'environment',
    501,
    'load it: modprobe nbd (and at boot: echo nbd > /etc/modules-load.d/nbd.conf)',
  ),
  NODE_NAME_INVALID: entry('usage', 400, 'use 1 to 63 letters, digits, dots and dashes'),
  NOT_ROOT: entry('operator', 403, 'run it as root, for example with sudo'),
  PEER_REFUSED: entry('peer', 409, 'do what the mirror asks for, and see its log'),
  PEER_VERSION: entry('peer', 409, 'run the same version of blockferry on both nodes'),
  PRIMARY_ALIVE: entry(
    'operator',
    409,
    'stop the primary, or do it with --force and accept the loss',
  ),
  PROTOCOL: entry('peer', 502, 'check that the other side speaks NBD and see its log'),
  RANGE_INVALID: entry('usage', 400, 'give whole blocks of 4096 bytes inside the volume'),
  REQUEST_INVALID: entry('usage', 400, 'see blockferry help, or docs/reference'),
  SHUTTING_DOWN: entry('operator', 503, 'try again when the node is up'),
  SIZE_INVALID: entry(
    'usage',
    400,
    'give a size such as 512M, 10G or 1T, a multiple of 4096 bytes',
  ),
  SNAPSHOT_EXISTS: entry('operator', 409, 'choose another name'),
  SNAPSHOT_HAS_CLONES: entry('operator', 409, 'delete the clones first'),
  SNAPSHOT_IN_USE: entry('operator', 409, 'detach its clients first, or add --force'),
  SNAPSHOT_LIMIT: entry('operator', 409, 'delete a snapshot first'),
  SNAPSHOT_NAME_INVALID: entry(
    'usage',
    400,
    'use VOLUME@NAME, NAME with 1 to 255 bytes without /, @ or control characters',
  ),
  SNAPSHOT_NOT_FOUND: entry('operator', 404, 'list them with: blockferry snapshot list VOLUME'),
  SNAPSHOT_TOO_LARGE: entry('operator', 409, 'grow the volume to the size of the snapshot first'),
  SOCKET_INVALID: entry('operator', 500, 'pass a stream socket that listens, as systemd does'),
  SHRINK_NEEDS_FORCE: entry('usage', 409, 'add --force if the data past the new end may be lost'),
  TARGET_NOT_EMPTY: entry('operator', 409, 'add --force to replace what it holds'),
  TARGET_READ_ONLY: entry('operator', 409, 'export it writable, or name another target'),
  TARGET_TOO_SMALL: entry('operator', 409, 'grow the target to at least the size of the source'),
  TLS_INVALID: entry('operator', 400, 'correct the certificate, key or pre-shared key file'),
  TOOL_MISSING: entry('environment', 501, 'install it (Debian: qemu-utils), or use a raw image'),
  TRANSFER_CHANGED: entry('operator', 409, 'add --restart to begin again'),
  TRANSFER_FAILED: entry('environment', 500, 'run the same command again when the cause is gone'),
  TRANSFER_PEER: entry('peer', 502, 'check address and export name, and the log of that server'),
  TRANSFER_STOPPED: entry('operator', 409, 'run the same command again'),
  URI_INVALID: entry(
    'usage',
    400,
    'use nbd[s]://HOST[:PORT]/EXPORT or nbd[s]+unix:///EXPORT?socket=PATH',
  ),
  USAGE: entry('usage', 400, 'see blockferry help'),
  VOLUME_BUSY: entry('operator', 409, 'detach its clients first'),
  VOLUME_EXISTS: entry('operator', 409, 'choose another name'),
  VOLUME_FAILED: entry('environment', 500, 'check the disk, then restart the system'),
  VOLUME_FENCED: entry(
    'operator',
    409,
    'make it the mirror of the newer copy with: blockferry failback VOLUME NODE',
  ),
  VOLUME_HAS_CLONES: entry('operator', 409, 'delete the clones first'),
  VOLUME_HAS_MIRRORS: entry(
    'operator',
    409,
    'remove its mirrors first (to delete it, --force does that)',
  ),
  VOLUME_HAS_SNAPSHOTS: entry('operator', 409, 'delete its snapshots first, or add --force'),
  VOLUME_IS_PRIMARY: entry('operator', 409, 'see its role with: blockferry status VOLUME'),
  VOLUME_IS_SECONDARY: entry(
    'operator',
    409,
    'do that on the node of the primary, or with a clone of a snapshot',
  ),
  VOLUME_LIMIT: entry('operator', 409, 'delete a volume first'),
  VOLUME_NOT_FENCED: entry(
    'operator',
    409,
    'add --force if another node has gone on from it; what it holds is kept as a snapshot',
  ),
  VOLUME_NAME_INVALID: entry('usage', 400, 'use 1 to 255 bytes without /, @ or control characters'),
  VOLUME_NOT_FOUND: entry('operator', 404, 'list the volumes with: blockferry volume list'),
} as const satisfies Record<string, CatalogueEntry>;

export type ErrorCode = keyof typeof ERROR_CATALOGUE;

/** An operating error: `message` says what and why, `remedy` what to do. */
export class BlockferryError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'BlockferryError';
    this.code = code;
  }

  get fault(): FaultClass {
    return ERROR_CATALOGUE[this.code].fault;
  }

  get status(): number {
    return ERROR_CATALOGUE[this.code].status;
  }

  get remedy(): string {
    return ERROR_CATALOGUE[this.code].remedy;
  }

  /** What, why and what to do, on one line. */
  get line(): string {
    return `${this.message}; ${this.remedy} [${this.code}]`;
  }
}

/** The text of anything thrown, for messages and logs. */
export function errorText(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** The positive system errno of a thrown Node error, or EIO (5) when it carries none. */
export function errnoOf(thrown: unknown): number {
  if (thrown instanceof Error && 'errno' in thrown && typeof thrown.errno === 'number') {
    return Math.abs(thrown.errno);
  }
  return 5;
}
