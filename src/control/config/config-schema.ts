/** What may stand in a configuration file, by table. Meaning and defaults are in config.ts and its neighbours. */
import { z } from 'zod';
import {
  CONFIGURED_CLIENTS_MAX,
  CONFIGURED_GRACE_SECONDS_MAX,
  CONFIGURED_DISK_WARN_PERCENT_MAX,
  CONFIGURED_HANDSHAKE_SECONDS_MAX,
  CONFIGURED_IN_FLIGHT_MIB_MAX,
  CONFIGURED_OPTIONS_MAX,
  NBD_LISTENERS_MAX,
} from '../../io/limits.ts';
import { LOG_LEVELS, TLS_MODES } from './defaults.ts';
import { NODE_NAME } from '../node-name.ts';
import type { KeyPath } from './toml-lines.ts';

const path = z.string().min(1, 'must name a file');
const account = z.union([z.string().min(1), z.int().min(0)], {
  error: 'must be a name or a number',
});
const whole = (least: number, most: number): z.ZodInt => z.int().min(least).max(most);

const LISTENER = z.strictObject(
  {
    address: z.string(),
    mode: z
      .string()
      .regex(/^0?[0-7]{3}$/, 'must be three octal digits in quotes, such as "0660"')
      .optional(),
    owner: account.optional(),
    group: account.optional(),
  },
  {
    error: ({ code }) =>
      code === 'invalid_type' ? 'must be a string ADDR, or a table { address = ADDR }' : undefined,
  },
);

const TLS = z.strictObject({
  mode: z.enum(TLS_MODES).optional(),
  certificate: path.optional(),
  key: path.optional(),
  client_ca: path.optional(),
  psk_file: path.optional(),
});

const TLS_CLIENT = z.strictObject({
  ca: path.optional(),
  certificate: path.optional(),
  key: path.optional(),
  psk_file: path.optional(),
});

const LIMITS = z.strictObject({
  connections: whole(1, CONFIGURED_CLIENTS_MAX).optional(),
  connections_per_client: whole(1, CONFIGURED_CLIENTS_MAX).optional(),
  handshakes: whole(1, CONFIGURED_CLIENTS_MAX).optional(),
  handshake_seconds: whole(1, CONFIGURED_HANDSHAKE_SECONDS_MAX).optional(),
  options: whole(1, CONFIGURED_OPTIONS_MAX).optional(),
  in_flight_mib: whole(1, CONFIGURED_IN_FLIGHT_MIB_MAX).optional(),
  in_flight_total_mib: whole(1, CONFIGURED_IN_FLIGHT_MIB_MAX).optional(),
  disk_warn_percent: whole(0, CONFIGURED_DISK_WARN_PERCENT_MAX).optional(),
});

const REPLICATION = z.strictObject({
  staging_memory: z.string().optional(),
  staging_disk: z.string().optional(),
  bandwidth_limit: z.string().optional(),
  address: z.string().optional(),
  grace_seconds: whole(0, CONFIGURED_GRACE_SECONDS_MAX).optional(),
});

/** One `[export."NAME"]`. */
export const EXPORT = z.strictObject({
  read_only: z.boolean().optional(),
  hidden: z.boolean().optional(),
  allow: z.array(z.string()).min(1, 'must name at least one address').optional(),
  tls: z.literal('required', { error: 'must be "required", or absent' }).optional(),
  subjects: z.array(z.string().min(1)).min(1, 'must name at least one client').optional(),
});

export const FILE = z.strictObject({
  name: z.string().regex(NODE_NAME, 'must be 1 to 63 letters, digits, dots, dashes').optional(),
  data: z.string().min(1).optional(),
  nbd: z
    .array(
      z.preprocess((entry) => (typeof entry === 'string' ? { address: entry } : entry), LISTENER),
    )
    .min(1)
    .max(NBD_LISTENERS_MAX)
    .optional(),
  control: z.string().optional(),
  http: z.string().optional(),
  insecure: z.boolean().optional(),
  log_level: z.enum(LOG_LEVELS).optional(),
  list: z.boolean().optional(),
  tls: TLS.optional(),
  tls_client: TLS_CLIENT.optional(),
  limits: LIMITS.optional(),
  replication: REPLICATION.optional(),
  /** By name; each is read by itself, since a name may be any text. */
  export: z
    .custom<Record<string, unknown>>(
      (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
      'must hold tables: [export."NAME"]',
    )
    .optional(),
});

export type FileValues = z.output<typeof FILE>;
export type ListenerValues = z.output<typeof LISTENER>;
export type TlsValues = z.output<typeof TLS>;
export type TlsClientValues = z.output<typeof TLS_CLIENT>;
export type LimitValues = z.output<typeof LIMITS>;
export type ExportValues = z.output<typeof EXPORT>;

const TABLES: Readonly<Record<string, object>> = {
  tls: TLS.shape,
  tls_client: TLS_CLIENT.shape,
  limits: LIMITS.shape,
  replication: REPLICATION.shape,
  export: EXPORT.shape,
  nbd: LISTENER.shape,
};

/** The keys that the table at `path` may have. */
export function knownKeys([first]: KeyPath): readonly string[] {
  return Object.keys(TABLES[String(first)] ?? FILE.shape);
}
